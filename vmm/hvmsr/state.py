# SPDX-License-Identifier: Apache-2.0
"""All Hyper-V state of a partition: what it has one of, what each VTL has, what each VTL of each VP has.

| one per | objects |
|---|---|
| partition | overlay map, reference time, connections, crash and re-enlightenment MSRs |
| VTL (`HvVtlState`) | guest OS id and hypercall page, reference TSC page |
| VP and VTL (`HvVpState`) | SynIC, synthetic timers, VP assist page, its table of MSRs |

Any number of VTLs: a VTL of a VP exists from `enable_vtl` on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from vmm.hv.cpuid import HV_HYPERVISOR_FEATURES_EDX, HV_PARTITION_PRIVILEGE_MASK
from vmm.hvmsr import bindings
from vmm.hvmsr.crash import CrashRegisters
from vmm.hvmsr.hypercall_page import HypercallPage
from vmm.hvmsr.msr_file import MsrFile
from vmm.hvmsr.outside import PartitionServices
from vmm.hvmsr.reenlightenment import Reenlightenment
from vmm.hvmsr.vp_assist import VpAssistPage
from vmm.outside import Clock, GuestMemory
from vmm.overlay.pages import OverlayBackend, OverlayMap
from vmm.synic.connections import Connections
from vmm.synic.synic import Synic
from vmm.timers.reference import GuestTsc, ReferenceTime
from vmm.timers.stimer import SyntheticTimers
from vmm.timers.tsc_page import ReferenceTscPage

VTL0 = 0


@dataclass(frozen=True, slots=True)
class HvOffer:
    """What the partition is offered, as CPUID announces it."""

    privileges: HV_PARTITION_PRIVILEGE_MASK
    """EBX:EAX of leaf 0x40000003."""
    features: HV_HYPERVISOR_FEATURES_EDX
    """EDX of leaf 0x40000003."""
    gpa_bits: int
    """Width of a guest physical address."""
    tsc_hz: int
    apic_hz: int
    """Frequency of the local APIC's timer before its divider."""


class HvVtlState:
    """What a VTL of the partition has, the same on each of its VPs."""

    def __init__(
        self,
        vtl: int,
        overlays: OverlayMap,
        reference: ReferenceTime,
        services: PartitionServices,
        gpa_bits: int,
    ) -> None:
        self.hypercall_page = HypercallPage(vtl, overlays, services.hypercall_page, gpa_bits)
        self.tsc_page = ReferenceTscPage(vtl, reference, overlays)

    def reset(self) -> None:
        """The state after power-on."""
        self.hypercall_page.reset()
        self.tsc_page.reset()


class HvVpState:
    """What one VTL of one VP has."""

    def __init__(
        self, vp: int, vtl: int, synic: Synic, timers: SyntheticTimers, assist: VpAssistPage
    ) -> None:
        self.vp = vp
        self.vtl = vtl
        self.synic = synic
        self.timers = timers
        self.vp_assist = assist
        self.msrs: MsrFile

    def reset(self) -> None:
        """The state after power-on. Timers first, their messages lie in the SynIC."""
        self.timers.reset()
        self.synic.reset()
        self.vp_assist.reset()


class HvState:
    """The Hyper-V state of a partition. Thread-safe: tables are replaced whole, a look-up takes no lock."""

    def __init__(
        self,
        offer: HvOffer,
        services: PartitionServices,
        memory: GuestMemory,
        clock: Clock,
        overlay_backend: OverlayBackend,
        tsc: GuestTsc | None = None,
    ) -> None:
        """tsc: the guest's TSC if it can be read; without it the reference TSC page says "invalid"."""
        self.offer = offer
        self._services = services
        self._clock = clock
        self._lock = threading.Lock()
        self.overlays = OverlayMap(overlay_backend)
        self.reference = ReferenceTime(clock, tsc)
        self.connections = Connections(self.find_synic)
        self.crash = CrashRegisters(memory, services.guest_crashed)
        self.reenlightenment = Reenlightenment(services)
        self._vtls: dict[int, HvVtlState] = {}
        self._vps: dict[tuple[int, int], HvVpState] = {}

    def enable_vtl(self, vp: int, vtl: int) -> HvVpState:
        """Make the state of `vtl` on VP `vp`; the one there is when it is enabled already."""
        with self._lock:
            found = self._vps.get((vp, vtl))
            if found is None:
                found = self._make(vp, vtl)
                self._vps = {**self._vps, (vp, vtl): found}
            return found

    def drop_vtl(self, vp: int, vtl: int) -> None:
        """`vtl`, above 0, is not enabled on the VP after all; it has not run. Idempotent."""
        with self._lock:
            dropped = self._vps.get((vp, vtl))
            self._vps = {key: state for key, state in self._vps.items() if key != (vp, vtl)}
        if dropped is not None:
            dropped.reset()

    def _make(self, vp: int, vtl: int) -> HvVpState:
        offer, services = self.offer, self._services
        shared = self._vtls.get(vtl)
        if shared is None:
            shared = HvVtlState(vtl, self.overlays, self.reference, services, offer.gpa_bits)
            self._vtls = {**self._vtls, vtl: shared}
        synic = Synic(vp, vtl, self.overlays, services)
        timers = SyntheticTimers(
            synic, self.reference, self._clock, services, direct_mode=offer.features.DirectSyntheticTimers
        )
        state = HvVpState(vp, vtl, synic, timers, VpAssistPage(vp, vtl, self.overlays))
        apic = services.local_apic(vp, vtl)
        state.msrs = MsrFile(
            {
                **bindings.vp_msrs(vp, vtl, services),
                **bindings.time_msrs(self.reference, shared.tsc_page, offer.tsc_hz, offer.apic_hz),
                **bindings.hypercall_msrs(shared.hypercall_page),
                **bindings.apic_msrs(apic, state.vp_assist, synic.end_of_interrupt),
                **bindings.synic_msrs(synic),
                **bindings.timer_msrs(timers),
                **bindings.crash_msrs(vp, vtl, self.crash),
                **bindings.reenlightenment_msrs(vtl, self.reenlightenment),
            },
            offer.privileges,
            offer.features,
        )
        return state

    def vp(self, vp: int, vtl: int) -> HvVpState | None:
        """The state of `vtl` on VP `vp`, None where it is not enabled."""
        return self._vps.get((vp, vtl))

    def vtl(self, vtl: int) -> HvVtlState | None:
        """The state of `vtl`, None while no VP has it."""
        return self._vtls.get(vtl)

    def find_synic(self, vp: int, vtl: int) -> Synic | None:
        """The SynIC of `vtl` on VP `vp`, None where it is not enabled."""
        state = self._vps.get((vp, vtl))
        return None if state is None else state.synic

    def read_msr(self, vp: int, vtl: int, msr: int) -> int | None:
        """RDMSR of a synthetic MSR: its value, None for #GP. A hot path takes `vp(...).msrs` once instead."""
        state = self._vps.get((vp, vtl))
        return None if state is None else state.msrs.read(msr)

    def write_msr(self, vp: int, vtl: int, msr: int, value: int) -> bool:
        """WRMSR of a synthetic MSR, 64 bits: False for #GP."""
        state = self._vps.get((vp, vtl))
        return state is not None and state.msrs.write(msr, value)

    def reset(self) -> None:
        """The state after power-on: VTLs above 0 are gone (VSM-021), guest RAM is seen everywhere again.

        Reference time and connections stay. No VP runs meanwhile.
        """
        with self._lock:
            vps, vtls = self._vps, self._vtls
            self._vps = {key: state for key, state in vps.items() if key[1] == VTL0}
            self._vtls = {vtl: state for vtl, state in vtls.items() if vtl == VTL0}
        for vp_state in vps.values():
            vp_state.reset()
        for vtl, vtl_state in vtls.items():
            vtl_state.reset()
            if vtl != VTL0:
                vtl_state.tsc_page.close()
        self.crash.reset()
        self.reenlightenment.reset()
