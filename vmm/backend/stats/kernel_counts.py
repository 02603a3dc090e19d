# SPDX-License-Identifier: Apache-2.0
"""What KVM counts of a vCPU (KVM_GET_STATS_FD, api.rst 4.133): sleep in HLT, interrupts.

KVM does not count interrupts that the processor delivers without it (APICv, AVIC).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from kvmapi import KvmUnsupportedError, Vcpu
from kvmapi.stats import Stats

_HALTED: Final = ("halt_wait_ns", "halt_poll_success_ns", "halt_poll_fail_ns")
_INTERRUPTS: Final = "irq_injections"
_NMIS: Final = "nmi_injections"


class Counted(Protocol):
    """`kvmapi.stats.Stats`, as far as it is asked here."""

    def read(self) -> Mapping[str, tuple[int, ...]]:
        """Values by name. Errors: `KvmError`."""


class KernelCounts(NamedTuple):
    """halted_ns: waiting in HLT inside KVM_RUN. None: this KVM does not tell."""

    halted_ns: int | None
    interrupts: int | None
    nmis: int | None

    def plus(self, other: KernelCounts) -> KernelCounts:
        """The sum; what one does not know, the sum does not."""
        return KernelCounts(
            *(None if a is None or b is None else a + b for a, b in zip(self, other, strict=True))
        )


NOTHING: Final = KernelCounts(0, 0, 0)
UNKNOWN: Final = KernelCounts(None, None, None)


def open_stats(vcpu: Vcpu) -> Stats | None:
    """The vCPU's statistics, None where this KVM keeps none. They are closed with the vCPU. Errors: `KvmError`."""
    try:
        return vcpu.stats()
    except KvmUnsupportedError:
        return None


def read(stats: Counted | None) -> KernelCounts:
    """The counts now. Errors: `KvmError`."""
    if stats is None:
        return UNKNOWN
    values = stats.read()
    halted = [values[name][0] for name in _HALTED if name in values]
    return KernelCounts(
        sum(halted) if len(halted) == len(_HALTED) else None,
        values[_INTERRUPTS][0] if _INTERRUPTS in values else None,
        values[_NMIS][0] if _NMIS in values else None,
    )
