# SPDX-License-Identifier: Apache-2.0
"""The FUSE protocol, spoken directly over /dev/fuse, without libfuse and without a mount point."""
