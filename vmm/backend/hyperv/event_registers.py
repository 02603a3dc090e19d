# SPDX-License-Identifier: Apache-2.0
"""Events on their way into a VP: pending interruption and event, interrupt state, activity (TLFS 7.9; hvdef).

All of it is KVM_GET_VCPU_EVENTS and KVM_GET_MP_STATE. KVM keeps one exception, one interrupt and one NMI in flight;
HvRegisterPendingInterruption is the one that is delivered first. HvRegisterPendingEvent0 is the exception; writing it
ends a halt, and a second exception becomes the double fault that a processor makes of the two (SDM volume 3, 6.15).

Implements: REG-013, REG-014
"""

from __future__ import annotations

from typing import Final

from kvmapi import Vcpu
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from vmm.backend.hyperv.register_access import Read, RegisterValueError, Write, change_sregs
from vmm.hv.register_bits import (
    HV_INTERNAL_ACTIVITY_REGISTER,
    HV_X64_INTERRUPT_STATE_REGISTER,
    HV_X64_PENDING_EXCEPTION_EVENT,
    HV_X64_PENDING_INTERRUPTION_REGISTER,
    HvX64PendingEventType,
    HvX64PendingInterruptionType,
)
from vmm.hv.registers import HvRegisterName

Interruption = HV_X64_PENDING_INTERRUPTION_REGISTER
Kind = HvX64PendingInterruptionType
_CR0_PE: Final = 1
_DB, _NMI, _DF, _PF = 1, 2, 8, 14
_SOFTWARE: Final = (3, 4)
"""#BP and #OF: KVM has them of instructions alone."""
_LAST_VECTOR: Final = 255
VECTORS: Final = frozenset((0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19))
"""Exceptions that the processors of all vendors have."""
_WITH_ERROR_CODE: Final = frozenset((8, 10, 11, 12, 13, 14, 17))
_CONTRIBUTORY: Final = frozenset((0, 10, 11, 12, 13))
_WAITING: Final = (k.KVM_MP_STATE_UNINITIALIZED, k.KVM_MP_STATE_INIT_RECEIVED)


def _put_exception(events: x86.kvm_vcpu_events, vector: int, with_code: bool, code: int) -> None:
    events.exception.injected = 1
    events.exception.pending = 0
    events.exception.nr = vector
    events.exception.has_error_code = with_code
    events.exception.error_code = code if with_code else 0
    events.exception_has_payload = 0


def _in_flight(events: x86.kvm_vcpu_events) -> bool:
    return bool(events.exception.injected or events.exception.pending)


def _read_interruption(vcpu: Vcpu) -> int:
    events = vcpu.get_vcpu_events()
    exception, interrupt = events.exception, events.interrupt
    if _in_flight(events):
        kind = Kind.HvX64PendingSoftwareException if exception.nr in _SOFTWARE else Kind.HvX64PendingException
        return Interruption.make(
            InterruptionPending=1,
            InterruptionType=int(kind),
            DeliverErrorCode=exception.has_error_code,
            InterruptionVector=exception.nr,
            ErrorCode=exception.error_code if exception.has_error_code else 0,
        )
    if events.nmi.injected:
        nmi = int(Kind.HvX64PendingNmi)
        return Interruption.make(InterruptionPending=1, InterruptionType=nmi, InterruptionVector=_NMI)
    if interrupt.injected:
        kind = Kind.HvX64PendingSoftwareInterrupt if interrupt.soft else Kind.HvX64PendingInterrupt
        return Interruption.make(
            InterruptionPending=1, InterruptionType=int(kind), InterruptionVector=interrupt.nr
        )
    return 0


def _write_interruption(vcpu: Vcpu, value: int) -> None:
    """An event of instructions (INT n, INT3) needs a length that KVM takes from nobody: refused."""
    wanted = Interruption(value)
    events = vcpu.get_vcpu_events()
    events.exception.injected = events.exception.pending = 0
    events.interrupt.injected = events.nmi.injected = 0
    if wanted.InterruptionPending:
        match wanted.InterruptionType:
            case Kind.HvX64PendingInterrupt if wanted.InterruptionVector <= _LAST_VECTOR:
                events.interrupt.injected, events.interrupt.soft = 1, 0
                events.interrupt.nr = wanted.InterruptionVector
            case Kind.HvX64PendingNmi if wanted.InterruptionVector == _NMI:
                events.nmi.injected = 1
            case Kind.HvX64PendingException:
                _check_exception(vcpu, wanted.InterruptionVector, wanted.DeliverErrorCode)
                code = wanted.ErrorCode
                _put_exception(events, wanted.InterruptionVector, wanted.DeliverErrorCode, code)
            case _:
                raise RegisterValueError
    vcpu.set_vcpu_events(events)


def _read_interrupt_state(vcpu: Vcpu) -> int:
    events = vcpu.get_vcpu_events()
    return HV_X64_INTERRUPT_STATE_REGISTER.make(
        InterruptShadow=bool(events.interrupt.shadow), NmiMasked=bool(events.nmi.masked)
    )


def _write_interrupt_state(vcpu: Vcpu, value: int) -> None:
    state = HV_X64_INTERRUPT_STATE_REGISTER(value)
    events = vcpu.get_vcpu_events()
    events.interrupt.shadow = x86.KVM_X86_SHADOW_INT_STI if state.InterruptShadow else 0
    events.nmi.masked = state.NmiMasked
    events.flags |= x86.KVM_VCPUEVENT_VALID_SHADOW
    vcpu.set_vcpu_events(events)


def _check_exception(vcpu: Vcpu, vector: int, with_code: bool) -> None:
    """A processor refuses to enter with an error code that the exception does not have."""
    has_code = bool(vector in _WITH_ERROR_CODE and vcpu.run.sregs.cr0 & _CR0_PE)
    if vector not in VECTORS or with_code != has_code:
        raise RegisterValueError


def _read_event(vcpu: Vcpu) -> int:
    events = vcpu.get_vcpu_events()
    if not _in_flight(events):
        return 0
    vector = events.exception.nr
    parameter = vcpu.run.sregs.cr2 if vector == _PF else vcpu.get_debugregs().dr6 if vector == _DB else 0
    return HV_X64_PENDING_EXCEPTION_EVENT.make(
        EventPending=1,
        EventType=int(HvX64PendingEventType.HvX64PendingEventException),
        DeliverErrorCode=events.exception.has_error_code,
        Vector=vector,
        ErrorCode=events.exception.error_code,
        ExceptionParameter=parameter,
    )


def _write_event(vcpu: Vcpu, value: int) -> None:
    event = HV_X64_PENDING_EXCEPTION_EVENT(value)
    events = vcpu.get_vcpu_events()
    if not event.EventPending:
        events.exception.injected = events.exception.pending = 0
        vcpu.set_vcpu_events(events)
        return
    if event.EventType != HvX64PendingEventType.HvX64PendingEventException:
        raise RegisterValueError
    _check_exception(vcpu, event.Vector, event.DeliverErrorCode)
    if _in_flight(events) and makes_double_fault(events.exception.nr, event.Vector):
        _put_exception(events, _DF, True, 0)
    else:
        _put_exception(events, event.Vector, event.DeliverErrorCode, event.ErrorCode)
        if event.Vector == _PF:
            change_sregs(vcpu, lambda sregs: setattr(sregs, "cr2", event.ExceptionParameter))
        elif event.Vector == _DB:
            registers = vcpu.get_debugregs()
            registers.dr6 = event.ExceptionParameter
            vcpu.set_debugregs(registers)
    vcpu.set_vcpu_events(events)
    if vcpu.get_mp_state() == k.KVM_MP_STATE_HALTED:
        vcpu.set_mp_state(k.KVM_MP_STATE_RUNNABLE)


def makes_double_fault(first: int, second: int) -> bool:
    """Whether two exceptions make a double fault."""
    if first == _PF:
        return second == _PF or second in _CONTRIBUTORY
    return first == _DF or (first in _CONTRIBUTORY and second in _CONTRIBUTORY)


def _read_activity(vcpu: Vcpu) -> int:
    state = vcpu.get_mp_state()
    return HV_INTERNAL_ACTIVITY_REGISTER.make(
        StartupSuspend=state in _WAITING, HaltSuspend=state == k.KVM_MP_STATE_HALTED
    )


_N = HvRegisterName
ACCESSORS: Final[dict[int, tuple[Read, Write | None]]] = {
    int(_N.HvRegisterInternalActivityState): (_read_activity, None),
    int(_N.HvRegisterPendingInterruption): (_read_interruption, _write_interruption),
    int(_N.HvRegisterInterruptState): (_read_interrupt_state, _write_interrupt_state),
    int(_N.HvRegisterPendingEvent0): (_read_event, _write_event),
}
"""Register -> how it is read and, unless it never is, written."""
