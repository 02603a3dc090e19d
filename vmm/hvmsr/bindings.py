# SPDX-License-Identifier: Apache-2.0
"""Which method of which object answers which MSR: the only place where the two meet.

Methods take no VP or VTL: the objects handed in belong to one. Scope is a matter of who is handed in: a partition's
objects to all VPs and VTLs, a VTL's to all VPs, a VP's and VTL's own to that one.

Implements: APIC-001, TMR-018, DISC-018, WIN-005
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from vmm.hv.constants import HV_STIMER_COUNT, HV_SYNIC_SINT_COUNT
from vmm.hv.msr_bits import HV_X64_MSR_RESET_CONTENTS
from vmm.hv.msrs import HvMsr
from vmm.hvmsr.crash import PARAMETERS, CrashRegisters
from vmm.hvmsr.hypercall_page import HypercallPage
from vmm.hvmsr.msr_file import Bindings, MsrMethods, WriteMsr
from vmm.hvmsr.outside import LocalApic, PartitionServices
from vmm.hvmsr.reenlightenment import Reenlightenment
from vmm.hvmsr.vp_assist import VpAssistPage
from vmm.synic.synic import Synic
from vmm.timers.reference import ReferenceTime
from vmm.timers.stimer import SyntheticTimers
from vmm.timers.tsc_page import ReferenceTscPage

_RESET: Final = HV_X64_MSR_RESET_CONTENTS.Reset.mask
_TPR_MASK: Final = 0xFF


_BY_NUMBER: Final = {int(msr): msr for msr in HvMsr}


def _msr(base: HvMsr, distance: int) -> HvMsr:
    return _BY_NUMBER[base + distance]


def _constant(value: int) -> MsrMethods:
    return MsrMethods(lambda: value)


def vp_msrs(vp: int, vtl: int, services: PartitionServices) -> Bindings:
    """VP index, run time, idling, reset."""

    def reset(value: int) -> bool:
        if value & _RESET:
            services.reset_partition()
        return True

    def idle() -> int:
        services.guest_idle(vp, vtl)
        return 0

    return {
        HvMsr.HV_X64_MSR_VP_INDEX: _constant(vp),
        HvMsr.HV_X64_MSR_VP_RUNTIME: MsrMethods(partial(services.vp_runtime_100ns, vp)),
        HvMsr.HV_X64_MSR_GUEST_IDLE: MsrMethods(idle, value=lambda: 0),
        HvMsr.HV_X64_MSR_RESET: MsrMethods(lambda: 0, reset),
    }


def time_msrs(reference: ReferenceTime, page: ReferenceTscPage, tsc_hz: int, apic_hz: int) -> Bindings:
    """Reference time and frequencies."""
    return {
        HvMsr.HV_X64_MSR_TIME_REF_COUNT: MsrMethods(reference.now),
        HvMsr.HV_X64_MSR_REFERENCE_TSC: MsrMethods(page.read_msr, page.write_msr),
        HvMsr.HV_X64_MSR_TSC_FREQUENCY: _constant(tsc_hz),
        HvMsr.HV_X64_MSR_APIC_FREQUENCY: _constant(apic_hz),
    }


def hypercall_msrs(page: HypercallPage) -> Bindings:
    """Guest OS id and hypercall page."""
    return {
        HvMsr.HV_X64_MSR_GUEST_OS_ID: MsrMethods(page.read_os_id, page.write_os_id),
        HvMsr.HV_X64_MSR_HYPERCALL: MsrMethods(page.read_msr, page.write_msr),
    }


def apic_msrs(apic: LocalApic, assist: VpAssistPage, ended: Callable[[int], None]) -> Bindings:
    """EOI, ICR, TPR and the VP assist page. ended: told which vector an EOI ended."""

    def end_of_interrupt(value: int) -> bool:
        # All of the value is ignored: Windows' secure kernel leaves something in the high half.
        vector = apic.end_of_interrupt()
        if vector is not None:
            ended(vector)
        return True

    def write_tpr(value: int) -> bool:
        apic.write_tpr(value & _TPR_MASK)
        return True

    def put_tpr(value: int) -> bool:
        apic.put_tpr(value & _TPR_MASK)
        return True

    return {
        HvMsr.HV_X64_MSR_EOI: MsrMethods(None, end_of_interrupt),
        HvMsr.HV_X64_MSR_ICR: MsrMethods(apic.read_icr, apic.write_icr),
        HvMsr.HV_X64_MSR_TPR: MsrMethods(apic.read_tpr, write_tpr, put=put_tpr),
        HvMsr.HV_X64_MSR_VP_ASSIST_PAGE: MsrMethods(assist.read_msr, assist.write_msr),
    }


def synic_msrs(synic: Synic) -> Bindings:
    """SynIC registers."""
    found = {
        HvMsr.HV_X64_MSR_SCONTROL: MsrMethods(synic.read_scontrol, synic.write_scontrol),
        HvMsr.HV_X64_MSR_SVERSION: MsrMethods(synic.read_sversion),
        HvMsr.HV_X64_MSR_SIEFP: MsrMethods(synic.read_siefp, synic.write_siefp),
        HvMsr.HV_X64_MSR_SIMP: MsrMethods(synic.read_simp, synic.write_simp),
        HvMsr.HV_X64_MSR_EOM: MsrMethods(synic.read_eom, synic.write_eom),
        HvMsr.HV_X64_MSR_SIRBP: MsrMethods(synic.read_sirbp, synic.write_sirbp),
    }
    for sint in range(HV_SYNIC_SINT_COUNT):
        found[_msr(HvMsr.HV_X64_MSR_SINT0, sint)] = MsrMethods(
            partial(synic.read_sint, sint), partial(synic.write_sint, sint)
        )
    return found


def timer_msrs(timers: SyntheticTimers) -> Bindings:
    """Config and count of the synthetic timers."""
    found = {}
    for index in range(HV_STIMER_COUNT):
        found[_msr(HvMsr.HV_X64_MSR_STIMER0_CONFIG, 2 * index)] = MsrMethods(
            partial(timers.read_config, index), partial(timers.write_config, index)
        )
        found[_msr(HvMsr.HV_X64_MSR_STIMER0_COUNT, 2 * index)] = MsrMethods(
            partial(timers.read_count, index), partial(timers.write_count, index)
        )
    return found


def crash_msrs(vp: int, vtl: int, crash: CrashRegisters) -> Bindings:
    """Crash parameters and control."""
    found = {
        HvMsr.HV_X64_MSR_CRASH_CTL: MsrMethods(crash.read_control, partial(crash.write_control, vp, vtl))
    }
    for number in range(PARAMETERS):
        found[_msr(HvMsr.HV_X64_MSR_CRASH_P0, number)] = MsrMethods(
            partial(crash.read_parameter, number), partial(crash.write_parameter, number)
        )
    return found


def reenlightenment_msrs(vtl: int, state: Reenlightenment) -> Bindings:
    """Re-enlightenment and TSC emulation."""
    write_control: WriteMsr = partial(state.write_control, vtl)
    return {
        HvMsr.HV_X64_MSR_REENLIGHTENMENT_CONTROL: MsrMethods(state.read_control, write_control),
        HvMsr.HV_X64_MSR_TSC_EMULATION_CONTROL: MsrMethods(
            state.read_emulation_control, state.write_emulation_control
        ),
        HvMsr.HV_X64_MSR_TSC_EMULATION_STATUS: MsrMethods(
            state.read_emulation_status, state.write_emulation_status
        ),
    }
