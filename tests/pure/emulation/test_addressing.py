# SPDX-License-Identifier: Apache-2.0
"""Effective addresses, and the segments they are taken in: rights, limits, bases (SDM volume 3, chapter 5)."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation.guest import CODE, processor, raised
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.addressing import linear, offset
from vmm.backend.emulation.decode import MemoryOperand

GP, SS = (x86.GP_VECTOR, 0), (x86.SS_VECTOR, 0)
RAX, RBX = 0, 3
TOP = 1 << 64

EXECUTE_ONLY, READABLE_CODE, READ_ONLY, WRITABLE, EXPAND_DOWN = 9, 0xB, 1, 3, 7


def at(displacement: int, segment: str = "ds", bits: int = 64) -> MemoryOperand:
    return MemoryOperand(segment, bits, (), displacement)


@pytest.mark.parametrize(
    ("operand", "expected"),
    [
        (MemoryOperand("ds", 64, ((RAX, 1), (RBX, 8)), -1), 0x1_0000_0010 + 8 * 0x20 - 1),
        (MemoryOperand("ds", 32, ((RAX, 1), (RBX, 8)), -1), 0x10 + 8 * 0x20 - 1),
        (MemoryOperand("ds", 16, ((RAX, 1),), -0x20), 0xFFF0),
        (MemoryOperand("ds", 64, (), -0x10, rip_relative=True), CODE - 0x10),
        (MemoryOperand("ds", 64, (), -1), TOP - 1),
    ],
)
def test_effective_addresses_are_sums_modulo_their_size(operand: MemoryOperand, expected: int) -> None:
    with processor() as (_, cpu):
        cpu.regs.rax, cpu.regs.rbx = 0x1_0000_0010, 0x20

        assert offset(cpu, operand) == expected


# ---- 64-bit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segment", "expected"), [("ds", 0x10), ("es", 0x10), ("ss", 0x10), ("fs", 0), ("gs", 0)]
)
def test_only_fs_and_gs_have_a_base_in_64_bit_code(segment: str, expected: int) -> None:
    with processor() as (_, cpu):
        getattr(cpu.sregs, segment).base = TOP - 0x10

        assert linear(cpu, at(0x10, segment), 1) == expected


@pytest.mark.parametrize("segment", ["ds", "ss", "fs"])
@pytest.mark.parametrize(
    ("address", "size", "allowed"),
    [
        ((1 << 47) - 8, 8, True),
        ((1 << 47) - 7, 8, False),  # its end is not canonical
        (TOP - (1 << 47), 8, True),
        (TOP - (1 << 47) - 1, 8, False),  # its start is not
        (TOP - 4, 8, True),  # goes on at 0
    ],
)
def test_both_ends_are_canonical(segment: str, address: int, size: int, allowed: bool) -> None:
    with processor() as (_, cpu):
        if allowed:
            assert linear(cpu, at(address, segment), size) == address
        else:
            assert raised(lambda: linear(cpu, at(address, segment), size)) == (SS if segment == "ss" else GP)


def test_limits_and_rights_do_not_count_in_64_bit_code() -> None:
    with processor() as (_, cpu):
        cpu.sregs.ds = x86.kvm_segment(unusable=1)

        assert linear(cpu, at(0x1000), 8, write=True) == 0x1000


# ---- 32-bit and 16-bit -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "write", "execute_only", "allowed"),
    [
        (READ_ONLY, False, False, True),
        (READ_ONLY, True, False, False),
        (WRITABLE, False, False, True),
        (WRITABLE, True, False, True),
        (EXECUTE_ONLY, False, False, False),
        (EXECUTE_ONLY, True, False, False),
        (EXECUTE_ONLY, False, True, True),
        (READABLE_CODE, False, False, True),
        (READABLE_CODE, True, False, False),
    ],
)
def test_what_a_segments_type_allows(kind: int, write: bool, execute_only: bool, allowed: bool) -> None:
    with processor(bits=32) as (_, cpu):
        cpu.sregs.ds.type = kind

        def address() -> int:
            return linear(cpu, at(0x1000, bits=32), 4, write=write, execute_only=execute_only)

        assert (address() == 0x1000) if allowed else (raised(address) == GP)


@pytest.mark.parametrize("changed", [{"unusable": 1}, {"present": 0}])
@pytest.mark.parametrize(("segment", "expected"), [("ds", GP), ("ss", SS)])
def test_segments_that_are_not_there(
    changed: dict[str, int], segment: str, expected: tuple[int, int]
) -> None:
    with processor(bits=32) as (_, cpu):
        for name, value in changed.items():
            setattr(getattr(cpu.sregs, segment), name, value)

        assert raised(lambda: linear(cpu, at(0x1000, segment, 32), 4)) == expected


@pytest.mark.parametrize("mode", ["real", "virtual-8086"])
def test_only_the_limit_counts_without_descriptors(mode: str) -> None:
    with processor(bits=32) as (_, cpu):
        if mode == "real":
            cpu.sregs.cr0 &= ~r.CR0_PE
        else:
            cpu.regs.rflags |= r.RFLAGS_VM
        cpu.sregs.ds = x86.kvm_segment(base=0x1_0000, limit=0xFFFF, type=READ_ONLY, present=1, s=1)

        assert linear(cpu, at(0xFFFC, bits=16), 4, write=True) == 0x1_FFFC
        assert raised(lambda: linear(cpu, at(0xFFFD, bits=16), 4)) == GP


def test_bases_are_added_modulo_4_gib() -> None:
    with processor(bits=32) as (_, cpu):
        cpu.sregs.ds.base = 0xFFFF_F000

        assert linear(cpu, at(0x1234, bits=32), 4) == 0x234


@pytest.mark.parametrize(
    ("big", "first", "last"), [(0, 0x1001, 0xFFFF), (1, 0x1001, 0xFFFF_FFFF)], ids=["16-bit", "32-bit"]
)
def test_an_expand_down_segment_is_what_lies_above_its_limit(big: int, first: int, last: int) -> None:
    with processor(bits=32) as (_, cpu):
        cpu.sregs.ds.type, cpu.sregs.ds.db, cpu.sregs.ds.limit = EXPAND_DOWN, big, 0x1000

        assert linear(cpu, at(first, bits=32), 4) == first
        assert linear(cpu, at(last - 3, bits=32), 4) == last - 3
        assert raised(lambda: linear(cpu, at(first - 1, bits=32), 4)) == GP
        assert raised(lambda: linear(cpu, at(last - 2, bits=32), 4)) == GP


def test_conforming_code_is_no_expand_down_segment() -> None:
    with processor(bits=32) as (_, cpu):
        cpu.sregs.ds.type, cpu.sregs.ds.limit = 0xF, 0x1000

        assert linear(cpu, at(0xFFD, bits=32), 4) == 0xFFD
        assert raised(lambda: linear(cpu, at(0xFFE, bits=32), 4)) == GP
