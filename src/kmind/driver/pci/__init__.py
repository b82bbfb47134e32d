# SPDX-License-Identifier: Apache-2.0
"""PCI functions in user space: taken from the kernel's driver and given back, by vfio-pci."""
