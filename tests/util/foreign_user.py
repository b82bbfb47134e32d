# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of scratch and its neighbours."""

from __future__ import annotations

import os

import pytest

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
MIB = 1 << 20
