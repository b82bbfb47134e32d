# SPDX-License-Identifier: Apache-2.0
"""The daemon: its API on a unix socket, the event stream, and the service manager's protocol."""
