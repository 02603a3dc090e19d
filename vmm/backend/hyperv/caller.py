# SPDX-License-Identifier: Apache-2.0
"""One VTL of one VP as the Hyper-V interface sees it: its hypercalls and its MSR exits, on the VP's own thread.

General and segment registers come with each exit (KVM_CAP_SYNC_REGS) and go back only if they changed, so that a
hypercall costs the one exit that it is.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from ctypes import sizeof
from struct import Struct, calcsize
from typing import Final, Protocol

from kvmapi import KvmError, Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from kvmapi.uapi.vsm import KVM_HYPERV_HCALL_UD
from vmm import bus
from vmm.backend.hyperv import page_code
from vmm.backend.hyperv.errands import RIP_U64, Meanwhile
from vmm.backend.hyperv.transport import PORT_WRITE, Transport
from vmm.backend.hyperv.xmm import ExitXmm, VcpuXmm
from vmm.backend.vp import VirtualProcessor
from vmm.hv.msrs import HvMsr
from vmm.hvmsr.hypercall_page import HypercallPage
from vmm.hvmsr.msr_file import MsrFile
from vmm.hypercall.convention import BITS_32, BITS_64, EFER_LMA, LOW_32, Outcome, caller_mode
from vmm.hypercall.dispatcher import Dispatcher
from vmm.hypercall.outside import CallerMemory
from vmm.vsm.actions import SwitchVtl

CR0_PE: Final = 1
SYNC: Final = x86.KVM_SYNC_X86_REGS | x86.KVM_SYNC_X86_SREGS
SYNC_OF_HIGHER: Final = SYNC | x86.KVM_SYNC_X86_EVENTS  # what waits for it when it returns
_REGS: Final = x86.KVM_SYNC_X86_REGS
_DIRTY_U64: Final = run_page.DIRTY_REGS // 8
_RAX_U64: Final = (run_page.SYNC_REGS + x86.kvm_regs.rax.offset) // 8

# struct kvm_run, KVM_EXIT_X86_RDMSR and _WRMSR: u8 error @32, u32 index @44, u64 data @48
_MSR_ERROR_U8: Final = 32
_MSR_INDEX_U32: Final = 44 // 4
_MSR_DATA_U64: Final = 48 // 8

_SREGS: Final = run_page.SYNC_REGS + sizeof(x86.kvm_regs)
_FROM: Final = run_page.SYNC_REGS + x86.kvm_regs.rcx.offset


def _at(*fields: tuple[int, str]) -> Struct:
    """What reads fields `(offset in kvm_run, format)` in one go, from `_FROM` on."""
    code, end = "<", _FROM
    for offset, field in fields:
        code += f"{offset - end}x{field}"
        end = offset + calcsize("<" + field)
    return Struct(code)


# All that a 64-bit caller's call needs. One read instead of eight: a field of a ctypes structure costs as much.
_unpack_caller: Final = _at(
    (_FROM, "Q"),
    (run_page.SYNC_REGS + x86.kvm_regs.rdx.offset, "Q"),
    (run_page.SYNC_REGS + x86.kvm_regs.r8.offset, "Q"),
    (run_page.SYNC_REGS + x86.kvm_regs.rip.offset, "Q"),
    (_SREGS + x86.kvm_sregs.cs.offset + x86.kvm_segment.l.offset, "B"),
    (_SREGS + x86.kvm_sregs.ss.offset + x86.kvm_segment.dpl.offset, "B"),
    (_SREGS + x86.kvm_sregs.efer.offset, "Q"),
).unpack_from

# struct kvm_run, KVM_EXIT_HYPERV: u32 type @32; u.hcall: u64 input @40, result @48, params @56
_HYPERV_TYPE_U32: Final = 32 // 4
_INPUT_U64, _RESULT_U64, _PARAMS_U64 = 40 // 8, 48 // 8, 56 // 8

_REFUSED: Final = int(Outcome.INVALID_OPCODE)
_INTERCEPTED: Final = int(Outcome.INTERCEPT)
_SWITCHED: Final = int(Outcome.VTL_SWITCH)
_ENTRIES: Final = {
    int(Outcome.RETRY): page_code.AGAIN,
    _INTERCEPTED: page_code.AGAIN,
    _REFUSED: page_code.REFUSE,
}
_STATUS: Final = 0xFFFF
_OS_ID: Final = int(HvMsr.HV_X64_MSR_GUEST_OS_ID)


class MsrHook(Protocol):
    """Who may take MSR exits before their owner. True: the exit is dealt with."""

    @property
    def read(self) -> Callable[[int], bool]:
        """RDMSR of an MSR."""

    @property
    def write(self) -> Callable[[int, int], bool]:
        """WRMSR of a value to an MSR."""


class Caller:
    """VP and VTL as `vmm.hypercall.outside.HypercallContext`, and the handlers of their exits.

    Made before the VP's thread starts; `attach` puts the handlers in place.
    """

    def __init__(
        self,
        processor: VirtualProcessor,
        vtl: int,
        privileges: int,
        page: HypercallPage,
        msrs: MsrFile,
        memory: CallerMemory,
        dispatcher: Dispatcher[Caller],
        transport: Transport = PORT_WRITE,
        vcpu: Vcpu | None = None,
        meanwhile: Meanwhile | None = None,
    ) -> None:
        """vcpu: that of `vtl`, where it is not the processor's first. meanwhile: the VP's of `Errands`."""
        self.vp = processor.index
        self.vtl = vtl
        self.privileges = privileges
        self.memory = memory
        self.processor = processor
        self.vcpu = vcpu = vcpu or processor.vcpu
        self.handlers = processor.handlers if vcpu is processor.vcpu else processor.common_handlers()
        self.switch: SwitchVtl | None = None
        # Where a VTL call or return goes on; no VTL above 0 can be without it.
        # Writes of the processor's MSRs that leave the guest: those that VTLs share.
        self.write_processor_msr: Callable[[int, int], bool] = lambda index, value: False
        self.on_switch: Callable[[SwitchVtl], None] = self._no_switch
        # Asked first, where a higher VTL has intercepted MSRs.
        self.msr_hook: MsrHook | None = None
        # Who tells a higher VTL of a parameter page that it protects, once the call's registers are settled.
        self.on_refused_parameter: Callable[[int, bool], None] = self._no_intercept
        self._refused_parameter = (0, False)
        self._meanwhile = meanwhile = meanwhile or Meanwhile()
        self.xmm = ExitXmm(vcpu, meanwhile) if transport.exits else VcpuXmm(vcpu, meanwhile)
        self._exits = transport.exits
        self._page = page
        self._dispatch, self._answer = dispatcher.dispatch, dispatcher.answer
        self._readers, self._writers = msrs.readers, msrs.writers
        run = vcpu.run
        self._u8, self._u32, self._u64 = run.u8, run.u32, run.u64
        self.regs, self.sregs = run.regs, run.sregs

    @property
    def hypercalls_enabled(self) -> bool:
        """Whether this VTL has enabled its hypercall page."""
        return self._page.enabled

    def intercept_memory_access(self, gpa: int, write: bool) -> None:
        """See `vmm.hypercall.outside.HypercallContext`: the call ends first, then the VTL is told."""
        self._refused_parameter = (gpa, write)

    def _no_intercept(self, gpa: int, write: bool) -> None:
        raise AssertionError(f"an intercept at {gpa:#x} without a VTL that could have asked for it")

    @property
    def bits_64(self) -> bool:
        """Whether the caller runs in 64-bit mode (CR0.PE and EFER.LMA)."""
        return bool(self.sregs.cr0 & CR0_PE and self.sregs.efer & EFER_LMA)

    def _no_switch(self, switch: SwitchVtl) -> None:
        raise AssertionError(f"{switch} without a scheduler of VTLs")

    def _end_switch(self) -> None:
        """The call was a VTL call or return."""
        switch, self.switch = self.switch, None
        assert switch is not None  # the handler has left it
        self.on_switch(switch)

    def attach(self) -> None:
        """Have the registers with each exit, and the exits handled here. The VP's thread has not started.

        Errors: `KvmError`.
        """
        self.vcpu.run.sync(SYNC_OF_HIGHER if self.vtl else SYNC)
        self.handlers[k.KVM_EXIT_X86_RDMSR] = self.read_msr
        self.handlers[k.KVM_EXIT_X86_WRMSR] = self.write_msr
        if self._exits:
            self.handlers[k.KVM_EXIT_HYPERV] = self.hypercall_exit
            # KVM hands over messages and events only where its SynIC is on. Its MSRs are kept from it.
            self.vcpu.enable_cap(k.KVM_CAP_HYPERV_SYNIC2)
            self._tell_kvm_os_id()
        else:
            self.handlers[bus.access(True, 1, page_code.PORT)] = self.hypercall

    def _tell_kvm_os_id(self) -> None:
        """KVM takes the instruction for a hypercall of Hyper-V only while it knows of a guest OS id."""
        write = self._writers.get(_OS_ID)
        if write is None:
            return

        def write_both(value: int) -> bool:
            accepted = write(value)
            if accepted:
                self.vcpu.set_msrs([(_OS_ID, value)])
            return accepted

        self._writers[_OS_ID] = write_both

    def reset(self) -> None:
        """The guest's OS id is 0 again. The VP is frozen. Errors: `KvmError`."""
        if self._exits:
            self.vcpu.set_msrs([(_OS_ID, 0)])

    # ---- on the VP's thread --------------------------------------------------------------------------

    def hypercall(self) -> None:
        """The VP wrote the hypercall port.

        A VTL that is left for another one stands behind the port write, whether KVM has moved its RIP yet or not: a
        higher VTL may look.

        Implements: VSM-043, IMP-001
        """
        control, first, second, rip, long_cs, cpl, efer = _unpack_caller(self._u8, _FROM)
        if rip & page_code.IN_PAGE not in page_code.AT_TRAP:
            return  # surely not the hypercall page: a write to a port that nobody decodes
        if long_cs and not cpl and efer & EFER_LMA and self._page.enabled:
            # As `Dispatcher.dispatch`, with operands and result where they lie in kvm_run.
            result = self._answer(self, self.regs, BITS_64, control, first, second)
            if result >= 0:
                self._u64[_RAX_U64] = result
            elif result != _SWITCHED:
                self.regs.rip = page_code.continue_at(rip, _ENTRIES[result])
        else:
            result = int(self._dispatch(self, self.regs, self._mode()))
            if result in _ENTRIES:
                self.regs.rip = page_code.continue_at(rip, _ENTRIES[result])
        self._u64[_DIRTY_U64] |= _REGS
        if self.xmm.used:
            self.xmm.end(succeeded=True)
        moved = self._take_written() if self._meanwhile.happened else False
        if result == _SWITCHED:
            self.regs.rip = page_code.continue_at(rip, page_code.BEHIND_TRAP[rip & page_code.IN_PAGE])
            self._end_switch()
        elif result == _INTERCEPTED and not moved:
            self.on_refused_parameter(*self._refused_parameter)

    def _take_written(self) -> bool:
        """The call has ended, and what other VPs have written meanwhile counts: whether RIP is among it, so that the
        call is not made again.

        Implements: REG-015, VSM-112
        """
        u64, meanwhile = self._u64, self._meanwhile
        for place, value in meanwhile.general.items():
            u64[place] = value
        moved = RIP_U64 in meanwhile.general
        meanwhile.general.clear()
        meanwhile.happened = False
        return moved

    def hypercall_exit(self) -> None:
        """KVM_EXIT_HYPERV: the VP executed the hypercall instruction, in ring 0 of protected or long mode.

        KVM ends the instruction in the next KVM_RUN: it puts the result into its registers and moves RIP.
        """
        u64, regs, sregs = self._u64, self.regs, self.sregs
        if self._u32[_HYPERV_TYPE_U32] != k.KVM_EXIT_HYPERV_HCALL:
            return  # of the SynIC's MSRs, which only the VMM writes
        mode = BITS_64 if sregs.cs.l and sregs.efer & EFER_LMA else BITS_32
        control, first, second = u64[_INPUT_U64], u64[_PARAMS_U64], u64[_PARAMS_U64 + 1]
        result = _REFUSED
        if self._page.enabled:
            result = self._answer(self, regs, mode, control, first, second)
        if result >= 0:
            u64[_RESULT_U64] = result
        elif result == _REFUSED:
            u64[_RESULT_U64] = KVM_HYPERV_HCALL_UD
        elif result != _SWITCHED:
            self._stay(mode)
        u64[_DIRTY_U64] |= _REGS
        moved = False
        if self.xmm.used or self._meanwhile.happened:
            self.xmm.end(succeeded=result >= 0 and not result & _STATUS)
        if self._meanwhile.happened:
            if result >= 0 and self._meanwhile.general:
                self._end_instruction()  # or KVM would put its result and RIP over them
            moved = self._take_written()
            u64[_DIRTY_U64] |= _REGS
        if result == _SWITCHED:
            self._end_switch()
        elif result == _INTERCEPTED and not moved:
            self.on_refused_parameter(*self._refused_parameter)

    def _stay(self, mode: int) -> None:
        """End the instruction with the caller's registers as they are now, RIP included."""
        regs, rip = self.regs, self.regs.rip
        rax, rdx = regs.rax, regs.rdx
        self._u64[_RESULT_U64] = rax if mode == BITS_64 else (rdx & LOW_32) << 32 | rax & LOW_32
        self._u64[_DIRTY_U64] |= _REGS
        self._end_instruction()
        regs.rip = rip

    def _end_instruction(self) -> None:
        """KVM puts the exit's result into its registers and moves RIP; these are in kvm_run then."""
        # Stays set: the next KVM_RUN comes back at once, as after a kick, and no request to leave is lost.
        self.vcpu.run.immediate_exit = True
        number = self.vcpu.run_once()
        if number != errno.EINTR:
            raise KvmError(number, "KVM_RUN", {"immediate_exit": 1}, f"VP {self.vp}")

    def _mode(self) -> int:
        """What the processor was doing (a `CallerMode`)."""
        sregs = self.sregs
        return caller_mode(sregs.cr0, sregs.efer, self.regs.rflags, sregs.cs.l, sregs.ss.dpl)

    def read_msr(self) -> None:
        """KVM_EXIT_X86_RDMSR."""
        hook = self.msr_hook
        if hook is not None and hook.read(self._u32[_MSR_INDEX_U32]):
            return
        read = self._readers.get(self._u32[_MSR_INDEX_U32])
        if read is None:
            self._u8[_MSR_ERROR_U8] = 1
        else:
            self._u64[_MSR_DATA_U64] = read()

    def write_msr(self) -> None:
        """KVM_EXIT_X86_WRMSR."""
        index, value = self._u32[_MSR_INDEX_U32], self._u64[_MSR_DATA_U64]
        hook = self.msr_hook
        if hook is not None and hook.write(index, value):
            return
        write = self._writers.get(index)
        if not (self.write_processor_msr(index, value) if write is None else write(value)):
            self._u8[_MSR_ERROR_U8] = 1
