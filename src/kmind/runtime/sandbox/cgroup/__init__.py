# SPDX-License-Identifier: Apache-2.0
"""The cgroup of an extension: found, made, limited, and read."""
