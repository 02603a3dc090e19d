# SPDX-License-Identifier: Apache-2.0
"""Calls about messages, events, interrupts and processors as a guest makes them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.pure.hvcalls.rig import SELF, SIEFP_PAGE, SIMP_PAGE, SINT, VPS, Rig
from tests.pure.hypercall.fakes import INPUT, OUTPUT, control
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.constants import HV_HYPERCALL_FAST_XMM_INPUT_SIZE
from vmm.hv.status import HvStatus
from vmm.hvcalls.handlers import handlers
from vmm.hypercall.calls import CALLS_BY_CODE
from vmm.synic.connections import EventPort, MessagePort


@pytest.fixture
def rig() -> Rig:
    return Rig()


# Messages and events


def post_input(connection: int, message_type: int, size: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IIII", connection, 0, message_type, size) + payload.ljust(240, b"\xaa")


@pytest.mark.tlfs("SYN-027")
def test_post_message(rig: Rig) -> None:
    rig.connections.connect(0, 0x10, MessagePort(0x10, 1, 0, SINT))

    status = rig.slow(Code.HvCallPostMessage, post_input(0x10, 0x12345678, 8, b"12345678"))

    message = rig.message(SIMP_PAGE, SINT)
    assert status == HvStatus.SUCCESS
    assert (message.MessageType, message.PayloadSize) == (0x12345678, 8)
    assert message.Payload == b"12345678".ljust(240, b"\0")  # and nothing behind the size


@pytest.mark.tlfs("SYN-027")
@pytest.mark.parametrize(
    ("connection", "message_type", "size", "status"),
    [
        (0x11, 1, 0, HvStatus.INVALID_CONNECTION_ID),
        (0x10, 1, 241, HvStatus.INVALID_PARAMETER),
        (0x10, 1, 0xFFFF_FFFF, HvStatus.INVALID_PARAMETER),
        (0x10, 0x8000_0000, 0, HvStatus.INVALID_PARAMETER),
        (0x10, 0, 0, HvStatus.INVALID_PARAMETER),
        (0x10, 1, 240, HvStatus.SUCCESS),
    ],
)
def test_post_message_statuses(connection: int, message_type: int, size: int, status: HvStatus) -> None:
    rig = Rig()
    rig.connections.connect(0, 0x10, MessagePort(0x10, 1, 0, SINT))

    assert rig.slow(Code.HvCallPostMessage, post_input(connection, message_type, size)) == status


@pytest.mark.tlfs("SYN-028")
def test_signal_event_fast(rig: Rig) -> None:
    rig.connections.connect(0, 0x20, EventPort(0x20, 1, 0, SINT, base_flag=64, flag_count=2))

    statuses = [rig.fast(Code.HvCallSignalEvent, value) for value in (0x20 | 1 << 32, 0x20 | 2 << 32, 0x1234)]

    assert statuses == [
        HvStatus.SUCCESS,
        HvStatus.INVALID_PARAMETER,
        HvStatus.INVALID_CONNECTION_ID,
    ]
    assert rig.flags(SIEFP_PAGE, SINT) == {65}


def direct_post(
    vp: int, vtl: int, sint: int, message_type: int = 7, partition: int = SELF, size: int = 3
) -> bytes:
    message = struct.pack("<IBBHQ", message_type, size, 0xFF, 0, 99) + b"abc".ljust(240, b"\xee")
    return struct.pack("<QIBxxxBxxx", partition, vp, vtl, sint) + message + bytes(4)


@pytest.mark.tlfs("SYN-029")
def test_post_message_direct(rig: Rig) -> None:
    rig.context.vtl = 2

    status = rig.slow(Code.HvCallPostMessageDirect, direct_post(1, 0, SINT))

    message = rig.message(SIMP_PAGE, SINT)
    assert status == HvStatus.SUCCESS
    assert (message.MessageType, message.Sender, int(message.MessageFlags)) == (7, 99, 0)
    assert message.Payload == b"abc".ljust(240, b"\0")


@pytest.mark.tlfs("SYN-029")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (direct_post(1, 0, 16), HvStatus.INVALID_PARAMETER),
        (direct_post(1, 0, SINT, message_type=0), HvStatus.INVALID_PARAMETER),
        (direct_post(1, 0, SINT, size=241), HvStatus.INVALID_PARAMETER),
        (direct_post(1, 0, SINT, size=240), HvStatus.SUCCESS),
        (direct_post(9, 0, SINT), HvStatus.INVALID_VP_INDEX),
        (direct_post(1, 1, SINT), HvStatus.INVALID_VP_INDEX),
        (direct_post(1, 0, SINT, partition=5), HvStatus.INVALID_PARTITION_ID),
    ],
)
def test_post_message_direct_statuses(data: bytes, status: HvStatus) -> None:
    rig = Rig()
    rig.context.vtl = 2

    assert rig.slow(Code.HvCallPostMessageDirect, data) == status


@pytest.mark.tlfs("SYN-029")
def test_signal_event_direct_tells_whether_the_flag_was_clear(rig: Rig) -> None:
    rig.context.vtl, rig.context.vp = 2, 1
    data = struct.pack("<QIBBH", SELF, 0xFFFF_FFFE, 0, SINT, 2047)  # HV_VP_INDEX_SELF

    results = []
    for _ in range(2):
        status = rig.slow(Code.HvCallSignalEventDirect, data)
        results.append((status, rig.output(8)))

    assert results == [(0, b"\x01" + bytes(7)), (0, bytes(8))]
    assert rig.flags(SIEFP_PAGE, SINT) == {2047}


# IPIs


@pytest.mark.tlfs("VP-008", "VP-011")
def test_cluster_ipi_fast_as_linux_sends_it(rig: Rig) -> None:
    status = rig.fast(Code.HvCallSendSyntheticClusterIpi, 0xF3, 0b101)

    assert status == HvStatus.SUCCESS
    assert rig.services.taken() == [(0, 0, 0xF3, False), (2, 0, 0xF3, False)]


@pytest.mark.tlfs("VP-008")
@pytest.mark.parametrize(
    ("vector", "accepted"), [(0xF, False), (0x10, True), (0xFF, True), (0x100, False), (0xFFFF_FFFF, False)]
)
def test_cluster_ipi_vectors(vector: int, accepted: bool) -> None:
    rig = Rig()

    status = rig.fast(Code.HvCallSendSyntheticClusterIpi, vector, 1)

    assert status == (HvStatus.SUCCESS if accepted else HvStatus.INVALID_PARAMETER)
    assert len(rig.services.taken()) == accepted


@pytest.mark.tlfs("VP-010")
def test_cluster_ipi_to_another_vtl(rig: Rig) -> None:
    """VTL0 to VTL1 is delivered, as kvm-unit-tests' hyperv_vsm wants it (DIS-15); VPs without VTL1 are left out."""
    status = rig.fast(Code.HvCallSendSyntheticClusterIpi, 0x21 | (1 << 4 | 1) << 32, 0b111)

    assert status == HvStatus.SUCCESS
    assert rig.services.taken() == [(0, 1, 0x21, False), (1, 1, 0x21, False)]


def ipi_ex(vector: int, fmt: int, valid: int, banks: list[int]) -> bytes:
    return struct.pack("<IBxxxQQ", vector, 0, fmt, valid) + struct.pack(f"<{len(banks)}Q", *banks)


@pytest.mark.tlfs("VP-009")
def test_cluster_ipi_ex_with_a_sparse_set(rig: Rig) -> None:
    data = ipi_ex(0x30, 0, 0b10, [0b100001])  # bank 1 alone: VPs 64 and 69

    status = rig.slow(Code.HvCallSendSyntheticClusterIpiEx, data, VariableHeaderSize=1)

    assert status == HvStatus.SUCCESS
    assert rig.services.taken() == [(64, 0, 0x30, False), (69, 0, 0x30, False)]


@pytest.mark.tlfs("VP-009")
def test_cluster_ipi_ex_to_all(rig: Rig) -> None:
    status = rig.slow(Code.HvCallSendSyntheticClusterIpiEx, ipi_ex(0x30, 1, 0, []))

    assert status == HvStatus.SUCCESS
    assert [vp for vp, *_ in rig.services.taken()] == list(range(VPS))


@pytest.mark.tlfs("VP-009")
@pytest.mark.parametrize(
    ("fmt", "valid", "banks", "status"),
    [
        (0, 0b11, [1], HvStatus.INVALID_HYPERCALL_INPUT),
        (0, 0, [1], HvStatus.INVALID_HYPERCALL_INPUT),
        (2, 1, [1], HvStatus.INVALID_PARAMETER),
        (0, 0, [], HvStatus.SUCCESS),
        (0, 1 << 63, [SELF], HvStatus.SUCCESS),  # nobody there
    ],
)
def test_cluster_ipi_ex_sets(fmt: int, valid: int, banks: list[int], status: HvStatus) -> None:
    rig = Rig()

    got = rig.slow(
        Code.HvCallSendSyntheticClusterIpiEx, ipi_ex(0x30, fmt, valid, banks), VariableHeaderSize=len(banks)
    )

    assert got == status
    assert rig.services.taken() == []


@given(st.sets(st.integers(0, 4095), max_size=30))
def test_any_sparse_set_reaches_exactly_its_vps(vps: set[int]) -> None:
    rig = Rig()
    banks: dict[int, int] = {}
    for vp in vps:
        banks[vp // 64] = banks.get(vp // 64, 0) | 1 << vp % 64
    contents = [banks[bank] for bank in sorted(banks)]
    data = ipi_ex(0x30, 0, sum(1 << bank for bank in banks), contents)

    rig.slow(Code.HvCallSendSyntheticClusterIpiEx, data, VariableHeaderSize=len(contents))

    assert [vp for vp, *_ in rig.services.taken()] == sorted(vp for vp in vps if vp < VPS)


# Processors, extended calls


def apic_input(ids: list[int], partition: int = SELF) -> bytes:
    return struct.pack(f"<QBxxxxxxx{len(ids)}I", partition, 0, *ids)


@pytest.mark.tlfs("VP-006", "VP-007")
def test_vp_index_from_apic_id(rig: Rig) -> None:
    status = rig.slow(Code.HvCallGetVpIndexFromApicId, apic_input([4, 0, 138]), RepCount=3)

    assert status == HvStatus.SUCCESS
    assert rig.output(12) == struct.pack("<III", 2, 0, 69)  # packed, DIS-12


@pytest.mark.tlfs("VP-006")
def test_an_unknown_apic_id_ends_the_list(rig: Rig) -> None:
    rig.caller.put(apic_input([4, 1, 6]))
    rig.caller.call(control(Code.HvCallGetVpIndexFromApicId, RepCount=3))

    assert rig.caller.result.Status == HvStatus.INVALID_PARAMETER
    assert rig.caller.result.RepsCompleted == 1
    assert rig.output(8) == struct.pack("<I", 2) + b"\xee" * 4  # the second was not written


@pytest.mark.tlfs("VP-006")
def test_another_partition_has_no_apic_ids_for_us(rig: Rig) -> None:
    status = rig.slow(Code.HvCallGetVpIndexFromApicId, apic_input([4], partition=1), RepCount=1)

    assert status == HvStatus.INVALID_PARTITION_ID


@pytest.mark.tlfs("MISC-001")
def test_long_spin_wait_is_passed_on(rig: Rig) -> None:
    rig.context.vp = 4

    assert rig.fast(Code.HvCallNotifyLongSpinWait, 0xFFFF_FFFF) == HvStatus.SUCCESS
    assert rig.spins == [(4, 0xFFFF_FFFF)]


@pytest.mark.tlfs("HC-020")
def test_no_extended_call_is_offered(rig: Rig) -> None:
    status = rig.caller.status(control(Code.HvExtCallQueryCapabilities))

    assert status == HvStatus.SUCCESS
    assert rig.output(8) == bytes(8)


HANDLED = sorted(handlers(Rig().connections, Rig().find_synic, Rig(), Rig()))

# What brings each call to its handler's last line: the first words of its input.
GOOD: dict[int, tuple[int, ...]] = {
    Code.HvCallFlushVirtualAddressSpace: (0x1000, 0, 1),
    Code.HvCallFlushVirtualAddressList: (0x1000, 0, 1),
    Code.HvCallFlushVirtualAddressSpaceEx: (0x1000, 0, 1, 0),
    Code.HvCallFlushVirtualAddressListEx: (0x1000, 0, 1, 0),
    Code.HvCallSendSyntheticClusterIpi: (0x40, 1),
    Code.HvCallSendSyntheticClusterIpiEx: (0x40, 1, 0),
    Code.HvCallGetVpIndexFromApicId: (SELF, 0, 2 | 4 << 32, 6),
    Code.HvCallAssertVirtualInterrupt: (SELF, 0, 6, 0x41),  # fixed; APIC id; vector, VTL 0
    Code.HvCallPostMessage: (0x10, 7 | 3 << 32),  # connection; type and size
    Code.HvCallSignalEvent: (0x20 | 1 << 32,),  # connection and flag
    Code.HvCallSignalEventDirect: (SELF, 1 | SINT << 40 | 5 << 48),  # VP 1, VTL 0, source, flag
    Code.HvCallPostMessageDirect: (SELF, 1, SINT | 7 << 32, 3),  # VP 1, VTL 0; source and type; size
}
WORDS = st.sampled_from([0, 1, SINT, 240, 241, 2047, 1 << 32, 1 << 63, SELF]) | st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize("code", HANDLED, ids=hex)
def test_no_input_makes_a_handler_raise(code: int) -> None:
    """Input that is good but for a word or two, in control words most of which fit the call."""
    call = CALLS_BY_CODE[code]
    statuses = set()

    @settings(max_examples=200)
    @given(
        words=st.lists(WORDS, min_size=4, max_size=4),
        rest=WORDS,
        spoilt=st.sets(st.integers(0, 3), max_size=2),
        reps=st.integers(0, 3),
        qwords=st.integers(0, 4),
        odd=st.sampled_from([False] * 4 + [True]),
        vtl=st.integers(0, 2),
        fast=st.booleans(),
    )
    @example(words=[0] * 4, rest=0, spoilt=set(), reps=2, qwords=0, odd=False, vtl=0, fast=False)
    def check(
        words: list[int], rest: int, spoilt: set[int], reps: int, qwords: int, odd: bool, vtl: int, fast: bool
    ) -> None:
        rig = Rig()
        rig.connections.connect(0, 0x10, MessagePort(0x10, 1, 0, SINT))
        rig.connections.connect(0, 0x20, EventPort(0x20, 1, 0, SINT, base_flag=64, flag_count=2))
        rig.context.vtl = vtl
        good = GOOD.get(code, ())
        block = words + [rest] * 36
        for index in set(range(len(good))) - spoilt:
            block[index] = good[index]
        rig.caller.put(struct.pack("<40Q", *block))
        rig.context.xmm.data[:] = struct.pack("<12Q", *block[2:14])
        if not odd:
            rig.context.vtl = call.min_caller_vtl
            fast = fast and call.header_size <= HV_HYPERCALL_FAST_XMM_INPUT_SIZE
            reps = max(reps, 1) if call.element is not None else 0
            qwords = qwords if call.variable_header else 0
        word = control(code, RepCount=reps, VariableHeaderSize=qwords, IsFast=fast)

        rig.caller.call(word, *(block[:2] if fast else (INPUT, OUTPUT)))

        assert rig.caller.dispatcher.internal_errors == 0
        statuses.add(rig.caller.result.Status)

    check()

    assert HvStatus.SUCCESS in statuses
