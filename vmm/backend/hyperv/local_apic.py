# SPDX-License-Identifier: Apache-2.0
"""EOI, ICR and TPR of a local APIC that lives in the kernel (`vmm.hvmsr.outside.LocalApic`).

| register | how |
|---|---|
| EOI | KVM_SET_MSRS of HV_X64_MSR_EOI where KVM has it, of the x2APIC's EOI in that mode; else KVM_SET_LAPIC |
| ICR | KVM_SIGNAL_MSI, which knows all of an ICR's delivery modes and destinations but the shorthands |
| TPR | CR8: bits 7:4 count, 3:0 are only kept. Of WRMSR in the synchronised registers, of a hypercall in KVM at once |

KVM_SET_LAPIC writes back what KVM_GET_LAPIC read: an interrupt that another processor sends in between is lost. So it
is the last resort, for guests that end interrupts by MSR in xAPIC mode on a KVM without Hyper-V emulation.

Implements: APIC-002, APIC-003
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from struct import Struct
from typing import Final

from kvmapi import KvmError, Vcpu, Vm
from kvmapi import run as run_page
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from vmm.backend.hyperv.register_access import change_sregs
from vmm.hvcalls.outside import MessageInterrupt

MSI_ADDRESS: Final = 0xFEE0_0000
_MSI_LOGICAL: Final = 1 << 2

_WORDS: Final = Struct("<" + "I12x" * 8).unpack_from
"""A 256-bit register: 32 bits in every 16 bytes (SDM volume 3, 11.8.4)."""
ISR: Final = 0x100
IRR: Final = 0x200
_PPR: Final = 0xA0
_APIC_BASE_EXTD: Final = 1 << 10
_MSR_X2APIC_EOI: Final = 0x80B
_MSR_HV_EOI: Final = 0x4000_0070

# ICR (SDM volume 3, 11.6.1), whose low bits a message's data has too
_DELIVERY_SHIFT: Final = 8
_ICR_VECTOR_AND_MODE: Final = 0x7FF
_ICR_DELIVERY: Final = 7 << 8
_ICR_INIT: Final = 5 << 8
_ICR_LOGICAL: Final = 1 << 11
_ICR_ASSERT: Final = 1 << 14
_ICR_LEVEL: Final = 1 << 15
_ICR_SHORTHAND: Final = 3 << 18
_SELF, _ALL, _OTHERS = 1 << 18, 2 << 18, 3 << 18

_DIRTY_U64: Final = run_page.DIRTY_REGS // 8


def msi_address(destination: int, logical: bool = False) -> int:
    """KVM_SIGNAL_MSI's 64-bit address for a 32-bit APIC id (api.rst KVM_CAP_X2APIC_API)."""
    return MSI_ADDRESS | (destination & 0xFF) << 12 | (destination >> 8) << 40 | logical * _MSI_LOGICAL


def msi_data(interrupt: MessageInterrupt) -> int:
    """A message's data."""
    level = _ICR_LEVEL | _ICR_ASSERT if interrupt.level else 0
    return interrupt.vector | interrupt.delivery_mode << _DELIVERY_SHIFT | level


def signal(vm: Vm, address: int, data: int) -> bool:
    """Send an MSI; False where no local APIC takes it."""
    try:
        return vm.signal_msi(address, data) > 0
    except KvmError as error:
        if error.errno == errno.EPERM:  # no local APIC has this destination
            return False
        raise


class KvmLocalApic:
    """The local APIC of one VP. Used on its VP's thread, between two `KVM_RUN`s."""

    def __init__(self, vm: Vm, vcpu: Vcpu, apic_ids: Sequence[int]) -> None:
        """apic_ids: of all processors, for the ICR's shorthands."""
        self._vm = vm
        self.vcpu = vcpu
        self._others = [apic_id for apic_id in apic_ids if apic_id != vcpu.vcpu_id]
        self._icr = 0
        self._tpr = 0
        self._kernel_eoi = vm.check_extension(k.KVM_CAP_HYPERV) > 0

    # ---- EOI -----------------------------------------------------------------------------------------

    def end_of_interrupt(self) -> int | None:
        """EOI: the vector that was in service, None when there was none."""
        lapic = self.vcpu.get_lapic()
        vector = in_service(lapic)
        if vector is not None:
            self._end(lapic, vector)
        return vector

    def end_if_in_service(self, vector: int, lapic: x86.kvm_lapic_state) -> bool:
        """EOI for `vector` if it is the one that an EOI would end. `lapic`: read just now."""
        if in_service(lapic) != vector:
            return False
        self._end(lapic, vector)
        return True

    def _end(self, lapic: x86.kvm_lapic_state, vector: int) -> None:
        if self._kernel_eoi:
            self.vcpu.set_msrs([(_MSR_HV_EOI, 0)])
        elif self.vcpu.run.sregs.apic_base & _APIC_BASE_EXTD:
            self.vcpu.set_msrs([(_MSR_X2APIC_EOI, 0)])
        else:
            lapic.regs[_byte(ISR, vector)] &= ~(1 << vector % 8) & 0xFF
            self.vcpu.set_lapic(lapic)

    # ---- ICR -----------------------------------------------------------------------------------------

    def read_icr(self) -> int:
        """What was written last."""
        return self._icr

    def write_icr(self, value: int) -> bool:
        """Send an IPI. Never faults: what no local APIC takes is lost."""
        self._icr = value
        if value & (_ICR_DELIVERY | _ICR_LEVEL | _ICR_ASSERT) == _ICR_INIT | _ICR_LEVEL:
            return True  # INIT level de-assert: without effect since the Pentium 4
        data = value & (_ICR_VECTOR_AND_MODE | _ICR_ASSERT | _ICR_LEVEL)
        for address in self._addresses(value):
            signal(self._vm, address, data)
        return True

    def _addresses(self, value: int) -> list[int]:
        own = self.vcpu.vcpu_id
        match value & _ICR_SHORTHAND:
            case 0:
                high = value >> 32
                destination = high if self.vcpu.run.sregs.apic_base & _APIC_BASE_EXTD else high >> 24
                return [msi_address(destination, bool(value & _ICR_LOGICAL))]
            case shorthand if shorthand == _SELF:
                return [msi_address(own)]
            case shorthand if shorthand == _OTHERS:
                return [msi_address(apic_id) for apic_id in self._others]
            case _:
                return [msi_address(apic_id) for apic_id in [*self._others, own]]

    # ---- TPR -----------------------------------------------------------------------------------------

    def read_tpr(self) -> int:
        """Task priority, 8 bits."""
        tpr: int = self.vcpu.run.sregs.cr8 << 4
        return self._tpr if self._tpr & 0xF0 == tpr else tpr

    def write_tpr(self, value: int) -> None:
        """Set the task priority with the next entry; 8 bits."""
        self._tpr = value
        run = self.vcpu.run
        run.sregs.cr8 = value >> 4
        run.u64[_DIRTY_U64] |= x86.KVM_SYNC_X86_SREGS

    def put_tpr(self, value: int) -> None:
        """The same of a VTL that may not run next: what its local APIC holds back is looked up in KVM."""
        change_sregs(self.vcpu, lambda sregs: setattr(sregs, "cr8", value >> 4))
        self._tpr = value


def in_service(lapic: x86.kvm_lapic_state) -> int | None:
    """The highest vector in service."""
    return highest(lapic, ISR)


def deliverable(lapic: x86.kvm_lapic_state) -> bool:
    """Whether an interrupt is requested whose class is above the processor priority (SDM volume 3, 11.8.3.1)."""
    requested = highest(lapic, IRR)
    return requested is not None and requested >> 4 > lapic.regs[_PPR] >> 4


def has(lapic: x86.kvm_lapic_state, register: int, vector: int) -> bool:
    """Bit `vector` of a 256-bit register (`ISR`, `IRR`)."""
    return bool(lapic.regs[_byte(register, vector)] >> vector % 8 & 1)


def _byte(register: int, vector: int) -> int:
    """Where the bit lies: 32 bits in every 16 bytes (SDM volume 3, 11.8.4)."""
    return register + vector // 32 * 16 + vector % 32 // 8


def highest(lapic: x86.kvm_lapic_state, register: int) -> int | None:
    """The highest bit set in a 256-bit register (`ISR`, `IRR`)."""
    words = _WORDS(lapic, register)
    if any(words):
        for word in range(7, -1, -1):
            if words[word]:
                return word * 32 + int(words[word]).bit_length() - 1
    return None
