# SPDX-License-Identifier: Apache-2.0
"""How each VP register that KVM has is read and written: tables from register to accessor.

A value is one unsigned number, up to 128 bits wide (`HV_REGISTER_VALUE`). The vCPU is outside the guest on its VP's
thread; general and segment registers are those that came with the exit, in kvm_run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from kvmapi import Vcpu
from vmm.hv.registers import HvRegisterName, ValueType

VALUE_BYTES: Final = 16
SYNTHETIC: Final = range(0x4000_0000, 0x4000_0200)
"""MSRs of the Hyper-V interface."""
_XMM_IN_XSAVE: Final = 160
_XSTATE_BV: Final = 512
_SSE: Final = 1 << 1

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
_XMM: Final = {int(_BY_NAME[f"HvX64RegisterXmm{number}"]): number for number in range(16)}
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
        setattr(vcpu.run.regs, field, value)  # the hypercall's end hands them to KVM

    return read, write


def _change_sregs(vcpu: Vcpu, change: Callable[[Any], None]) -> None:
    """At once and not with the next entry, which would fail as a whole for a value that KVM refuses."""
    sregs = vcpu.get_sregs()
    change(sregs)
    vcpu.set_sregs(sregs)
    ctypes.memmove(ctypes.addressof(vcpu.run.sregs), ctypes.addressof(sregs), ctypes.sizeof(sregs))


def _special_accessors(field: str) -> tuple[Read, Write]:
    def read(vcpu: Vcpu) -> int:
        return int(getattr(vcpu.run.sregs, field))

    def write(vcpu: Vcpu, value: int) -> None:
        _change_sregs(vcpu, lambda sregs: setattr(sregs, field, value))

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


def _segment_accessors(field: str) -> tuple[Read, Write]:
    def read(vcpu: Vcpu) -> int:
        segment = getattr(vcpu.run.sregs, field)
        attributes = sum(getattr(segment, name) << shift for name, shift, _ in _ATTRIBUTES)
        return int(segment.base | segment.limit << 64 | segment.selector << 96 | attributes << 112)

    def change(sregs: Any, value: int) -> None:
        segment = getattr(sregs, field)
        segment.base = value & (1 << 64) - 1
        segment.limit = value >> 64 & 0xFFFF_FFFF
        segment.selector = value >> 96 & 0xFFFF
        for name, shift, mask in _ATTRIBUTES:
            setattr(segment, name, value >> 112 >> shift & mask)
        segment.unusable = not segment.present

    return read, lambda vcpu, value: _change_sregs(vcpu, lambda sregs: change(sregs, value))


def _table_accessors(field: str) -> tuple[Read, Write]:
    """HV_X64_TABLE_REGISTER: limit 63:48, base 127:64."""

    def read(vcpu: Vcpu) -> int:
        table = getattr(vcpu.run.sregs, field)
        return int(table.limit << 48 | table.base << 64)

    def change(sregs: Any, value: int) -> None:
        table = getattr(sregs, field)
        table.limit, table.base = value >> 48 & 0xFFFF, value >> 64

    return read, lambda vcpu, value: _change_sregs(vcpu, lambda sregs: change(sregs, value))


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


def _xmm_accessors(number: int) -> tuple[Read, Write]:
    at = _XMM_IN_XSAVE + VALUE_BYTES * number

    def read(vcpu: Vcpu) -> int:
        return int.from_bytes(
            ctypes.string_at(ctypes.addressof(vcpu.get_xsave()) + at, VALUE_BYTES), "little"
        )

    def write(vcpu: Vcpu, value: int) -> None:
        area = vcpu.get_xsave()
        address = ctypes.addressof(area)
        ctypes.memmove(address + at, value.to_bytes(VALUE_BYTES, "little"), VALUE_BYTES)
        ctypes.c_uint8.from_address(address + _XSTATE_BV).value |= _SSE
        vcpu.set_xsave(area)

    return read, write


def _msr_accessors(msr: int) -> tuple[Read, Write]:
    def read(vcpu: Vcpu) -> int:
        return vcpu.get_msrs([msr])[0][1]

    def write(vcpu: Vcpu, value: int) -> None:
        vcpu.set_msrs([(msr, value & (1 << 64) - 1)])

    return read, write


def _accessors() -> dict[int, tuple[Read, Write]]:
    return {
        **{register: _general_accessors(field) for register, field in _GENERAL.items()},
        **{register: _special_accessors(field) for register, field in _SPECIAL.items()},
        **{register: _segment_accessors(field) for register, field in _SEGMENTS.items()},
        **{register: _table_accessors(field) for register, field in _TABLES.items()},
        **{register: _debug_accessors(number) for register, number in _DEBUG.items()},
        **{register: _xmm_accessors(number) for register, number in _XMM.items()},
        **{register: _msr_accessors(msr) for register, msr in MSRS.items() if msr not in SYNTHETIC},
    }


_READABLE: Final = frozenset(int(register) for register in _N if register.access.readable)
_WRITABLE: Final = frozenset(int(register) for register in _N if register.access.writable)
READERS: Final[dict[int, Read]] = {
    register: read for register, (read, _) in _accessors().items() if register in _READABLE
}
WRITERS: Final[dict[int, Write]] = {
    register: write
    for register, (_, write) in _accessors().items()
    if register in _WRITABLE and register != _N.HvX64RegisterTsc  # all VPs and VTLs read the same TSC
}
