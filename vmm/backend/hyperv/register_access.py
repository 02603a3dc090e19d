# SPDX-License-Identifier: Apache-2.0
"""General, control, segment and debug registers, and those that are MSRs: from register to accessor.

A value is one unsigned number, up to 128 bits wide (`HV_REGISTER_VALUE`), and has passed
`vmm.hvcalls.register_values`. The vCPU is outside the guest on its VP's thread; general and segment registers are those
that came with the last exit, in kvm_run. Accessors raise `KvmError` where KVM refuses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from kvmapi import Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import x86
from vmm.hv.registers import HvRegisterName, ValueType

SYNTHETIC: Final = range(0x4000_0000, 0x4000_0200)
"""MSRs of the Hyper-V interface."""
_DIRTY_U64: Final = run_page.DIRTY_REGS // 8


class RegisterValueError(Exception):
    """The register cannot take this value: INVALID_REGISTER_VALUE."""


Read = Callable[[Vcpu], int]
Write = Callable[[Vcpu, int], None]

_BY_NAME: Final = {register.name: register for register in HvRegisterName}
_N = HvRegisterName


_LEGACY: Final = ("Rax", "Rcx", "Rdx", "Rbx", "Rsp", "Rbp", "Rsi", "Rdi")


def _general() -> dict[int, str]:
    names = [*_LEGACY, *(f"R{number}" for number in range(8, 16)), "Rip", "Rflags"]
    return {int(_BY_NAME[f"HvX64Register{name}"]): name.lower() for name in names}


def _special() -> dict[int, str]:
    names = ["Cr0", "Cr2", "Cr3", "Cr4", "Cr8", "Efer", "ApicBase"]
    return {int(_BY_NAME[f"HvX64Register{name}"]): name.lower().replace("base", "_base") for name in names}


_GENERAL: Final = _general()
_SPECIAL: Final = _special()
_SEGMENTS: Final = {
    int(_BY_NAME[f"HvX64Register{name}"]): kvm
    for name, kvm in (
        *((f"{letter}s", f"{letter.lower()}s") for letter in "ECSDFG"),
        ("Ldtr", "ldt"),
        ("Tr", "tr"),
    )
}
_TABLES: Final = {int(_N.HvX64RegisterIdtr): "idt", int(_N.HvX64RegisterGdtr): "gdt"}
_DEBUG: Final = {int(_BY_NAME[f"HvX64RegisterDr{number}"]): number for number in (0, 1, 2, 3, 6, 7)}
MSRS: Final = {
    int(name): name.msr
    for name in _N
    if name.msr is not None
    and int(name) not in _SPECIAL
    and name.value_type in (ValueType.U32, ValueType.U64)
}


def _general_accessors(field: str) -> tuple[Read, Write]:
    def read(vcpu: Vcpu) -> int:
        return int(getattr(vcpu.run.regs, field))

    def write(vcpu: Vcpu, value: int) -> None:
        setattr(vcpu.run.regs, field, value)
        vcpu.run.u64[_DIRTY_U64] |= x86.KVM_SYNC_X86_REGS

    return read, write


def refresh(vcpu: Vcpu) -> None:
    """Fetch the synchronised registers anew, unless a change of them waits for the next entry."""
    run = vcpu.run
    if run.u64[_DIRTY_U64] == 0:
        copy(run.regs, vcpu.get_regs())
        copy(run.sregs, vcpu.get_sregs())


def copy(to: Any, source: Any) -> None:
    """Overwrite a structure with another of its kind."""
    ctypes.memmove(ctypes.addressof(to), ctypes.addressof(source), ctypes.sizeof(source))


def regs_of(vcpu: Vcpu) -> x86.kvm_regs:
    """A copy of the general registers that the vCPU enters the guest with: those that wait in kvm_run, else KVM's."""
    run = vcpu.run
    waiting = run.u64[_DIRTY_U64] & x86.KVM_SYNC_X86_REGS
    return x86.kvm_regs.from_buffer_copy(run.regs) if waiting else vcpu.get_regs()


def sregs_of(vcpu: Vcpu) -> x86.kvm_sregs:
    """Likewise of the segment and control registers: a VTL switch leaves CR2 there, and a WRMSR of the TPR CR8."""
    run = vcpu.run
    waiting = run.u64[_DIRTY_U64] & x86.KVM_SYNC_X86_SREGS
    return x86.kvm_sregs.from_buffer_copy(run.sregs) if waiting else vcpu.get_sregs()


def change_sregs(vcpu: Vcpu, change: Callable[[Any], None]) -> None:
    """At once and not with the next entry, which would fail as a whole for a value that KVM refuses."""
    sregs = sregs_of(vcpu)
    change(sregs)
    vcpu.set_sregs(sregs)
    copy(vcpu.run.sregs, sregs)


def _special_accessors(field: str) -> tuple[Read, Write]:
    def read(vcpu: Vcpu) -> int:
        return int(getattr(vcpu.run.sregs, field))

    def write(vcpu: Vcpu, value: int) -> None:
        change_sregs(vcpu, lambda sregs: setattr(sregs, field, value))

    return read, write


# HV_X64_SEGMENT_REGISTER: base 63:0, limit 95:64, selector 111:96, attributes 127:112, of which type 3:0, S 4, DPL 6:5,
# P 7, AVL 12, L 13, D/B 14, G 15.
_ATTRIBUTES: Final = (
    ("type", 0, 15),
    ("s", 4, 1),
    ("dpl", 5, 3),
    ("present", 7, 1),
    ("avl", 12, 1),
    ("l", 13, 1),
    ("db", 14, 1),
    ("g", 15, 1),
)
_PRESENT: Final = 1 << 7


def segment_value(segment: Any) -> int:
    """A `kvm_segment` as HV_X64_SEGMENT_REGISTER; one that is unusable has Present clear."""
    attributes = sum(getattr(segment, name) << shift for name, shift, _ in _ATTRIBUTES)
    if segment.unusable:
        attributes &= ~_PRESENT
    return int(segment.base | segment.limit << 64 | segment.selector << 96 | attributes << 112)


def put_segment(segment: Any, value: int) -> None:
    """Set a `kvm_segment` to an HV_X64_SEGMENT_REGISTER; without Present it is unusable."""
    segment.base = value & (1 << 64) - 1
    segment.limit = value >> 64 & 0xFFFF_FFFF
    segment.selector = value >> 96 & 0xFFFF
    for name, shift, mask in _ATTRIBUTES:
        setattr(segment, name, value >> 112 >> shift & mask)
    segment.unusable = not segment.present


def table_value(table: Any) -> int:
    """A `kvm_dtable` as HV_X64_TABLE_REGISTER: limit 63:48, base 127:64."""
    return int(table.limit << 48 | table.base << 64)


def put_table(table: Any, value: int) -> None:
    """Set a `kvm_dtable` to an HV_X64_TABLE_REGISTER."""
    table.limit, table.base = value >> 48 & 0xFFFF, value >> 64


def _sregs_accessors(
    field: str, get: Callable[[Any], int], put: Callable[[Any, int], None]
) -> tuple[Read, Write]:
    def read(vcpu: Vcpu) -> int:
        return get(getattr(vcpu.run.sregs, field))

    def write(vcpu: Vcpu, value: int) -> None:
        change_sregs(vcpu, lambda sregs: put(getattr(sregs, field), value))

    return read, write


def _debug_accessors(number: int) -> tuple[Read, Write]:
    def read(vcpu: Vcpu) -> int:
        registers = vcpu.get_debugregs()
        return int(registers.db[number] if number < 4 else getattr(registers, f"dr{number}"))

    def write(vcpu: Vcpu, value: int) -> None:
        registers = vcpu.get_debugregs()
        if number < 4:
            registers.db[number] = value
        else:
            setattr(registers, f"dr{number}", value)
        vcpu.set_debugregs(registers)

    return read, write


def _msr_accessors(msr: int) -> tuple[Read, Write]:
    def read(vcpu: Vcpu) -> int:
        return vcpu.get_msrs([msr])[0][1]

    def write(vcpu: Vcpu, value: int) -> None:
        vcpu.set_msrs([(msr, value & (1 << 64) - 1)])

    return read, write


def _initial_apic_id() -> tuple[Read, Write | None]:
    return lambda vcpu: vcpu.vcpu_id, None


ACCESSORS: Final[dict[int, tuple[Read, Write | None]]] = {
    **{register: _general_accessors(field) for register, field in _GENERAL.items()},
    **{register: _special_accessors(field) for register, field in _SPECIAL.items()},
    **{
        register: _sregs_accessors(field, segment_value, put_segment) for register, field in _SEGMENTS.items()
    },
    **{register: _sregs_accessors(field, table_value, put_table) for register, field in _TABLES.items()},
    **{register: _debug_accessors(number) for register, number in _DEBUG.items()},
    **{register: _msr_accessors(msr) for register, msr in MSRS.items() if msr not in SYNTHETIC},
    int(_N.HvX64RegisterInitialApicId): _initial_apic_id(),
}
"""Register -> how it is read and, unless it never is, written."""
