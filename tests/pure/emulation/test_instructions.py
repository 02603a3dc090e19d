# SPDX-License-Identifier: Apache-2.0
"""Each system and cache instruction: its effect, and every reason for which the SDM lets it fault."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation.guest import (
    CODE,
    DATA,
    INVPCID,
    SMAP,
    Guest,
    a_guest,
)
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.processor import Feature

UD, GP, PF, NM = (x86.UD_VECTOR, None), (x86.GP_VECTOR, 0), x86.PF_VECTOR, (x86.NM_VECTOR, None)
CLAC, STAC = b"\x0f\x01\xca", b"\x0f\x01\xcb"
XGETBV, XSETBV = b"\x0f\x01\xd0", b"\x0f\x01\xd1"
INVPCID_RAX_AT_RBX = b"\x66\x0f\x38\x82\x03"
CLWB_AT_RBX, CLFLUSHOPT_AT_RBX = b"\x66\x0f\xae\x33", b"\x66\x0f\xae\x3b"
CLWB = Feature(7, "ebx", 24)


def stays_at_the_instruction(guest: Guest) -> bool:
    return bool(guest.regs.rip == CODE and guest.regs.rflags & r.RFLAGS_RF)


@pytest.mark.parametrize(("code", "before", "after"), [(CLAC, r.RFLAGS_AC, 0), (STAC, 0, r.RFLAGS_AC)])
def test_clac_and_stac_change_ac_alone(code: bytes, before: int, after: int) -> None:
    with a_guest(SMAP) as guest:
        guest.set_regs(rflags=2 | before)

        assert guest.carry_out(code) is None

        assert (guest.regs.rflags, guest.regs.rip, guest.exception) == (2 | after, CODE + 3, None)


@pytest.mark.parametrize(
    ("features", "cpl", "code"),
    [
        ([], 0, CLAC),  # not in CPUID
        ([SMAP], 3, STAC),
        ([SMAP], 3, CLAC),
        ([SMAP], 0, b"\xf0" + CLAC),  # LOCK
    ],
)
def test_clac_and_stac_are_undefined(features: list[Feature], cpl: int, code: bytes) -> None:
    with a_guest(*features, cpl=cpl) as guest:
        assert guest.carry_out(code) is None

        assert guest.exception == UD
        assert stays_at_the_instruction(guest)


@pytest.mark.parametrize("code", [b"\x66" + CLAC, b"\x0f\x01\xf0", b"\x0f\xff"])
def test_what_is_not_in_the_table_is_declined_and_changes_nothing(code: bytes) -> None:
    with a_guest(SMAP) as guest:
        before = bytes(guest.regs), bytes(guest.sregs)

        refusal = guest.carry_out(code)

        assert refusal is not None
        assert "opcode" in refusal
        assert (bytes(guest.regs), bytes(guest.sregs), guest.exception) == (*before, None)
        assert not [call.name for call in guest.fake.calls if "_SET_" in call.name]


def test_an_instruction_that_took_effect_clears_rf() -> None:
    with a_guest(SMAP) as guest:
        guest.set_regs(rflags=2 | r.RFLAGS_RF)

        guest.carry_out(CLAC)

        assert guest.regs.rflags == 2


def test_in_ring_3_what_is_not_in_the_table_is_undefined() -> None:
    with a_guest(cpl=3) as guest:
        assert guest.carry_out(b"\x0f\x01\xf0") is None

        assert guest.exception == UD


def test_a_nested_guests_instruction_is_undefined() -> None:
    with a_guest(SMAP) as guest:
        assert guest.emulator.carry_out(CLAC, x86.KVM_RUN_X86_GUEST_MODE) is None

        assert guest.exception == UD


def test_carried_out_instructions_are_counted_faults_are_not() -> None:
    with a_guest(SMAP) as guest:
        guest.carry_out(CLAC)
        guest.set_regs(rip=CODE)
        guest.carry_out(CLAC)
        guest.set_regs(rip=CODE)
        guest.carry_out(XGETBV)

        assert dict(guest.emulator.carried_out) == {"CLAC": 2}


def test_bytes_that_the_exit_did_not_tell_are_fetched() -> None:
    with a_guest(SMAP) as guest:
        guest.set_regs(rip=CODE + 0xFFE)  # the last byte lies in the next page

        assert guest.carry_out(STAC, known=2) is None

        assert guest.regs.rflags & r.RFLAGS_AC


def test_a_fetch_fault_is_the_guests() -> None:
    with a_guest(SMAP) as guest:
        guest.set_regs(rip=CODE + 0xFFE)
        guest.change_page(CODE + 0x1000, clear=1)

        assert guest.carry_out(STAC, known=2) is None

        assert guest.exception == (PF, 0)
        assert guest.sregs.cr2 == CODE + 0x1000


def test_the_rest_of_rip_wraps_in_a_32_bit_segment() -> None:
    with a_guest(SMAP, bits=32) as guest:
        guest.set_regs(rip=0xFFFF_FFFE)

        assert guest.emulator.carry_out(CLAC) is None

        assert guest.regs.rip == 1


def test_a_single_step_trap_follows_with_dr6() -> None:
    with a_guest(SMAP) as guest:
        guest.set_regs(rflags=2 | r.RFLAGS_TF)

        guest.carry_out(STAC)

        assert guest.exception == (x86.DB_VECTOR, None)
        assert guest.vcpu.get_debugregs().dr6 & r.DR6_BS
        assert guest.regs.rip == CODE + 3


@pytest.mark.parametrize("code", [STAC, b"\x0f\x38\xf0\xc0"])
def test_the_interrupt_shadow_of_the_instruction_before_ends(code: bytes) -> None:
    with a_guest(SMAP) as guest:
        events = guest.vcpu.get_vcpu_events()
        events.interrupt.shadow = x86.KVM_X86_SHADOW_INT_STI
        events.nmi.pending = 1
        events.flags = x86.KVM_VCPUEVENT_VALID_NMI_PENDING | x86.KVM_VCPUEVENT_VALID_SHADOW
        guest.vcpu.set_vcpu_events(events)

        guest.carry_out(code)

        events = guest.vcpu.get_vcpu_events()
        assert events.interrupt.shadow == 0
        # An NMI that came between GET and SET must not be overwritten.
        assert events.flags == x86.KVM_VCPUEVENT_VALID_SHADOW


# ---- INVPCID ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_invpcid_flushes_through_cr4_and_leaves_the_registers(kind: int) -> None:
    with a_guest(INVPCID) as guest:
        guest.set_regs(rax=kind, rbx=DATA)
        before = bytes(guest.sregs)
        guest.fake.calls.clear()

        guest.carry_out(INVPCID_RAX_AT_RBX)

        written = [
            x86.kvm_sregs.from_buffer_copy(call.argument) for call in guest.fake.called("KVM_SET_SREGS")
        ]
        assert [sregs.cr4 ^ r.CR4_PAE for sregs in written] == [r.CR4_PGE, 0]
        assert bytes(guest.sregs) == before
        assert (guest.exception, guest.regs.rip) == (None, CODE + 5)


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        (4, 0, 0, GP),
        (1 << 32, 0, 0, GP),  # all 64 bits of the register count
        (2, 1 << 12, 0, GP),  # reserved bits of the descriptor
        (0, 5, 0, GP),  # a PCID without CR4.PCIDE
        (1, 5, 0, GP),
        (3, 5, 0, None),  # which the last two types ignore
        (0, 0, 1 << 47, GP),  # not canonical
        (1, 0, 1 << 47, None),
    ],
)
def test_invpcid_checks_its_descriptor(
    kind: int, low: int, high: int, expected: tuple[int, int] | None
) -> None:
    with a_guest(INVPCID) as guest:
        guest.set_regs(rax=kind, rbx=DATA)
        guest.memory.put(DATA, low)
        guest.memory.put(DATA + 8, high)

        guest.carry_out(INVPCID_RAX_AT_RBX)

        assert guest.exception == expected


def test_invpcid_of_a_pcid_with_pcide() -> None:
    with a_guest(INVPCID) as guest:
        guest.set_sregs(cr4=r.CR4_PAE | r.CR4_PCIDE)
        guest.set_regs(rax=0, rbx=DATA)
        guest.memory.put(DATA, 0xFFF)

        guest.carry_out(INVPCID_RAX_AT_RBX)

        assert guest.exception is None


@pytest.mark.parametrize(
    ("features", "cpl", "code", "expected"),
    [
        ([], 0, INVPCID_RAX_AT_RBX, UD),
        ([INVPCID], 0, b"\x66\x0f\x38\x82\xc3", UD),  # register operand
        ([INVPCID], 0, b"\x0f\x38\x82\x03", UD),  # no such encoding
        ([INVPCID], 3, INVPCID_RAX_AT_RBX, GP),
    ],
)
def test_invpcid_faults(
    features: list[Feature], cpl: int, code: bytes, expected: tuple[int, int] | None
) -> None:
    with a_guest(*features, cpl=cpl) as guest:
        guest.set_regs(rbx=DATA)

        guest.carry_out(code)

        assert guest.exception == expected


def test_invpcids_descriptor_has_16_bytes() -> None:
    with a_guest(INVPCID) as guest:
        guest.set_regs(rax=2, rbx=DATA + 0xFF0)
        guest.change_page(DATA + 0x1000, clear=1)

        guest.carry_out(INVPCID_RAX_AT_RBX)

        assert guest.exception is None


def test_invpcids_descriptor_may_fault_in_its_second_page() -> None:
    with a_guest(INVPCID) as guest:
        guest.set_regs(rbx=DATA + 0xFF8)
        guest.change_page(DATA + 0x1000, clear=1)

        guest.carry_out(INVPCID_RAX_AT_RBX)

        assert guest.exception == (PF, 0)
        assert guest.sregs.cr2 == DATA + 0x1000


# ---- CLWB, CLFLUSHOPT ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cpl", [0, 3])
def test_clwb_only_sets_the_accessed_bit(cpl: int) -> None:
    with a_guest(CLWB, cpl=cpl) as guest:
        guest.set_regs(rbx=DATA + 0xFFF)  # one byte, so the next page is not looked at
        guest.change_page(DATA + 0x1000, clear=1)
        guest.memory.written.clear()

        guest.carry_out(CLWB_AT_RBX)

        assert (guest.exception, guest.regs.rip) == (None, CODE + 4)
        assert guest.memory.number(0x4000 + (DATA >> 12) * 8) & 0x60 == 0x20  # accessed, not dirty
        assert all(0x1000 <= gpa < 0x5000 for gpa, _ in guest.memory.written)


@pytest.mark.parametrize(
    ("rbx", "clear", "expected"),
    [
        (DATA, 1, (PF, 4)),  # not present, user
        (DATA, 4, (PF, 5)),  # supervisor's page
        (1 << 47, 0, GP),
    ],
)
def test_clwb_is_checked_as_a_read(rbx: int, clear: int, expected: tuple[int, int]) -> None:
    with a_guest(CLWB, cpl=3) as guest:
        guest.set_regs(rbx=rbx)
        guest.change_page(DATA, clear=clear)

        guest.carry_out(CLWB_AT_RBX)

        assert guest.exception == expected


def test_clwb_on_the_stack_raises_ss() -> None:
    with a_guest(CLWB) as guest:
        guest.set_regs(rbp=1 << 47)

        guest.carry_out(b"\x66\x0f\xae\x75\x00")  # clwb [rbp]

        assert guest.exception == (x86.SS_VECTOR, 0)


def test_clwb_of_device_memory_is_no_access_to_it() -> None:
    with a_guest(CLWB) as guest:
        guest.memory.put(0x4000 + 8 * (DATA >> 12), 0xFEC0_0007)
        guest.set_regs(rbx=DATA)

        assert guest.carry_out(CLWB_AT_RBX) is None

        assert guest.exception is None


def test_clflushopt_that_cpuid_does_not_have() -> None:
    with a_guest(CLWB) as guest:
        guest.set_regs(rbx=DATA)

        guest.carry_out(CLFLUSHOPT_AT_RBX)

        assert guest.exception == UD


@pytest.mark.parametrize(("limit", "expected"), [(DATA - 1, GP), (DATA, None)])
def test_a_limit_in_32_bit_mode(limit: int, expected: tuple[int, int] | None) -> None:
    with a_guest(CLWB, bits=32) as guest:
        sregs = guest.sregs
        sregs.ds.limit = limit
        guest.vcpu.set_sregs(sregs)
        guest.set_regs(rbx=DATA)

        guest.carry_out(CLWB_AT_RBX)

        assert guest.exception == expected


# ---- undefined ones --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        b"\x0f\x38\xf0\xc0",  # movbe eax, eax
        b"\x66\x0f\x38\xf1\xc1",  # movbe cx, ax
        b"\x0f\x01\xfd",  # rdpru
        b"\x0f\x01\xc8",  # monitor
        b"\x0f\x01\xc9",  # mwait
        b"\x0f\x01\xf9",  # rdtscp
        b"\xf3\x0f\xae\xf0",  # umonitor eax
    ],
)
def test_what_cpuid_does_not_have_is_undefined(code: bytes) -> None:
    with a_guest() as guest:
        assert guest.carry_out(code) is None

        assert guest.exception == UD
        assert stays_at_the_instruction(guest)


def test_a_known_feature_without_a_handler_is_declined() -> None:
    with a_guest(Feature(0x8000_0008, "ebx", 4)) as guest:
        assert guest.carry_out(b"\x0f\x01\xfd") == "RDPRU is not carried out here"
