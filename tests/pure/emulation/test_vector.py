# SPDX-License-Identifier: Apache-2.0
"""MMX, XMM and YMM registers through the XSAVE area: values, what must stay, what must be cleared, faults."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation.guest import CODE, DATA, PT, XSAVE, Guest, a_guest
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.table import AVX, MMX, SSE2, SSE41

UD, NM, MF = ((vector, None) for vector in (6, 7, 16))
XMM, YMM_HIGH, ST, XSTATE_BV = 160, 576, 32, 512
ONES = (1 << 128) - 1
ALL = (MMX, SSE2, SSE41, AVX, XSAVE)
MOVQ_MM0_RAX, MOVQ_RBX_MM1 = b"\x48\x0f\x6e\xc0", b"\x48\x0f\x7e\xcb"
VZEROALL, VZEROUPPER = b"\xc5\xfc\x77", b"\xc5\xf8\x77"
VMOVDQA_YMM2_AT_RBX, VMOVDQU_AT_RBX_YMM2 = b"\xc5\xfd\x6f\x13", b"\xc5\xfe\x7f\x13"


def prepare(guest: Guest, xcr0: int = 7) -> None:
    guest.set_sregs(cr4=r.CR4_PAE | r.CR4_OSFXSR | r.CR4_OSXSAVE)
    xcrs = x86.kvm_xcrs(nr_xcrs=1)
    xcrs.xcrs[0].value = xcr0
    guest.vcpu.set_xcrs(xcrs)
    guest.set_regs(rbx=DATA)


def area(guest: Guest) -> bytes:
    return bytes(guest.vcpu.get_xsave())


def put(guest: Guest, at: int, value: int, size: int = 16) -> None:
    content = bytearray(area(guest))
    content[at : at + size] = value.to_bytes(size, "little")
    guest.vcpu.set_xsave(x86.kvm_xsave.from_buffer_copy(content))


def number(guest: Guest, at: int, size: int = 16) -> int:
    return int.from_bytes(area(guest)[at : at + size], "little")


def test_movq_to_mmx_makes_all_registers_valid() -> None:
    with a_guest(MMX) as guest:
        prepare(guest)
        guest.set_regs(rax=0x0102030405060708)
        put(guest, 2, 5 << 11, 2)  # top of stack 5

        guest.carry_out(MOVQ_MM0_RAX)

        assert number(guest, ST, 10) == 0xFFFF_0102030405060708
        assert (number(guest, 2, 2), number(guest, 4, 1)) == (0, 0xFF)
        assert number(guest, 512, 8) & 1
        assert (guest.exception, guest.regs.rip) == (None, CODE + 4)


def test_movq_from_mmx_makes_all_registers_valid() -> None:
    with a_guest(MMX) as guest:
        prepare(guest)
        put(guest, 2, 5 << 11, 2)

        guest.carry_out(MOVQ_RBX_MM1)

        assert (number(guest, 2, 2), number(guest, 4, 1)) == (0, 0xFF)
        assert number(guest, XSTATE_BV, 8) == 1


@pytest.mark.parametrize(
    ("code", "in_use"),
    [
        (b"\x66\x0f\x6e\xc0", 0b010),  # movd xmm0, eax
        (b"\xc5\xfd\x6f\x13", 0b110),  # vmovdqa ymm2, [rbx]
        (b"\xc5\xf9\x6f\x13", 0b110),  # vmovdqa xmm2, [rbx] clears the upper half
    ],
)
def test_what_is_written_is_in_use_from_then_on(code: bytes, in_use: int) -> None:
    """KVM_SET_XSAVE takes a component that XSTATE_BV does not name for initial."""
    with a_guest(*ALL) as guest:
        prepare(guest)
        put(guest, XSTATE_BV, 0, 8)

        guest.carry_out(code)

        assert number(guest, XSTATE_BV, 8) == in_use


def test_movd_from_mmx_clears_the_upper_half() -> None:
    with a_guest(MMX) as guest:
        prepare(guest)
        put(guest, ST + 16, 0x1122334455667788, 8)
        guest.set_regs(rbx=(1 << 64) - 1)

        guest.carry_out(b"\x0f\x7e\xcb")  # movd ebx, mm1

        assert guest.regs.rbx == 0x55667788


def test_movq_from_mmx() -> None:
    with a_guest(MMX) as guest:
        prepare(guest)
        put(guest, ST + 16, 0x1122334455667788, 8)

        guest.carry_out(MOVQ_RBX_MM1)

        assert guest.regs.rbx == 0x1122334455667788


def test_movd_to_xmm_clears_the_rest_and_keeps_the_upper_half() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        put(guest, XMM, ONES)
        put(guest, YMM_HIGH, ONES)
        guest.set_regs(rax=0xAABBCCDD_11223344)

        guest.carry_out(b"\x66\x0f\x6e\xc0")

        assert (number(guest, XMM), number(guest, YMM_HIGH)) == (0x11223344, ONES)


def test_movd_from_xmm_to_memory_writes_four_bytes() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        put(guest, XMM + 16, ONES)

        guest.carry_out(b"\x66\x0f\x7e\x0b")  # movd [rbx], xmm1

        assert guest.memory.number(DATA) == 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("cr0", "cr4", "fsw", "code", "expected"),
    [
        (r.CR0_EM, 0, 0, MOVQ_MM0_RAX, UD),
        (r.CR0_TS, 0, 0, MOVQ_MM0_RAX, NM),
        (0, 0, 0x80, MOVQ_MM0_RAX, MF),  # an unmasked x87 exception waits
        (0, r.CR4_OSFXSR, 0, b"\x66" + MOVQ_MM0_RAX, UD),
        (r.CR0_TS, 0, 0, VZEROALL, NM),
        (0, r.CR4_OSXSAVE, 0, VZEROALL, UD),
        (0, 0, 0, b"\x66" + VZEROALL, UD),
        (0, 0, 0, b"\xc5\xf4\x77", UD),  # VEX.vvvv names a register
    ],
)
def test_faults_before_anything_happens(
    cr0: int, cr4: int, fsw: int, code: bytes, expected: tuple[int, None]
) -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        sregs = guest.sregs
        guest.set_sregs(cr0=sregs.cr0 | cr0, cr4=sregs.cr4 & ~cr4)
        put(guest, 2, fsw, 2)
        before = area(guest)

        guest.carry_out(code)

        assert (guest.exception, area(guest), guest.regs.rip) == (expected, before, CODE)


def test_avx_needs_its_state_enabled() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest, xcr0=3)

        guest.carry_out(VZEROALL)

        assert guest.exception == UD


def test_vzeroall_and_vzeroupper() -> None:
    for code, low in ((VZEROALL, 0), (VZEROUPPER, ONES)):
        with a_guest(*ALL) as guest:
            prepare(guest)
            for register in range(16):
                put(guest, XMM + 16 * register, ONES)
                put(guest, YMM_HIGH + 16 * register, ONES)

            guest.carry_out(code)

            assert [number(guest, XMM + 16 * register) for register in range(16)] == [low] * 16
            assert [number(guest, YMM_HIGH + 16 * register) for register in range(16)] == [0] * 16


def test_a_32_byte_load_and_store() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        content = bytes(range(32))
        guest.memory.data[DATA : DATA + 32] = content

        guest.carry_out(VMOVDQA_YMM2_AT_RBX)
        loaded = area(guest)
        guest.set_regs(rip=CODE, rbx=DATA + 0x101)  # any alignment for the store
        guest.carry_out(VMOVDQU_AT_RBX_YMM2)

        assert loaded[XMM + 32 : XMM + 48] + loaded[YMM_HIGH + 32 : YMM_HIGH + 48] == content
        assert guest.memory.data[DATA + 0x101 : DATA + 0x121] == content
        assert guest.exception is None


def test_a_16_byte_vex_load_clears_what_is_above() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        put(guest, YMM_HIGH + 32, ONES)

        guest.carry_out(b"\xc5\xf9\x6f\x13")  # vmovdqa xmm2, [rbx]

        assert number(guest, YMM_HIGH + 32) == 0


def test_between_registers() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        put(guest, XMM, 1)
        put(guest, YMM_HIGH, 2)

        guest.carry_out(b"\xc5\x7d\x7f\xc0\x90"[:4])  # vmovdqa ymm0, ymm8: ymm8 is zero

        assert (number(guest, XMM), number(guest, YMM_HIGH)) == (0, 0)


@pytest.mark.parametrize(
    ("code", "offset"),
    [(VMOVDQA_YMM2_AT_RBX, 16), (b"\x66\x0f\x6f\x13", 8), (b"\xc5\xfd\xe7\x13", 16), (b"\x0f\x29\x13", 4)],
)
def test_misaligned_operands_of_aligned_moves(code: bytes, offset: int) -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        guest.set_regs(rbx=DATA + offset)

        guest.carry_out(code)

        assert guest.exception == (x86.GP_VECTOR, 0)


def test_a_store_over_two_pages_writes_both_or_none() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        guest.set_regs(rbx=DATA + 0xFF0)
        put(guest, XMM + 32, ONES)
        guest.change_page(DATA + 0x1000, clear=2)  # read-only, with CR0.WP

        guest.carry_out(VMOVDQU_AT_RBX_YMM2)

        assert guest.exception == (x86.PF_VECTOR, 3)
        assert guest.sregs.cr2 == DATA + 0x1000
        assert guest.memory.data[DATA + 0xFF0 : DATA + 0x1000] == bytes(16)


def test_vmovntdqa_of_32_bytes_needs_avx2() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)

        guest.carry_out(b"\xc4\xe2\x7d\x2a\x13")

        assert guest.exception == UD


def test_vmovntdqa_of_16_bytes_needs_avx_only() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        guest.memory.data[DATA : DATA + 16] = bytes(range(16))

        guest.carry_out(b"\xc4\xe2\x79\x2a\x13")

        assert guest.exception is None
        assert number(guest, XMM + 32) == int.from_bytes(bytes(range(16)), "little")


def test_a_store_that_ends_outside_ram_is_declined_and_writes_nothing() -> None:
    with a_guest(*ALL) as guest:
        prepare(guest)
        guest.set_regs(rbx=DATA + 0xFF0)
        put(guest, XMM + 32, ONES)
        guest.memory.put(PT + 8 * ((DATA >> 12) + 1), 0xFEC0_0007)

        refusal = guest.carry_out(VMOVDQU_AT_RBX_YMM2)

        assert refusal is not None
        assert "not RAM" in refusal
        assert guest.memory.data[DATA + 0xFF0 : DATA + 0x1000] == bytes(16)


def test_a_ymm_load_clears_the_rest_of_a_zmm_register() -> None:
    zmm_high = 1152  # CPUID.(0DH,6):EBX of this guest
    with a_guest(*ALL) as guest:
        zmm = x86.kvm_cpuid_entry2(function=0xD, index=6, flags=1, eax=512, ebx=zmm_high)
        guest.vcpu.set_cpuid2([*guest.vcpu.get_cpuid2(), zmm])
        prepare(guest, xcr0=0xE7)
        guest.memory.data[DATA : DATA + 32] = bytes(range(1, 33))
        put(guest, zmm_high + 2 * 32, ONES)
        put(guest, zmm_high + 2 * 32 + 16, ONES)

        guest.carry_out(VMOVDQA_YMM2_AT_RBX)

        assert number(guest, YMM_HIGH + 32) == int.from_bytes(bytes(range(17, 33)), "little")
        assert number(guest, zmm_high + 2 * 32, 32) == 0


@pytest.mark.parametrize(
    ("status", "cr0", "expected"),
    [
        (0, 0, None),
        (1 << 7, 0, MF),  # FSW.ES
        (0, r.CR0_TS, None),
        (1 << 7, r.CR0_TS | r.CR0_MP, NM),
    ],
)
def test_fwait_raises_what_is_pending(status: int, cr0: int, expected: tuple[int, None] | None) -> None:
    with a_guest() as guest:
        put(guest, 2, status, 2)
        guest.set_sregs(cr0=guest.sregs.cr0 | cr0)

        assert guest.carry_out(b"\x9b") is None

        assert guest.exception == expected
        assert guest.regs.rip == (CODE if expected else CODE + 1)
