# SPDX-License-Identifier: Apache-2.0
"""A guest that makes one hypercall in long mode, and tells by a port how that went.

Beside what `tests.kernel.guest` lays out: an IDT at 0x5000 whose handlers write to the port that is their vector's
number, a GDT at 0x6000, the handlers at 0x7000.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence

from kvmapi import Exit, Kvm, Vm
from kvmapi.exit_types import HypervHcallExit, IoExit
from kvmapi.uapi.kvm_cap import KVM_CAP_HYPERV_ENFORCE_CPUID
from kvmapi.uapi.vsm import kvm_hyperv_exit_hcall_xmm
from kvmapi.uapi.x86_features import kvm_cpuid_entry2
from tests.kernel.guest import CODE, EXIT_UNION, Guest

IDT, GDT, HANDLERS = 0x5000, 0x6000, 0x7000
FEATURES = 0x40000003
MSR_GUEST_OS_ID = 0x40000000
DONE = 0xFF
UD_VECTOR, GP_VECTOR = 6, 13
# Of leaf 0x40000003.
EBX_POST_MESSAGES, EBX_SIGNAL_EVENTS = 1 << 4, 1 << 5
EBX_VSM, EBX_VP_REGISTERS, EBX_START_VP = 1 << 16, 1 << 17, 1 << 21
EDX_XMM_INPUT, EDX_XMM_OUTPUT = 1 << 4, 1 << 15
# EAX of leaf 0x40000004.
RECOMMENDATIONS = 0x40000004
EAX_CLUSTER_IPI, EAX_EX_PROCESSOR_MASKS = 1 << 10, 1 << 11
FAST = 1 << 16
MARK = 0x1122334455667788


class HypercallGuest(Guest):
    """`ebx` and `edx` are those of leaf 0x40000003, added to and taken from what KVM supports."""

    def __init__(
        self,
        vm: Vm,
        *,
        without_ebx: int = 0,
        without_edx: int = 0,
        enforce: bool = False,
    ) -> None:
        super().__init__(vm)
        with Kvm.open() as kvm:
            leaves = [*kvm.supported_cpuid(), *kvm.supported_hv_cpuid()]
        self.hypercall = _hypercall_instruction(leaves)
        # Those of KVM's own interface are at the same numbers.
        last = {(leaf.function, leaf.index): leaf for leaf in leaves}
        last[FEATURES, 0].ebx &= ~without_ebx
        last[FEATURES, 0].edx &= ~without_edx
        last[RECOMMENDATIONS, 0].eax |= EAX_CLUSTER_IPI | EAX_EX_PROCESSOR_MASKS
        self.vcpu.set_cpuid2(list(last.values()))
        if enforce:
            self.vcpu.enable_cap(KVM_CAP_HYPERV_ENFORCE_CPUID, 1)
        self.vcpu.set_msrs([(MSR_GUEST_OS_ID, 0x8100_0000_0000_0000)])
        self._write_descriptor_tables()

    def _write_descriptor_tables(self) -> None:
        self.poke(GDT, struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF))
        for vector in range(256):
            handler = HANDLERS + 16 * vector
            self.poke(handler, bytes([0xE6, vector]))  # out vector, al
            gate = struct.pack("<HHBBHII", handler & 0xFFFF, 8, 0, 0x8E, handler >> 16, 0, 0)
            self.poke(IDT + 16 * vector, gate)

    def start(self, code: bytes, **registers: int) -> None:
        super().start(code, **registers)
        sregs = self.vcpu.get_sregs()
        sregs.gdt.base, sregs.gdt.limit = GDT, 23
        sregs.idt.base, sregs.idt.limit = IDT, 16 * 256 - 1
        self.vcpu.set_sregs(sregs)

    def call(self, control: int, rdx: int = 0, r8: int = 0, xmm: Sequence[int] = ()) -> Exit:
        """Make a hypercall; the exit is for it, or port DONE behind it, or a vector's port."""
        self.start(self.hypercall + bytes([0xE6, DONE]), rcx=control, rdx=rdx, r8=r8, rax=MARK)
        fpu = self.vcpu.get_fpu()
        for register, value in enumerate(xmm):
            fpu.xmm[register][:] = value.to_bytes(16, "little")
        self.vcpu.set_fpu(fpu)
        return self.exit()

    def exit(self) -> Exit:
        result, exit_ = self.run()
        assert result == 0, f"KVM_RUN returned {errno.errorcode.get(result, result)}, {exit_}"
        return exit_

    def port(self, exit_: Exit) -> int:
        assert isinstance(exit_, IoExit), exit_
        return exit_.port

    def status(self, exit_: Exit) -> int:
        """What RAX got from a hypercall that is over."""
        assert self.port(exit_) == DONE, exit_
        return int(self.vcpu.get_regs().rax)

    def hcall(self, exit_: Exit) -> kvm_hyperv_exit_hcall_xmm:
        """The exit's structure in the mapping, to be answered in place."""
        assert isinstance(exit_, HypervHcallExit), exit_
        address = ctypes.addressof(self.vcpu.run.struct) + EXIT_UNION + 8
        return kvm_hyperv_exit_hcall_xmm.from_address(address)

    def xmm(self) -> list[int]:
        registers = self.vcpu.get_fpu().xmm
        return [int.from_bytes(bytes(registers[index]), "little") for index in range(6)]

    @property
    def behind(self) -> int:
        """The address of the instruction that follows the hypercall."""
        return CODE + len(self.hypercall)


def _hypercall_instruction(leaves: Sequence[kvm_cpuid_entry2]) -> bytes:
    vendor = next(leaf.ebx for leaf in leaves if leaf.function == 0)
    # "Genu"ineIntel has VMCALL, all others VMMCALL.
    return b"\x0f\x01\xc1" if vendor == 0x756E6547 else b"\x0f\x01\xd9"
