# SPDX-License-Identifier: Apache-2.0
"""For those who test modules: contract checks, a simulated disk, loads on a real one."""

from kmind.testing.contract import CHECKS, Check, ContractError, check_module

__all__ = ["CHECKS", "Check", "ContractError", "check_module"]
