# SPDX-License-Identifier: Apache-2.0
"""`WatchedAccesses`: the accesses to ports and MSRs that leave the guest since a higher VTL wants to be told of them.

What is wanted is in the table of intercepts (`vmm.vsm.intercept_table`); here it comes into force: ports in the way
that each VP's exits are looked up (`port_exits`), MSRs in the filter of each VTL's KVM VM (`msr_exits`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from kvmapi import KvmError, Vm
from vmm.backend.hyperv.caller import Caller
from vmm.backend.hyperv.errands import Errands
from vmm.backend.vsm import msr_exits
from vmm.backend.vsm.msr_exits import MsrExits
from vmm.backend.vsm.scheduler import VpScheduler
from vmm.hv.status import HvStatus
from vmm.vsm.intercept_messages import MsrAccess
from vmm.vsm.intercept_table import InterceptTable


class WatchedAccesses:
    """A machine's. Thread-safe, but for `reset`, for which all VPs are frozen."""

    def __init__(
        self,
        table: InterceptTable,
        errands: Errands,
        maximum_vtl: int,
        watch_ports: Callable[[bytes | None], None],
    ) -> None:
        """watch_ports: told of those of VTL0 that leave the guest (`KvmIoEventFds.watch`)."""
        self._table = table
        self._watch_ports = watch_ports
        self._errands = errands
        self._maximum_vtl = maximum_vtl
        self._lock = threading.Lock()
        self._msr_exits: dict[Caller, MsrExits] = {}
        self._ports_wanted: list[bytes | None] = []
        self._ports_told: dict[int, set[int]] = {}
        """VP that is changing intercepted ports -> the VPs that know of `_ports_wanted`."""

    def adopt(self, caller: Caller, tell: Callable[[int, MsrAccess], None]) -> None:
        """A VTL of a VP, whose MSR exits go to `tell` from now on where somebody wants them (`MsrExits`)."""
        exits = MsrExits(caller.vp, caller.vtl, caller.vcpu, self._table, tell)
        self._msr_exits[caller] = exits
        caller.msr_hook = exits.hook if exits.wanted() else None

    def filter_msrs(self, vm: Vm, vtl: int) -> bool:
        """Have the new VM of `vtl` hand over what is wanted. False: KVM cannot. Errors: `KvmError`."""
        wanted = self._table.msr_accesses(vtl) or self._table.unknown_msr_accesses(vtl)
        return not wanted or msr_exits.apply(vm, self._table, vtl)

    def msrs_changed(self, vms: Mapping[int, Vm]) -> HvStatus:
        """See `vmm.vsm.outside.VsmServices`. vms: by VTL."""
        # Before the filter, which brings their exits; and they stay, for an exit may be on its way.
        for caller, exits in list(self._msr_exits.items()):
            caller.msr_hook = exits.hook if exits.wanted() else caller.msr_hook
        try:
            for vtl, vm in vms.items():
                if not msr_exits.apply(vm, self._table, vtl):
                    return HvStatus.INSUFFICIENT_MEMORY
        except KvmError:
            return HvStatus.INSUFFICIENT_MEMORY
        return HvStatus.SUCCESS

    def ports_changed(self, caller_vp: int, schedulers: Sequence[VpScheduler]) -> bool:
        """See `vmm.vsm.outside.VsmServices`. A VP's loop looks at its ports anew when it has been brought out of the
        guest. schedulers: of all VPs."""
        # With the lock: or one VP overtakes another with a look at the table that lacks what that one has set.
        with self._lock:
            wanted = [self._table.ports(vtl) for vtl in range(self._maximum_vtl)]
            self._watch_ports(wanted[0])
            for scheduler in schedulers:
                for vtl in scheduler.vtls.values():
                    if vtl.vtl < self._maximum_vtl:
                        vtl.ports.want(wanted[vtl.vtl])
            if wanted != self._ports_wanted:
                self._ports_wanted = wanted
                self._ports_told.clear()  # also of who has not come back: nobody knows this
            told = self._ports_told.setdefault(caller_vp, {caller_vp})
        for vp in range(len(schedulers)):
            if vp not in told:
                if self._errands.ask(caller_vp, vp, lambda: True) is None:
                    return False
                told.add(vp)
        self._ports_told.pop(caller_vp, None)
        return True

    def reset(self, vtl0: Vm) -> None:
        """Nobody wants anything, and VTLs above 0 are gone."""
        self._ports_told.clear()
        self._ports_wanted = []
        self._watch_ports(None)
        self._msr_exits = {caller: exits for caller, exits in self._msr_exits.items() if not caller.vtl}
        self.msrs_changed({0: vtl0})
        for caller in self._msr_exits:
            caller.msr_hook = None
