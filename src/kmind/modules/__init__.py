# SPDX-License-Identifier: Apache-2.0
"""The modules that kmind ships, each built as a third party's would be."""
