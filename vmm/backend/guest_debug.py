# SPDX-License-Identifier: Apache-2.0
"""Stopping a guest by KVM_SET_GUEST_DEBUG (api.rst 4.87): what a control word, DR7 and KVM_EXIT_DEBUG hold."""

from __future__ import annotations

from typing import Final

from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86

STEP: Final = k.KVM_GUESTDBG_ENABLE | k.KVM_GUESTDBG_SINGLESTEP | x86.KVM_GUESTDBG_BLOCKIRQ
"""One instruction, without an interrupt behind it."""
BREAK: Final = k.KVM_GUESTDBG_ENABLE | x86.KVM_GUESTDBG_USE_HW_BP
"""At the breakpoints of `debugreg`."""
DR6_U64: Final = (32 + 16) // 8
"""Index of `debug.arch.dr6` in `Vcpu.run.u64`."""


def break_at(address: int) -> list[int]:
    """`debugreg` with one breakpoint, for execution at a linear address: DR0, and its bits of DR7."""
    return [address & (1 << 64) - 1, 0, 0, 0, 0, 0, 0, 0x402]
