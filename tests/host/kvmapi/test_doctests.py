# SPDX-License-Identifier: Apache-2.0
"""The examples in the documentation run."""

from __future__ import annotations

import doctest
import importlib

import pytest

pytestmark = pytest.mark.host


@pytest.mark.parametrize("module", ["kvmapi", "kvmapi.system", "kvmapi.vm", "kvmapi.vcpu", "kvmapi.fake"])
def test_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))

    assert result.failed == 0
    assert result.attempted >= 2
