# SPDX-License-Identifier: Apache-2.0
"""How a VP hears of interrupts of which no exit tells, for VTLs that do not run. Two ways, chosen from the host.

| from | to | looked for |
|---|---|---|
| a VTL above 0, by IPI | the same VTL of another VP, which runs a lower one | while some VP runs such a VTL |
| anything | a VTL below the one that runs, if that has VINA enabled | while it runs |

The VMM makes or times everything else itself: timers, messages, IPIs by hypercall.

| KVM | way | how late |
|---|---|---|
| has KVM_X86_VSM_INACTIVE_VTL and KVM_X86_VSM_ANY_THREAD | `KernelWait`: a thread in KVM_RUN | two changes of threads |
| any other | `IpiWatch`: a look at the local APICs | `TICK_NS` at most |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from kvmapi import Vcpu
from kvmapi.uapi.vsm import KVM_X86_VSM_ANY_THREAD, KVM_X86_VSM_INACTIVE_VTL
from kvmapi.vsm_support import VsmSupport

TICK_NS: Final = 1_000_000
"""How late such an interrupt may be. A look costs its VP an exit and two ioctls for each VTL."""
NEEDED_FEATURES: Final = KVM_X86_VSM_INACTIVE_VTL | KVM_X86_VSM_ANY_THREAD

Kick = Callable[[], None]


class WatchedVtl(Protocol):
    """`vmm.vsm.vtl.VpVtl`, as far as it is looked at here."""

    @property
    def vina_enabled(self) -> bool:
        """Whether it wants to hear of interrupts for lower VTLs."""


class WatchedVp(Protocol):
    """`vmm.vsm.vp.VsmVp`, as far as it is looked at here."""

    @property
    def index(self) -> int:
        """Its VP index."""

    @property
    def enabled(self) -> int:
        """Bit N: it has VTL N."""

    @property
    def vtls(self) -> Mapping[int, WatchedVtl]:
        """By number."""


class VtlWaits(Protocol):
    """A machine's. What says so is for the VP's thread alone."""

    def runs(self, vp: int, vtl: int) -> None:
        """The VP's: it runs `vtl` from now on, or has changed its VINA."""

    def post(self, vp: int, vcpus: dict[int, Vcpu]) -> None:
        """The VP's: it has looked, and enters the guest next; vcpus: those of VTLs above the one that runs."""

    def recall(self, vp: int) -> int:
        """The VP's: it is about to use vCPUs of VTLs that do not run. Bit N: VTL N has an event. Errors: `KvmError`."""

    def false_alarm(self, vp: int, vtls: int) -> None:
        """The VP's: these have had an event, but nothing for which they run."""

    def forget(self, vp: int) -> None:
        """VTLs above 0 of the VP, which is frozen, are about to go."""

    def reset(self) -> None:
        """All VPs are frozen and run VTL0."""

    def close(self) -> None:
        """No VP runs any more. Idempotent."""


def in_kernel(support: VsmSupport) -> bool:
    """Whether a host with this KVM waits in the kernel."""
    return support.features & NEEDED_FEATURES == NEEDED_FEATURES
