# SPDX-License-Identifier: Apache-2.0
"""Calls that a host may not have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmapi import Kvm, KvmUnsupportedError


def offered_or_reported(kvm: Kvm, cap: int, call: Callable[[], object]) -> None:
    """`call` works exactly when the host has `cap`; otherwise it raises KvmUnsupportedError with its cause."""
    if kvm.check_extension(cap):
        call()
        return
    with pytest.raises(KvmUnsupportedError) as caught:
        call()
    assert caught.value.hint
