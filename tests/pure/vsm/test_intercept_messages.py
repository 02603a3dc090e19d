# SPDX-License-Identifier: Apache-2.0
"""Intercept messages byte by byte: what hyperv_vsm compares with, and what a secure kernel reads."""

from __future__ import annotations

import struct

import pytest

from tests.pure.vsm.world import CODE, FLAT
from vmm.hv.messages import (
    HV_X64_INTERCEPT_MESSAGE_HEADER,
    HV_X64_IO_PORT_INTERCEPT_MESSAGE,
    HV_X64_MEMORY_INTERCEPT_MESSAGE,
    HV_X64_MSR_INTERCEPT_MESSAGE,
)
from vmm.vsm.intercept_messages import (
    MsrAccess,
    PortAccess,
    VpState,
    memory_intercept,
    msr_intercept,
    port_intercept,
)
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.profile import VsmProfile, rules
from vmm.vsm.rights import EXECUTE, READ, WRITE

HYPERV, KVM_V1 = rules(VsmProfile.HYPERV), rules(VsmProfile.KVM_V1)
AM, PG_WP_PE = 1 << 18, 0x8001_0001
RF = 1 << 16
WRITE_BACK = 6
STATE = VpState(
    vp=3,
    vtl=0,
    cpl=0,
    rip=0x40_1234,
    rflags=0x246,
    cr0=PG_WP_PE | AM,
    cr8=0,
    efer=0x500,
    cs=CODE,
    ds=FLAT,
    es=FLAT,
    ss=FLAT,
    general=tuple(0x1000 + number for number in range(16)),
)
LOAD = bytes.fromhex("488b00")  # mov rax, [rax]
READ_ACCESS = MemoryAccess(0x5000, READ, gva=0xFFFF_8000_0000_5000, instruction=LOAD, length=3)


def segment(base: int, limit: int, selector: int, attributes: int) -> bytes:
    return struct.pack("<QIHH", base, limit, selector, attributes)


@pytest.mark.tlfs("VSM-110", "WIN-009")
@pytest.mark.parametrize(
    ("access", "length", "kind", "code"),
    [
        (READ_ACCESS, 3, 0, LOAD),
        (MemoryAccess(0x5000, WRITE, 0x5000, bytes.fromhex("488900"), 3), 3, 1, bytes.fromhex("488900")),
        (MemoryAccess(0x5000, EXECUTE, 0x5000, length=2), 2, 2, b""),
    ],
)
def test_the_240_bytes_of_the_first_kvm_implementation(
    access: MemoryAccess, length: int, kind: int, code: bytes
) -> None:
    message = memory_intercept(STATE, access, WRITE_BACK, KVM_V1)

    expected = struct.pack("<IBBH", 3, length, kind, 1 << 2 | 1 << 4)  # CR0.PE, EFER.LMA; never CR0.AM
    expected += segment(0, 0xFFFF_FFFF, 8, 0xA09B) + struct.pack("<QQ", 0x40_1234, 0x246 | RF)
    expected += struct.pack("<IBBBx", WRITE_BACK, len(code), 0, 0)
    expected += struct.pack("<QQ", 0, 0x5000) + code.ljust(16, b"\0")
    expected += 2 * segment(0, 0xFFFF_FFFF, 0x10, 0xC093)
    expected += struct.pack("<16Q", *STATE.general)
    assert len(expected) == 240
    assert (message.type, message.payload) == (0x8000_0001, expected)


@pytest.mark.tlfs("VSM-108", "VSM-109", "WIN-009")
def test_a_full_message_tells_the_address_and_the_state_as_they_are() -> None:
    state = STATE._replace(
        vtl=1,
        cpl=3,
        cr8=5,
        debug_active=True,
        interruption_pending=True,
        interrupt_shadow=True,
    )

    message = HV_X64_MEMORY_INTERCEPT_MESSAGE.unpack(memory_intercept(state, READ_ACCESS, 4, HYPERV).payload)

    header = message.Header
    assert header.ExecutionState == 3 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 12
    assert header.InstructionLength == 3 | 5 << 4
    assert (header.Rip, header.Rflags, message.TprPriority) == (0x40_1234, 0x246, 5)
    assert (message.GuestVirtualAddress, message.GuestPhysicalAddress) == (0xFFFF_8000_0000_5000, 0x5000)
    assert message.MemoryAccessInfo == 0b11  # the GVA is valid, and so is that it leads to the GPA
    assert message.CacheType == 4


@pytest.mark.tlfs("VSM-109")
def test_the_gva_of_a_page_walk_does_not_lead_to_the_gpa() -> None:
    access = READ_ACCESS._replace(page_walk=True)

    message = HV_X64_MEMORY_INTERCEPT_MESSAGE.unpack(memory_intercept(STATE, access, 6, HYPERV).payload)

    assert message.MemoryAccessInfo == 0b01


@pytest.mark.tlfs("VSM-109")
def test_an_access_without_an_address_says_so() -> None:
    message = HV_X64_MEMORY_INTERCEPT_MESSAGE.unpack(
        memory_intercept(STATE, MemoryAccess(0x5008, WRITE), 6, HYPERV).payload
    )

    assert (message.MemoryAccessInfo, message.GuestVirtualAddress) == (0, 0)
    assert (message.Header.InstructionLength, message.InstructionByteCount) == (0, 0)


@pytest.mark.tlfs("VSM-109")
def test_an_instruction_that_was_not_fetched_has_no_length_and_no_bytes() -> None:
    access = MemoryAccess(0x5000, EXECUTE, 0x5000, LOAD, 2)

    message = HV_X64_MEMORY_INTERCEPT_MESSAGE.unpack(memory_intercept(STATE, access, 6, HYPERV).payload)

    assert (message.Header.InterceptAccessType, message.Header.InstructionLength) == (2, 0)
    assert (message.InstructionByteCount, message.InstructionBytes) == (0, bytes(16))


@pytest.mark.tlfs("VSM-117")
@pytest.mark.parametrize(("write", "kind"), [(False, 0), (True, 1)])
def test_an_msr_message_has_64_bytes(write: bool, kind: int) -> None:
    message = msr_intercept(STATE, MsrAccess(0xC000_0082, write))

    assert message.type == 0x8001_0001 and len(message.payload) == 64
    told = HV_X64_MSR_INTERCEPT_MESSAGE.unpack(message.payload)
    assert (told.MsrNumber, told.Rax, told.Rdx) == (0xC000_0082, 0x1000, 0x1002)
    assert (told.Header.InterceptAccessType, told.Header.InstructionLength) == (kind, 2)


@pytest.mark.tlfs("VSM-121")
def test_a_port_message_has_128_bytes() -> None:
    access = PortAccess(0x80, 4, True, string=True, rep=True, instruction=b"\xf3\x6f", length=2)

    message = port_intercept(STATE, access)

    assert message.type == 0x8001_0000 and len(message.payload) == 128
    told = HV_X64_IO_PORT_INTERCEPT_MESSAGE.unpack(message.payload)
    assert (told.PortNumber, told.AccessInfo) == (0x80, 4 | 1 << 3 | 1 << 4)
    assert (told.Rax, told.Rcx, told.Rsi, told.Rdi) == (0x1000, 0x1001, 0x1006, 0x1007)
    assert told.InstructionBytes[: told.InstructionByteCount] == b"\xf3\x6f"
    assert (told.DsSegment, told.EsSegment) == (FLAT, FLAT)


@pytest.mark.tlfs("VSM-108")
def test_the_message_of_a_real_mode_access_has_no_protection_bits() -> None:
    state = STATE._replace(cr0=0, efer=0)

    header = HV_X64_INTERCEPT_MESSAGE_HEADER.unpack(msr_intercept(state, MsrAccess(0x1B, False)).payload)

    assert header.ExecutionState == 0
