# SPDX-License-Identifier: Apache-2.0
"""`Processor`: a vCPU's registers while one instruction is carried out, and how they get back to KVM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from kvmapi import KvmError, Vcpu
from kvmapi.uapi import x86
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.faults import GuestFaultError
from vmm.backend.emulation.linear import LinearMemory
from vmm.backend.emulation.page_walk import Paging
from vmm.hypercall.outside import ProcessorMemory

_DEFAULT_PHYSICAL_BITS = (
    36  # of a processor with PAE that has no leaf 80000008H (SDM volume 3, section 4.1.4)
)
_PKRU_LEAF = 0xD, 9  # EBX: where PKRU lies in the XSAVE area
_XCOMP_HEADER = 512  # offset of XSTATE_BV in the XSAVE area (SDM volume 1, section 13.4.2)


@dataclass(frozen=True, slots=True)
class Feature:
    """A CPUID bit: `bit` of register `register` of leaf `leaf`, sub-leaf `index`."""

    leaf: int
    register: Literal["eax", "ebx", "ecx", "edx"]
    bit: int
    index: int = 0


_PKU = Feature(7, "ecx", 3)
_PKS = Feature(7, "ecx", 31)


class Cpuid:
    """What the vCPU's CPUID says; only bits that do not change while the guest runs are asked for."""

    def __init__(self, entries: list[x86.kvm_cpuid_entry2]) -> None:
        self._entries = {
            (entry.function, entry.index if entry.flags & x86.KVM_CPUID_FLAG_SIGNIFCANT_INDEX else 0): entry
            for entry in entries
        }

    def value(self, leaf: int, register: str, index: int = 0) -> int:
        """A whole register; 0 for a leaf that is not there."""
        entry = self._entries.get((leaf, index))
        return 0 if entry is None else int(getattr(entry, register))

    def has(self, feature: Feature) -> bool:
        """Whether the guest is told that it has `feature`."""
        return bool(self.value(feature.leaf, feature.register, feature.index) >> feature.bit & 1)

    @property
    def physical_bits(self) -> int:
        """MAXPHYADDR."""
        bits = self.value(0x8000_0008, "eax") & 0xFF or _DEFAULT_PHYSICAL_BITS
        return min(max(bits, 32), 52)


class Processor:
    """Registers as they were at the exit, to be changed by a handler and stored by `retire` or `raise_fault`.

    `regs` and `sregs` are copies: nothing reaches KVM before one of those two, or `leave`. All methods: the VP's own
    thread.
    """

    def __init__(self, vcpu: Vcpu, memory: ProcessorMemory, cpuid: Cpuid) -> None:
        self.vcpu = vcpu
        self.cpuid = cpuid
        self.regs = vcpu.get_regs()
        self.sregs = vcpu.get_sregs()
        self.memory = LinearMemory(memory, lambda: self.paging)
        self._regs_before = bytes(self.regs)
        self._sregs_before = bytes(self.sregs)

    # ---- mode ----------------------------------------------------------------------------------------

    @property
    def protected(self) -> bool:
        """CR0.PE: protected mode, or IA-32e mode."""
        return bool(self.sregs.cr0 & r.CR0_PE)

    @property
    def virtual_8086(self) -> bool:
        return self.protected and bool(self.regs.rflags & r.RFLAGS_VM)

    @property
    def long_mode(self) -> bool:
        """IA-32e mode: 64-bit or compatibility mode."""
        return bool(self.sregs.efer & r.EFER_LMA)

    @property
    def bits(self) -> int:
        """What code segment the instruction is in: 16, 32 or 64."""
        if self.long_mode and self.sregs.cs.l:
            return 64
        return 32 if self.sregs.cs.db and not self.virtual_8086 else 16

    @property
    def cpl(self) -> int:
        """The current privilege level: 0 in real mode, else what SS's hidden part says, as KVM and SVM keep it."""
        if not self.protected:
            return 0
        return 3 if self.virtual_8086 else int(self.sregs.ss.dpl)

    @property
    def stack_mask(self) -> int:
        """The bits of RSP that count: 64-bit mode, or SS.B."""
        if self.bits == 64:
            return 0xFFFF_FFFF_FFFF_FFFF
        return 0xFFFF_FFFF if self.sregs.ss.db else 0xFFFF

    # ---- registers -----------------------------------------------------------------------------------

    def gpr(self, number: int) -> int:
        """All 64 bits of the general register that ModRM and REX call `number`."""
        return int(getattr(self.regs, r.GPRS[number]))

    def set_gpr(self, number: int, value: int) -> None:
        """Set all 64 bits of a general register."""
        setattr(self.regs, r.GPRS[number], value)

    def advance(self, length: int) -> None:
        """RIP behind an instruction of `length` bytes."""
        self.regs.rip = self.regs.rip + length & (1 << self.bits) - 1

    def set_pair(self, value: int) -> None:
        """EDX:EAX = the two halves of `value`; clears the upper halves of RDX and RAX."""
        self.regs.rax = value & 0xFFFF_FFFF
        self.regs.rdx = value >> 32

    def pair(self) -> int:
        """EDX:EAX as a 64-bit value."""
        return int((self.regs.rdx & 0xFFFF_FFFF) << 32 | self.regs.rax & 0xFFFF_FFFF)

    @cached_property
    def paging(self) -> Paging:
        """What paging looks at. No handler changes any of it before its last memory access."""
        cr4 = int(self.sregs.cr4)
        return Paging(
            cr0=self.sregs.cr0,
            cr3=self.sregs.cr3,
            cr4=cr4,
            efer=self.sregs.efer,
            ac=bool(self.regs.rflags & r.RFLAGS_AC),
            physical_bits=self.cpuid.physical_bits,
            gigabyte_pages=bool(self.cpuid.value(0x8000_0001, "edx") >> 26 & 1),
            # Some hosts let a guest set these bits of CR4 without the feature; there are no keys then.
            pkru=self._pkru if cr4 & r.CR4_PKE and self.cpuid.has(_PKU) else 0,
            pkrs=self._pkrs if cr4 & r.CR4_PKS and self.cpuid.has(_PKS) else 0,
        )

    def canonical(self, linear_address: int) -> bool:
        """Whether a 64-bit linear address is canonical for the paging in use."""
        return self.paging.canonical(linear_address)

    @cached_property
    def _pkru(self) -> int:
        offset = self.cpuid.value(_PKRU_LEAF[0], "ebx", _PKRU_LEAF[1])
        if not offset:  # keys without XSAVE: KVM tells PKRU nowhere then; no key is taken to forbid anything
            return 0
        return int.from_bytes(bytes(self.vcpu.get_xsave())[offset : offset + 4], "little")

    @cached_property
    def _pkrs(self) -> int:
        return self.vcpu.get_msrs([r.MSR_IA32_PKRS])[0][1]

    # ---- state that is not in regs and sregs ---------------------------------------------------------

    def xcr0(self) -> int:
        """XCR0 (`KVM_GET_XCRS`)."""
        xcrs = self.vcpu.get_xcrs()
        return next((int(item.value) for item in xcrs.xcrs[: xcrs.nr_xcrs] if item.xcr == 0), 1)

    def xstate_in_use(self) -> int:
        """XSTATE_BV: the state components that are not in their initial state."""
        area = bytes(self.vcpu.get_xsave())
        return int.from_bytes(area[_XCOMP_HEADER : _XCOMP_HEADER + 8], "little")

    def set_xcr0(self, value: int) -> bool:
        """XCR0 = `value`. False when KVM refuses it."""
        xcrs = x86.kvm_xcrs(nr_xcrs=1)
        xcrs.xcrs[0].xcr, xcrs.xcrs[0].value = 0, value
        try:
            self.vcpu.set_xcrs(xcrs)
        except KvmError:
            return False
        return True

    def flush_tlb(self) -> None:
        """Forget all translations of the guest's, global ones included, of every PCID.

        KVM has no ioctl for it, but flushes when `KVM_SET_SREGS` changes CR4: so CR4.PGE goes there and back,
        and no guest instruction runs in between.
        """
        other = x86.kvm_sregs.from_buffer_copy(self._sregs_before)
        other.cr4 ^= r.CR4_PGE
        self.vcpu.set_sregs(other)
        other.cr4 ^= r.CR4_PGE
        self.vcpu.set_sregs(other)

    # ---- how an instruction ends ---------------------------------------------------------------------

    def retire(self, *, trap: bool, resume: bool = False, holds_interrupts: bool = False) -> None:
        """The instruction took effect: store what changed. RIP is already where the guest goes on.

        trap: a single-step trap may follow if RFLAGS.TF was set when the instruction began (all but `INT n`). resume:
        RFLAGS.RF is what the instruction has loaded. holds_interrupts: it loads SS: no interrupt comes before the next
        one. A processor would hold the trap back as well; here it comes at once.
        """
        stepping = trap and x86.kvm_regs.from_buffer_copy(self._regs_before).rflags & r.RFLAGS_TF
        if not resume:
            self.regs.rflags &= ~r.RFLAGS_RF
        self._store()
        if stepping:
            self.debug_trap(r.DR6_BS)
            return
        events = self.vcpu.get_vcpu_events()
        shadow = x86.KVM_X86_SHADOW_INT_MOV_SS if holds_interrupts else 0
        if events.interrupt.shadow != shadow:
            events.interrupt.shadow = shadow
            self._put_events(events)

    def debug_trap(self, dr6: int) -> None:
        """#DB behind the last instruction; its causes are added to DR6. KVM delivers it with the next `KVM_RUN`."""
        debug = self.vcpu.get_debugregs()
        debug.dr6 |= dr6
        self.vcpu.set_debugregs(debug)
        self._set_event(x86.DB_VECTOR, None)

    def raise_fault(self, fault: GuestFaultError) -> None:
        """The instruction changed nothing and raises an exception; KVM delivers it with the next `KVM_RUN`."""
        self.regs = x86.kvm_regs.from_buffer_copy(self._regs_before)
        self.sregs = x86.kvm_sregs.from_buffer_copy(self._sregs_before)
        self.regs.rflags |= r.RFLAGS_RF  # what a fault pushes (SDM volume 3, section 17.3.1.1)
        if fault.cr2 is not None:
            self.sregs.cr2 = fault.cr2
        self._store()
        self._set_event(fault.vector, fault.error_code if self.protected else None)

    def leave(self) -> None:
        """The instruction changed nothing, and is to be made again."""
        self.regs = x86.kvm_regs.from_buffer_copy(self._regs_before)
        self.sregs = x86.kvm_sregs.from_buffer_copy(self._sregs_before)
        self._store()

    def _store(self) -> None:
        if bytes(self.sregs) != self._sregs_before:
            self.vcpu.set_sregs(self.sregs)
        # Always: it also takes back the #UD that KVM leaves pending when its emulator fails in ring 0.
        self.vcpu.set_regs(self.regs)

    def _set_event(self, vector: int, error_code: int | None) -> None:
        events = self.vcpu.get_vcpu_events()
        events.exception.injected = 1
        events.exception.pending = 0
        events.exception.nr = vector
        events.exception.has_error_code = error_code is not None
        events.exception.error_code = error_code or 0
        events.interrupt.shadow = 0
        self._put_events(events)

    def _put_events(self, events: x86.kvm_vcpu_events) -> None:
        # Only the shadow: an NMI or SMI that came since the GET must not be lost by writing it back.
        events.flags = x86.KVM_VCPUEVENT_VALID_SHADOW
        self.vcpu.set_vcpu_events(events)
