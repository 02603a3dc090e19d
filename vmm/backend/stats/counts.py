# SPDX-License-Identifier: Apache-2.0
"""The counters. Each belongs to one VP's thread, which alone adds to it; any thread may read.

Who adds: `counting` (KVM_RUN), the VTL scheduler (`VpCounts.switched`, `vina`), and whoever handles an intercept
(`VpCounts.intercepted`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import perf_counter_ns

from kvmapi import Vcpu
from kvmapi.stats import Stats
from vmm.backend.stats import kernel_counts
from vmm.backend.stats.counting import RunCounts, counted
from vmm.backend.stats.kernel_counts import NOTHING, KernelCounts
from vmm.vsm.actions import SwitchVtl


class VtlCounts:
    """One VTL of one VP, over all vCPUs that it has had: a reset may make it anew."""

    def __init__(self) -> None:
        self.run = RunCounts()
        self.intercepts: dict[str, int] = {}
        self._lock = threading.Lock()  # of what follows: vCPUs are closed while others look on
        self._gone: KernelCounts = NOTHING
        self._stats: list[Stats | None] = []

    def watch(self, vcpu: Vcpu) -> None:
        """Count its KVM_RUNs. It does not run yet. Errors: `KvmError`."""
        with self._lock:
            self._stats.append(kernel_counts.open_stats(vcpu))
        vcpu.run_call = counted(vcpu.run_call, vcpu.run.u32, self.run)

    def settle(self) -> None:
        """Its vCPUs are about to be closed. Errors: `KvmError`."""
        with self._lock:
            self._gone = self._sum()
            self._stats.clear()

    def kernel(self) -> KernelCounts:
        """What KVM has counted so far. Errors: `KvmError`."""
        with self._lock:
            return self._sum()

    def _sum(self) -> KernelCounts:
        total = self._gone
        for stats in self._stats:
            total = total.plus(kernel_counts.read(stats))
        return total


class VpCounts:
    """One VP. switches: by VTL that stopped, VTL that ran on, and cause. vinas: VINA interrupts raised."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.vtls: dict[int, VtlCounts] = {}
        self.switches: dict[tuple[int, int, str], int] = {}
        self.vinas = 0

    def vtl(self, vtl: int) -> VtlCounts:
        """Of a VTL, which it may not have had before."""
        found = self.vtls.get(vtl)
        if found is None:
            found = VtlCounts()
            self.vtls = {**self.vtls, vtl: found}  # readers go through it
        return found

    def switched(self, switch: SwitchVtl) -> None:
        """A VTL switch was carried out. On the VP's thread."""
        key = switch.source, switch.target, switch.reason.value
        self.switches[key] = self.switches.get(key, 0) + 1

    def vina(self) -> None:
        """VINA was raised. On the VP's thread."""
        self.vinas += 1

    def intercepted(self, vtl: int, cause: str) -> None:
        """Something that `vtl` did was intercepted, because of `cause` (`MachineCounts.expect_intercepts`).

        On the VP's thread.
        """
        intercepts = self.vtl(vtl).intercepts
        intercepts[cause] = intercepts.get(cause, 0) + 1


class MachineCounts:
    """All VPs of a machine. Made before it; `watch` each vCPU as it is made."""

    def __init__(self, vps: int) -> None:
        self.vps = [VpCounts(index) for index in range(vps)]
        self.begun_ns: int | None = None
        """When the guest began to run, by `perf_counter_ns`."""
        self.intercept_causes: tuple[str, ...] | None = None
        """What may be intercepted in this machine; None: nobody counts that."""

    def begin(self) -> None:
        """The guest is about to run: time counts from here."""
        self.begun_ns = perf_counter_ns()

    def watch(self, vp: int, vtl: int, vcpu: Vcpu) -> None:
        """Count what this vCPU does. It does not run yet. Errors: `KvmError`."""
        self.vps[vp].vtl(vtl).watch(vcpu)

    def expect_intercepts(self, causes: Iterable[str]) -> None:
        """Intercepts are counted from now on, for these causes; those that have not happened are zeros then."""
        self.intercept_causes = (*(self.intercept_causes or ()), *causes)

    def settle(self, above: int) -> None:
        """All VPs are frozen; the vCPUs of VTLs above `above` are about to be closed. Errors: `KvmError`."""
        for vp in self.vps:
            for number, vtl in vp.vtls.items():
                if number > above:
                    vtl.settle()
