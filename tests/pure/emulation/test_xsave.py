# SPDX-License-Identifier: Apache-2.0
"""XSAVE, XSAVEOPT, XSAVEC, XRSTOR: both formats, what stays as it is, what becomes initial, faults."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation.guest import CODE, DATA, XSAVE, Guest, a_guest
from tests.pure.emulation.test_protected import NONE, RX, Protected
from tests.pure.emulation.test_vector import area, number, prepare, put
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.processor import Feature
from vmm.backend.emulation.xsave import XSAVEC
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.rights import READ, WRITE

UD, NM, GP, PF = 6, 7, 13, 14
XSAVEOPT = Feature(0xD, "eax", 0, index=1)
ALL = (XSAVE, XSAVEOPT, XSAVEC)
X87, SSE, AVX = 1, 2, 4
SAVE, RESTORE = b"\x48\x0f\xae\x23", b"\x48\x0f\xae\x2b"  # xsave64 [rbx], xrstor64 [rbx]
SAVE_OPTIMIZED, SAVE_COMPACTED = b"\x48\x0f\xae\x33", b"\x48\x0f\xc7\x23"
FCW, MXCSR, MXCSR_MASK, ST0, XMM3, XSTATE_BV, XCOMP_BV, YMM3_HIGH = 0, 24, 28, 32, 208, 512, 520, 576 + 48
COMPACTED = 1 << 63
UNTOUCHED = 0xA5
STATE = {
    FCW: (0x027F, 2),
    MXCSR: (0x1FA0, 4),
    ST0: (1 << 79, 10),
    XMM3: (3 << 100, 16),
    YMM3_HIGH: (5 << 90, 16),
}
"""What `used` puts into the processor's own area: offset, value, bytes."""


def used(guest: Guest, in_use: int = X87 | SSE | AVX, xcr0: int = 7) -> None:
    """The processor has `STATE`, and RBX is at an area full of UNTOUCHED."""
    prepare(guest, xcr0)
    for at, (value, size) in STATE.items():
        put(guest, at, value, size)
    put(guest, XSTATE_BV, in_use, 8)
    guest.memory.fill(DATA, 4096, UNTOUCHED)
    guest.memory.fill(DATA + XSTATE_BV, 64)
    guest.set_regs(rax=7, rdx=0)


def saved(guest: Guest, at: int, size: int = 16) -> int:
    return guest.memory.number(DATA + at, size)


def untouched(size: int) -> int:
    return int.from_bytes(bytes([UNTOUCHED]) * size, "little")


@pytest.mark.parametrize("code", [SAVE, SAVE_OPTIMIZED])
def test_the_standard_format(code: bytes) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.memory.put(DATA + XSTATE_BV, 1 << 9)

        assert guest.carry_out(code) is None

        assert {at: saved(guest, at, size) for at, (_, size) in STATE.items()} == {
            at: value for at, (value, _) in STATE.items()
        }
        assert saved(guest, XSTATE_BV, 8) == 7 | 1 << 9  # the bit of a component that was not asked for stays
        assert saved(guest, XCOMP_BV, 8) == 0
        assert saved(guest, 416) == untouched(16)  # behind XMM15
        assert (guest.exception, guest.regs.rip) == (None, CODE + 4)


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        (X87, {FCW, ST0}),
        (SSE, {MXCSR, XMM3}),
        (AVX, {MXCSR, YMM3_HIGH}),
        (X87 | AVX, {FCW, ST0, MXCSR, YMM3_HIGH}),
    ],
)
def test_only_what_is_asked_for_is_saved(wanted: int, written: set[int]) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.set_regs(rax=wanted)

        guest.carry_out(SAVE)

        assert {at for at, (_, size) in STATE.items() if saved(guest, at, size) != untouched(size)} == written
        assert saved(guest, XSTATE_BV, 8) == wanted


def test_what_xcr0_does_not_enable_is_not_saved() -> None:
    with a_guest(*ALL) as guest:
        used(guest, xcr0=3)

        guest.carry_out(SAVE)

        assert saved(guest, YMM3_HIGH) == untouched(16)
        assert saved(guest, XSTATE_BV, 8) == X87 | SSE


def test_initial_components_are_saved_but_by_the_optimized_instruction() -> None:
    with a_guest(*ALL) as guest:
        used(guest, in_use=X87)
        for at in (XMM3, YMM3_HIGH):
            put(guest, at, 0)

        guest.carry_out(SAVE_OPTIMIZED)
        assert (saved(guest, XMM3), saved(guest, YMM3_HIGH)) == (untouched(16), untouched(16))
        assert saved(guest, MXCSR, 4) == STATE[MXCSR][0]
        guest.carry_out(SAVE)

        assert (saved(guest, XMM3), saved(guest, YMM3_HIGH)) == (0, 0)
        assert saved(guest, XSTATE_BV, 8) == X87


def test_the_compacted_format() -> None:
    with a_guest(*ALL) as guest:
        used(guest)

        guest.carry_out(SAVE_COMPACTED)

        assert saved(guest, XSTATE_BV, 8) == 7
        assert saved(guest, XCOMP_BV, 8) == COMPACTED | 7
        assert saved(guest, YMM3_HIGH) == STATE[YMM3_HIGH][0]
        assert saved(guest, XMM3) == STATE[XMM3][0]


def place_components(guest: Guest) -> None:
    """Components 5 (8 bytes at 1088) and 6 (128 bytes at 1152, aligned in the compacted format) besides x87 and SSE."""
    entries = guest.vcpu.get_cpuid2()
    entries += [
        x86.kvm_cpuid_entry2(function=0xD, index=5, flags=1, eax=8, ebx=1088, ecx=0),
        x86.kvm_cpuid_entry2(function=0xD, index=6, flags=1, eax=128, ebx=1152, ecx=2),
    ]
    guest.vcpu.set_cpuid2(entries)


def test_compacted_components_follow_each_other_and_some_are_aligned() -> None:
    with a_guest(*ALL) as guest:
        place_components(guest)
        used(guest, in_use=1 << 5 | 1 << 6, xcr0=0x63)
        put(guest, 1088, 0x55, 8)
        put(guest, 1152, 0x66, 8)
        guest.set_regs(rax=0x60)

        guest.carry_out(SAVE_COMPACTED)

        assert (saved(guest, 576, 8), saved(guest, 640, 8)) == (0x55, 0x66)
        assert (saved(guest, XSTATE_BV, 8), saved(guest, XCOMP_BV, 8)) == (0x60, COMPACTED | 0x60)
        put(guest, 1088, 0, 8)
        put(guest, 1152, 0, 8)
        guest.carry_out(RESTORE)
        assert (number(guest, 1088, 8), number(guest, 1152, 8)) == (0x55, 0x66)


def test_a_component_without_room_in_kvms_area_is_declined() -> None:
    with a_guest(*ALL) as guest:
        entries = guest.vcpu.get_cpuid2()
        guest.vcpu.set_cpuid2(
            [*entries, x86.kvm_cpuid_entry2(function=0xD, index=18, flags=1, eax=8192, ebx=2752)]
        )
        used(guest, xcr0=7 | 1 << 18)
        guest.set_regs(rax=1 << 18)

        assert "component 18" in str(guest.carry_out(SAVE))


@pytest.mark.parametrize("in_use", [X87, X87 | SSE])
def test_the_compacted_format_has_sse_state_wherever_mxcsr_is_not_initial(in_use: int) -> None:
    with a_guest(*ALL) as guest:
        used(guest, in_use=in_use)

        guest.carry_out(SAVE_COMPACTED)

        assert saved(guest, XSTATE_BV, 8) == X87 | SSE
        assert saved(guest, MXCSR, 4) == STATE[MXCSR][0]
        assert saved(guest, YMM3_HIGH) == untouched(16)


@pytest.mark.parametrize("code", [SAVE, SAVE_OPTIMIZED, SAVE_COMPACTED])
def test_what_is_saved_is_restored(code: bytes) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.carry_out(code)
        before = area(guest)
        for at, (_, size) in STATE.items():
            put(guest, at, 0, size)
        put(guest, XSTATE_BV, 0, 8)

        assert guest.carry_out(RESTORE) is None

        assert area(guest) == before
        assert guest.exception is None


@pytest.mark.parametrize("format_", [0, COMPACTED | 7])
def test_what_the_area_lacks_becomes_initial(format_: int) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.memory.put(DATA + XCOMP_BV, format_)
        # Counts in the standard format alone.
        guest.memory.put(DATA + MXCSR, 0xFFFF_FFFF if format_ else 0x1F80, 4)

        guest.carry_out(RESTORE)
        assert guest.exception is None

        assert number(guest, FCW, 2) == 0x037F
        assert (number(guest, ST0, 10), number(guest, XMM3), number(guest, YMM3_HIGH)) == (0, 0, 0)
        assert number(guest, MXCSR, 4) == 0x1F80
        assert number(guest, XSTATE_BV, 8) == 0


def test_mxcsr_of_the_standard_format_counts_without_sse_state_and_kvm_is_told() -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.memory.put(DATA + MXCSR, 0x1F00, 4)

        guest.carry_out(RESTORE)

        assert number(guest, MXCSR, 4) == 0x1F00
        assert number(guest, XSTATE_BV, 8) == SSE
        assert number(guest, XMM3) == 0


@pytest.mark.parametrize(("format_", "mxcsr"), [(0, 0x1F00), (COMPACTED | 7, STATE[MXCSR][0])])
def test_avx_state_alone_brings_mxcsr_in_the_standard_format_only(format_: int, mxcsr: int) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.memory.put(DATA + XCOMP_BV, format_)
        guest.memory.put(DATA + MXCSR, 0x1F00, 4)
        guest.set_regs(rax=AVX)

        guest.carry_out(RESTORE)

        assert number(guest, MXCSR, 4) == mxcsr


def test_a_compacted_area_with_reserved_bits_of_mxcsr_is_refused() -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.memory.put(DATA + XCOMP_BV, COMPACTED | 7)
        guest.memory.put(DATA + XSTATE_BV, SSE)
        guest.memory.put(DATA + MXCSR, 0x1_0000, 4)

        guest.carry_out(RESTORE)

        assert guest.exception == (GP, 0)


@pytest.mark.parametrize(("prefix", "selectors"), [(b"\x48", 0x1234_5678), (b"", 0)])
def test_the_short_forms_have_pointers_of_32_bits(prefix: bytes, selectors: int) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        put(guest, 8, 0x1234_5678_9ABC_DEF0, 8)

        guest.carry_out(prefix + SAVE[1:])
        assert (saved(guest, 8, 4), saved(guest, 12, 4)) == (0x9ABC_DEF0, selectors)

        guest.memory.put(DATA + 8, 0x1234_5678_9ABC_DEF0)
        guest.carry_out(prefix + RESTORE[1:])
        assert (number(guest, 8, 4), number(guest, 12, 4)) == (0x9ABC_DEF0, selectors)


@pytest.mark.tlfs("VSM-080", "VSM-083")
@pytest.mark.parametrize(
    ("code", "flags", "wanted"), [(SAVE, NONE, WRITE), (SAVE, RX, WRITE), (RESTORE, NONE, READ)]
)
def test_an_area_that_a_higher_vtl_protects(code: bytes, flags: int, wanted: int) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        protected = Protected(guest)
        protected.protect(flags, DATA)

        assert protected.carry_out(code) == MemoryAccess(DATA, wanted, DATA, code)


def test_what_is_not_asked_for_stays() -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        before = area(guest)
        guest.set_regs(rax=X87)

        guest.carry_out(RESTORE)

        assert area(guest)[160:512] == before[160:512]
        assert number(guest, MXCSR, 4) == STATE[MXCSR][0]
        assert number(guest, YMM3_HIGH) == STATE[YMM3_HIGH][0]
        assert number(guest, XSTATE_BV, 8) == SSE | AVX


@pytest.mark.parametrize(
    ("at", "value", "size"),
    [
        (XSTATE_BV, 1 << 9, 8),  # a component that XCR0 does not enable
        (XCOMP_BV, 1, 8),  # neither format
        (XCOMP_BV + 8, 1, 8),  # reserved in both
        (MXCSR, 0x1_0000, 4),
    ],
)
def test_an_area_in_the_standard_format_that_is_refused(at: int, value: int, size: int) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.memory.put(DATA + MXCSR, 0x1F80, 4)
        before = area(guest)
        guest.memory.put(DATA + at, value, size)

        guest.carry_out(RESTORE)

        assert guest.exception == (GP, 0)
        assert area(guest) == before


@pytest.mark.parametrize(
    ("present", "format_", "reserved"),
    [(1, COMPACTED | 2, 0), (0, COMPACTED | 1 << 9, 0), (0, COMPACTED | 7, 1)],
)
def test_an_area_in_the_compacted_format_that_is_refused(present: int, format_: int, reserved: int) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.memory.put(DATA + XSTATE_BV, present)
        guest.memory.put(DATA + XCOMP_BV, format_)
        guest.memory.put(DATA + 568, reserved)

        guest.carry_out(RESTORE)

        assert guest.exception == (GP, 0)


def test_the_compacted_format_needs_its_cpuid_bit() -> None:
    with a_guest(XSAVE) as guest:
        used(guest)
        guest.memory.put(DATA + XCOMP_BV, COMPACTED | 7)

        guest.carry_out(RESTORE)
        assert guest.exception == (GP, 0)

    with a_guest(XSAVE) as guest:
        used(guest)
        guest.carry_out(SAVE_COMPACTED)
        assert guest.exception == (UD, None)


@pytest.mark.parametrize("code", [SAVE, SAVE_OPTIMIZED, SAVE_COMPACTED, RESTORE])
def test_what_they_all_check(code: bytes) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        guest.set_regs(rbx=DATA + 32)
        guest.carry_out(code)
        assert guest.exception == (GP, 0)

    with a_guest(*ALL) as guest:
        used(guest)
        guest.set_sregs(cr0=guest.sregs.cr0 | r.CR0_TS)
        guest.carry_out(code)
        assert guest.exception == (NM, None)

    with a_guest(*ALL) as guest:
        used(guest)
        guest.set_sregs(cr4=guest.sregs.cr4 & ~r.CR4_OSXSAVE)
        guest.carry_out(code)
        assert guest.exception == (UD, None)


@pytest.mark.parametrize("code", [SAVE, SAVE_OPTIMIZED, SAVE_COMPACTED])
def test_a_page_that_may_not_be_written_keeps_the_area_as_it_is(code: bytes) -> None:
    with a_guest(*ALL) as guest:
        used(guest)
        at = DATA + 4096 - 576
        guest.change_page(DATA + 4096, clear=2)
        guest.set_regs(rbx=at)
        before = bytes(guest.memory.data[at : DATA + 4096])

        guest.carry_out(code)

        assert guest.exception == (PF, 3)
        assert guest.memory.data[at : DATA + 4096] == before


def test_outside_64_bit_mode_it_is_declined() -> None:
    with a_guest(*ALL, bits=32) as guest:
        used(guest)

        assert "64-bit mode" in str(guest.carry_out(SAVE[1:]))
