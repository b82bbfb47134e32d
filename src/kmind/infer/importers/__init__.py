# SPDX-License-Identifier: Apache-2.0
"""Importers: float models from the files and objects of other libraries."""
