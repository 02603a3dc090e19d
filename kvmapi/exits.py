# SPDX-License-Identifier: Apache-2.0
"""`decode`: the exit that a mapped kvm_run describes, as an object of `kvmapi.exit_types`.

For people, logs and rare exits. A run loop reads `u32[2]` and one `Struct.unpack_from` instead.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

from kvmapi import exit_types as exits
from kvmapi.exit_types import Exit
from kvmapi.run import EXIT_UNION
from kvmapi.uapi import kvm_run as uapi
from kvmapi.uapi.vsm import kvm_hyperv_exit_xmm, kvm_run_memory_fault_vsm

__all__ = ["Exit", "decode"]

Buffer = bytes | bytearray | memoryview
Decoder = Callable[[Any, memoryview], Exit]


class Mapped(Protocol):
    """What `decode` needs of a KvmRun."""

    u8: memoryview


def decode(run: Mapped | Buffer) -> Exit:
    """The exit in `run`: a KvmRun, or the bytes of such a mapping (at least sizeof(struct kvm_run)).

    Never fails for what a kernel can write: an unknown reason becomes an `OtherExit` with its raw bytes.
    """
    view = memoryview(run if isinstance(run, Buffer) else run.u8)
    state = uapi.kvm_run.from_buffer_copy(view[: ctypes.sizeof(uapi.kvm_run)])
    return _DECODERS.get(state.exit_reason, _other)(state, view)


def _head(state: Any) -> dict[str, int]:
    return {"reason": state.exit_reason, "flags": state.flags}


def _plain(kind: type[Exit]) -> Decoder:
    return lambda state, view: kind(**_head(state))


def _other(state: Any, view: memoryview) -> Exit:
    return exits.OtherExit(**_head(state), raw=bytes(state.padding))


def _unknown(state: Any, view: memoryview) -> Exit:
    return exits.UnknownExit(**_head(state), hardware_exit_reason=state.hw.hardware_exit_reason)


def _exception(state: Any, view: memoryview) -> Exit:
    return exits.ExceptionExit(**_head(state), exception=state.ex.exception, error_code=state.ex.error_code)


def _io(state: Any, view: memoryview) -> Exit:
    io = state.io
    return exits.IoExit(
        **_head(state),
        is_out=io.direction == uapi.KVM_EXIT_IO_OUT,
        size=io.size,
        port=io.port,
        count=io.count,
        data=bytes(view[io.data_offset : io.data_offset + io.size * io.count]),
    )


def _hypercall(state: Any, view: memoryview) -> Exit:
    call = state.hypercall
    return exits.HypercallExit(**_head(state), nr=call.nr, args=tuple(call.args), call_flags=call.flags)


def _debug(state: Any, view: memoryview) -> Exit:
    arch = state.debug.arch
    return exits.DebugExit(**_head(state), exception=arch.exception, pc=arch.pc, dr6=arch.dr6, dr7=arch.dr7)


def _mmio(state: Any, view: memoryview) -> Exit:
    mmio = state.mmio
    size = min(mmio.len, 8)
    return exits.MmioExit(
        **_head(state),
        gpa=mmio.phys_addr,
        size=size,
        is_write=bool(mmio.is_write),
        data=bytes(mmio.data[:size]),
    )


def _fail_entry(state: Any, view: memoryview) -> Exit:
    failed = state.fail_entry
    return exits.FailEntryExit(
        **_head(state), hardware_entry_failure_reason=failed.hardware_entry_failure_reason, cpu=failed.cpu
    )


def _set_tpr(state: Any, view: memoryview) -> Exit:
    return exits.SetTprExit(**_head(state), cr8=state.cr8)


def _tpr_access(state: Any, view: memoryview) -> Exit:
    access = state.tpr_access
    return exits.TprAccessExit(**_head(state), rip=access.rip, is_write=bool(access.is_write))


def _internal_error(state: Any, view: memoryview) -> Exit:
    error = state.internal
    data = tuple(error.data[: min(error.ndata, len(error.data))])
    instruction = b""
    failure = state.emulation_failure
    # data[0] is the flags, data[1..2] the length and 15 bytes: they count only if ndata reaches that far.
    if (
        error.suberror == uapi.KVM_INTERNAL_ERROR_EMULATION
        and len(data) >= 3
        and failure.flags & uapi.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
    ):
        instruction = bytes(failure.insn_bytes[: min(failure.insn_size, 15)])
    return exits.InternalErrorExit(
        **_head(state), suberror=error.suberror, data=data, instruction=instruction
    )


def _system_event(state: Any, view: memoryview) -> Exit:
    event = state.system_event
    data = tuple(event.data[: min(event.ndata, len(event.data))])
    return exits.SystemEventExit(**_head(state), event=event.type, data=data)


def _ioapic_eoi(state: Any, view: memoryview) -> Exit:
    return exits.IoapicEoiExit(**_head(state), vector=state.eoi.vector)


def _hyperv(state: Any, view: memoryview) -> Exit:
    kind = state.hyperv.type
    if kind == uapi.KVM_EXIT_HYPERV_SYNIC:
        synic = state.hyperv.u.synic
        return exits.HypervSynicExit(
            **_head(state),
            msr=synic.msr,
            control=synic.control,
            evt_page=synic.evt_page,
            msg_page=synic.msg_page,
        )
    if kind == uapi.KVM_EXIT_HYPERV_HCALL:
        call = kvm_hyperv_exit_xmm.from_buffer_copy(view, EXIT_UNION).u.hcall
        xmm = tuple(register.low | register.high << 64 for register in call.xmm)
        params = (call.params[0], call.params[1])
        return exits.HypervHcallExit(**_head(state), input=call.input, params=params, xmm=xmm)
    if kind == uapi.KVM_EXIT_HYPERV_SYNDBG:
        debug = state.hyperv.u.syndbg
        return exits.HypervSyndbgExit(
            **_head(state),
            msr=debug.msr,
            control=debug.control,
            status=debug.status,
            send_page=debug.send_page,
            recv_page=debug.recv_page,
            pending_page=debug.pending_page,
        )
    return _other(state, view)


def _rdmsr(state: Any, view: memoryview) -> Exit:
    return exits.RdmsrExit(**_head(state), index=state.msr.index, why=state.msr.reason)


def _wrmsr(state: Any, view: memoryview) -> Exit:
    return exits.WrmsrExit(**_head(state), index=state.msr.index, data=state.msr.data, why=state.msr.reason)


def _xen(state: Any, view: memoryview) -> Exit:
    if state.xen.type != uapi.KVM_EXIT_XEN_HCALL:
        return _other(state, view)
    call = state.xen.u.hcall
    return exits.XenHcallExit(
        **_head(state),
        longmode=bool(call.longmode),
        cpl=call.cpl,
        input=call.input,
        params=tuple(call.params),
    )


def _notify(state: Any, view: memoryview) -> Exit:
    return exits.NotifyExit(**_head(state), notify_flags=state.notify.flags)


def _memory_fault(state: Any, view: memoryview) -> Exit:
    fault = kvm_run_memory_fault_vsm.from_buffer_copy(view, EXIT_UNION)
    return exits.MemoryFaultExit(
        **_head(state),
        fault_flags=fault.flags,
        gpa=fault.gpa,
        size=fault.size,
        insn_len=fault.insn_len,
        access_gpa=fault.access_gpa,
        insn_bytes=bytes(fault.insn_bytes[: fault.nr_insn_bytes]),
    )


_DECODERS: dict[int, Decoder] = {
    uapi.KVM_EXIT_UNKNOWN: _unknown,
    uapi.KVM_EXIT_EXCEPTION: _exception,
    uapi.KVM_EXIT_IO: _io,
    uapi.KVM_EXIT_HYPERCALL: _hypercall,
    uapi.KVM_EXIT_DEBUG: _debug,
    uapi.KVM_EXIT_HLT: _plain(exits.HltExit),
    uapi.KVM_EXIT_MMIO: _mmio,
    uapi.KVM_EXIT_IRQ_WINDOW_OPEN: _plain(exits.IrqWindowOpenExit),
    uapi.KVM_EXIT_SHUTDOWN: _plain(exits.ShutdownExit),
    uapi.KVM_EXIT_FAIL_ENTRY: _fail_entry,
    uapi.KVM_EXIT_INTR: _plain(exits.IntrExit),
    uapi.KVM_EXIT_SET_TPR: _set_tpr,
    uapi.KVM_EXIT_TPR_ACCESS: _tpr_access,
    uapi.KVM_EXIT_NMI: _plain(exits.NmiExit),
    uapi.KVM_EXIT_INTERNAL_ERROR: _internal_error,
    uapi.KVM_EXIT_SYSTEM_EVENT: _system_event,
    uapi.KVM_EXIT_IOAPIC_EOI: _ioapic_eoi,
    uapi.KVM_EXIT_HYPERV: _hyperv,
    uapi.KVM_EXIT_X86_RDMSR: _rdmsr,
    uapi.KVM_EXIT_X86_WRMSR: _wrmsr,
    uapi.KVM_EXIT_DIRTY_RING_FULL: _plain(exits.DirtyRingFullExit),
    uapi.KVM_EXIT_AP_RESET_HOLD: _plain(exits.ApResetHoldExit),
    uapi.KVM_EXIT_X86_BUS_LOCK: _plain(exits.BusLockExit),
    uapi.KVM_EXIT_XEN: _xen,
    uapi.KVM_EXIT_NOTIFY: _notify,
    uapi.KVM_EXIT_MEMORY_FAULT: _memory_fault,
}
