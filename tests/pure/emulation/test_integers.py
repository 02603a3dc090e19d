# SPDX-License-Identifier: Apache-2.0
"""POPCNT and CMPXCHG16B: values, flags, faults, and rights to the memory."""

from __future__ import annotations

import pytest

from tests.pure.emulation.guest import CODE, DATA, PT, a_guest
from tests.pure.emulation.test_protected import NONE, RX, Protected
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.integers import CX16
from vmm.backend.emulation.processor import Feature
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.rights import WRITE

UD, GP, PF = 6, 13, 14
POPCNT = Feature(1, "ecx", 23)
ARITHMETIC = r.RFLAGS_CF | r.RFLAGS_PF | r.RFLAGS_AF | r.RFLAGS_ZF | r.RFLAGS_SF | r.RFLAGS_OF
CMPXCHG16B = b"\x48\x0f\xc7\x0b"  # at [rbx], which is also its source's low half
LOCK = b"\xf0"
EXPECTED, NEW_HIGH = 0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF, 0x1234


@pytest.mark.parametrize(
    ("code", "bits", "source", "expected"),
    [
        (b"\xf3\x48\x0f\xb8\xc7", 64, 0xFFFF_0000_FFFF_0001, 33),  # popcnt rax, rdi
        (b"\xf3\x0f\xb8\xc7", 64, 0xFFFF_0000_FFFF_0001, 17),  # popcnt eax, edi
        (b"\x66\xf3\x0f\xb8\xc7", 64, 0xFFFF_0000_FFFF_0003, 0xAAAA_AAAA_AAAA_0002),  # popcnt ax, di
        (b"\xf3\x0f\xb8\xc7", 32, 0xFFFF_0001, 17),
        (b"\x66\xf3\x0f\xb8\xc7", 32, 0xFFFF_0003, 0xAAAA_AAAA_AAAA_0002),
    ],
)
def test_bits_are_counted(code: bytes, bits: int, source: int, expected: int) -> None:
    with a_guest(POPCNT, bits=bits) as guest:
        guest.set_regs(rax=0xAAAA_AAAA_AAAA_AAAA, rdi=source, rflags=2 | ARITHMETIC | r.RFLAGS_IF)

        assert guest.carry_out(code) is None

        assert guest.regs.rax == expected
        assert guest.regs.rflags == 2 | r.RFLAGS_IF
        assert (guest.exception, guest.regs.rip) == (None, CODE + len(code))


def test_no_bits_set_the_zero_flag() -> None:
    with a_guest(POPCNT) as guest:
        guest.set_regs(rbx=DATA, rflags=2 | ARITHMETIC)

        guest.carry_out(b"\xf3\x48\x0f\xb8\x03")  # popcnt rax, [rbx]

        assert (guest.regs.rax, guest.regs.rflags) == (0, 2 | r.RFLAGS_ZF)


def test_bits_in_memory_are_counted() -> None:
    with a_guest(POPCNT) as guest:
        guest.memory.put(DATA, 0b1011)
        guest.set_regs(rbx=DATA)

        guest.carry_out(b"\xf3\x0f\xb8\x03")

        assert guest.regs.rax == 3


@pytest.mark.parametrize("code", [b"\xf3\x0f\xb8\xc7", b"\xf0\xf3\x0f\xb8\x07"])
def test_popcnt_that_is_not_there_or_locked_is_undefined(code: bytes) -> None:
    with a_guest(*([POPCNT] if code[0] == LOCK[0] else [])) as guest:
        guest.carry_out(code)

        assert guest.exception == (UD, None)


@pytest.mark.parametrize("prefix", [b"", LOCK])
def test_a_pair_that_is_there_is_exchanged(prefix: bytes) -> None:
    with a_guest(CX16) as guest:
        guest.memory.put(DATA, EXPECTED, 16)
        guest.set_regs(
            rax=EXPECTED & (1 << 64) - 1, rdx=EXPECTED >> 64, rbx=DATA, rcx=NEW_HIGH, rflags=2 | r.RFLAGS_CF
        )

        assert guest.carry_out(prefix + CMPXCHG16B) is None

        assert guest.memory.number(DATA, 16) == NEW_HIGH << 64 | DATA
        assert guest.regs.rflags == 2 | r.RFLAGS_CF | r.RFLAGS_ZF
        assert (guest.regs.rax, guest.regs.rdx) == (EXPECTED & (1 << 64) - 1, EXPECTED >> 64)


def test_a_pair_that_is_another_is_loaded() -> None:
    with a_guest(CX16) as guest:
        guest.memory.put(DATA, EXPECTED, 16)
        guest.set_regs(rax=1, rdx=EXPECTED >> 64, rbx=DATA, rflags=2 | ARITHMETIC)

        guest.carry_out(CMPXCHG16B)

        assert guest.memory.number(DATA, 16) == EXPECTED
        assert (guest.regs.rax, guest.regs.rdx) == (EXPECTED & (1 << 64) - 1, EXPECTED >> 64)
        assert guest.regs.rflags == 2 | ARITHMETIC & ~r.RFLAGS_ZF


def test_a_pair_must_be_aligned() -> None:
    with a_guest(CX16) as guest:
        guest.set_regs(rbx=DATA + 8)

        guest.carry_out(CMPXCHG16B)

        assert guest.exception == (GP, 0)


def test_a_pair_is_written_whatever_is_found() -> None:
    with a_guest(CX16) as guest:
        guest.change_page(DATA, clear=2)
        guest.set_regs(rax=1, rbx=DATA)

        guest.carry_out(CMPXCHG16B)

        assert guest.exception == (PF, 3)


def test_a_pair_in_a_page_that_is_not_ram_is_declined() -> None:
    with a_guest(CX16) as guest:
        guest.memory.put(PT + 8 * (DATA >> 12), 0xFEC0_0000 | 7)
        guest.set_regs(rbx=DATA)

        assert "not RAM" in str(guest.carry_out(CMPXCHG16B))


def test_without_its_cpuid_bit_it_is_undefined() -> None:
    with a_guest() as guest:
        guest.set_regs(rbx=DATA)

        guest.carry_out(CMPXCHG16B)

        assert guest.exception == (UD, None)


@pytest.mark.parametrize(("code", "bits"), [(b"\x0f\xc7\x0b", 64), (b"\x0f\xc7\x0b", 32)])
def test_eight_bytes_are_left_to_kvm(code: bytes, bits: int) -> None:
    with a_guest(CX16, bits=bits) as guest:
        guest.set_regs(rbx=DATA)

        assert "CMPXCHG8B" in str(guest.carry_out(code))


@pytest.mark.tlfs("VSM-080", "VSM-083")
@pytest.mark.parametrize("flags", [NONE, RX])
def test_a_pair_that_a_higher_vtl_protects_is_a_write(flags: int) -> None:
    with a_guest(CX16) as guest:
        protected = Protected(guest)
        guest.memory.put(DATA, EXPECTED, 16)
        guest.set_regs(rax=1, rbx=DATA)
        protected.protect(flags, DATA)

        assert protected.carry_out(CMPXCHG16B) == MemoryAccess(DATA, WRITE, DATA, CMPXCHG16B)

        assert guest.memory.number(DATA, 16) == EXPECTED
