# SPDX-License-Identifier: Apache-2.0
"""Instances: an agent, an extension's process and the actuator, put together."""
