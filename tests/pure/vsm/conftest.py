# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the VSM tests."""

from tests.pure.hv.conftest import announce

__all__ = ["announce"]
