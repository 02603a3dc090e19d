# SPDX-License-Identifier: Apache-2.0
"""Calls made as a guest makes them: through the dispatcher, with bytes in memory and registers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hypercall.fakes import OUTPUT, Caller, Context, control
from tests.pure.synic.partition import PAGE, FakePartition
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.status import HvStatus
from vmm.hvcalls.handlers import handlers
from vmm.hvcalls.outside import MessageInterrupt, TlbFlush
from vmm.hypercall.convention import Outcome
from vmm.synic.connections import Connections, EventPort, MessagePort
from vmm.synic.synic import Synic

SELF = 0xFFFF_FFFF_FFFF_FFFF
VPS = 70  # more than one bank of 64
VTL1_VPS = 0b11  # VTL1 is enabled on VPs 0 and 1
SIMP_PAGE, SIEFP_PAGE, SINT = 5, 6, 2


@dataclass
class VpContext(Context):
    vp: int = 0


class Rig(FakePartition):
    """70 VPs, VTL1 on two of them, one SynIC in VP 1's VTL0, calls by VP 0's VTL0 unless a test says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.flushes: list[tuple[int, TlbFlush]] = []
        self.locked = False
        self.spins: list[tuple[int, int]] = []
        self.messages: list[tuple[int, MessageInterrupt]] = []
        self.synic = Synic(1, 0, self.overlays, self.services)
        self.synic.write_simp(SIMP_PAGE * PAGE | 1)
        self.synic.write_siefp(SIEFP_PAGE * PAGE | 1)
        self.synic.write_sint(SINT, 0x40)
        self.connections = Connections(self.find_synic)
        self.caller = Caller(handlers(self.connections, self.find_synic, self, self))
        self.context = VpContext()
        self.caller.context = self.context

    def find_synic(self, vp: int, vtl: int) -> Synic | None:
        return self.synic if (vp, vtl) == (1, 0) else None

    # `Processors` and `Tlbs`

    def vp_mask(self, vtl: int) -> int:
        return {0: (1 << VPS) - 1, 1: VTL1_VPS}.get(vtl, 0)

    def vp_of_apic_id(self, apic_id: int) -> int | None:
        return apic_id // 2 if apic_id % 2 == 0 and apic_id // 2 < VPS else None

    def request_interrupt(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        self.services.request_interrupt(vp, vtl, vector, auto_eoi)

    def message_interrupt(self, vtl: int, interrupt: MessageInterrupt) -> None:
        self.messages.append((vtl, interrupt))

    def spin_wait(self, vp: int, spins: int) -> None:
        self.spins.append((vp, spins))

    def flush(self, vp: int, request: TlbFlush) -> bool:
        self.flushes.append((vp, request))
        return not self.locked

    # A guest

    def slow(self, code: int, data: bytes, **fields: int) -> int:
        """The status of a call whose input lies in memory."""
        self.caller.put(data)
        return self.caller.status(control(code, **fields))

    def fast(self, code: int, first: int, second: int = 0) -> int:
        """The status of a call whose input is in registers."""
        return self.caller.status(control(code, IsFast=1), first, second)

    def output(self, size: int) -> bytes:
        return self.context.memory.read(OUTPUT, size)


@pytest.fixture
def rig() -> Rig:
    return Rig()


# As Linux does it


@pytest.mark.tlfs("LNX-005")
@pytest.mark.parametrize("ranges", [1, 64, 65, 300, 509])
def test_a_list_is_finished_by_its_completed_count(rig: Rig, ranges: int) -> None:
    """hv_do_rep_hypercall: again from the completed count on, whatever else the result has, until all is done."""
    rig.caller.put(struct.pack(f"<QQQ{ranges}Q", 0x1000, 0, 1, *(index << 12 for index in range(ranges))))
    word = int(control(Code.HvCallFlushVirtualAddressList, RepCount=ranges))
    completed = 0

    while completed < ranges:
        while (outcome := rig.caller.call(word)) is Outcome.RETRY:
            word = rig.caller.registers.rcx  # the trap instruction once more
        assert outcome is Outcome.COMPLETED
        result = int(rig.caller.result)
        assert result & 0xFFFF == 0
        assert result >> 32 & 0xFFF > completed
        completed = result >> 32 & 0xFFF
        word = word & ~(0xFFF << 48) | completed << 48

    flushed = [page for _, flush in rig.flushes for page in flush.ranges or ()]
    assert flushed == [(index << 12, 1) for index in range(ranges)]


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


def direct_post(vp: int, vtl: int, sint: int, message_type: int = 7, partition: int = SELF) -> bytes:
    message = struct.pack("<IBBHQ", message_type, 3, 0xFF, 0, 99) + b"abc".ljust(240, b"\xee")
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


# Flushes

ALL_PROCESSORS, ALL_SPACES, NON_GLOBAL = 1, 2, 4


def flush_input(flags: int, mask: int, ranges: list[int] = []) -> bytes:  # noqa: B006  # never changed
    return struct.pack(f"<QQQ{len(ranges)}Q", 0xABC000, flags, mask, *ranges)


@pytest.mark.tlfs("TLB-001")
@pytest.mark.parametrize(
    ("flags", "mask", "expected"),
    [
        (0, 0b110, TlbFlush(0, 0b110, 0xABC000, True, None)),
        (ALL_SPACES, 1, TlbFlush(0, 1, None, True, None)),
        (NON_GLOBAL, 1, TlbFlush(0, 1, 0xABC000, False, None)),
        (ALL_PROCESSORS, 0, TlbFlush(0, (1 << VPS) - 1, 0xABC000, True, None)),
    ],
)
def test_flush_address_space(flags: int, mask: int, expected: TlbFlush) -> None:
    rig = Rig()
    rig.context.vp = 3

    status = rig.slow(Code.HvCallFlushVirtualAddressSpace, flush_input(flags, mask))

    assert status == HvStatus.SUCCESS
    assert rig.flushes == [(3, expected)]


@pytest.mark.tlfs("TLB-002")
@pytest.mark.parametrize(
    ("flags", "mask"), [(0, 0), (8, 1), (1 << 4, 1), (1 << 8 | 1 << 4, 1), (1 << 5, 1), (1 << 63, 1)]
)
def test_flushes_that_are_refused(flags: int, mask: int) -> None:
    rig = Rig()

    assert (
        rig.slow(Code.HvCallFlushVirtualAddressSpace, flush_input(flags, mask)) == HvStatus.INVALID_PARAMETER
    )
    assert rig.flushes == []


@pytest.mark.tlfs("TLB-001")
def test_flush_list(rig: Rig) -> None:
    data = flush_input(0, 1, [0x7000, 0xFFFF_8000_0000_0FFF])

    rig.caller.put(data)
    rig.caller.call(control(Code.HvCallFlushVirtualAddressList, RepCount=2))

    assert (rig.caller.result.Status, rig.caller.result.RepsCompleted) == (HvStatus.SUCCESS, 2)
    ranges = ((0x7000, 1), (0xFFFF_8000_0000_0000, 4096))
    assert rig.flushes == [(0, TlbFlush(0, 1, 0xABC000, True, ranges))]


@pytest.mark.tlfs("TLB-002")
def test_non_global_is_refused_for_lists(rig: Rig) -> None:
    data = flush_input(NON_GLOBAL, 1, [0x7000])

    status = rig.slow(Code.HvCallFlushVirtualAddressList, data, RepCount=1)

    assert status == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("TLB-001")
def test_flush_ex(rig: Rig) -> None:
    data = struct.pack("<QQQQQ", 0xABC000, 0, 0, 0b10, 0b11) + struct.pack("<Q", 0x9000)

    space = rig.slow(Code.HvCallFlushVirtualAddressSpaceEx, data, VariableHeaderSize=1)
    ranges = rig.slow(Code.HvCallFlushVirtualAddressListEx, data, VariableHeaderSize=1, RepCount=1)

    assert (space, ranges) == (HvStatus.SUCCESS, HvStatus.SUCCESS)
    vps = 0b11 << 64
    assert rig.flushes == [
        (0, TlbFlush(0, vps, 0xABC000, True, None)),
        (0, TlbFlush(0, vps, 0xABC000, True, ((0x9000, 1),))),
    ]


@pytest.mark.tlfs("TLB-002")
@pytest.mark.parametrize(
    ("flags", "fmt", "valid", "banks", "status"),
    [
        (0, 0, 0, [], HvStatus.INVALID_PARAMETER),
        (0, 0, 1, [0], HvStatus.INVALID_PARAMETER),
        (0, 0, 1, [], HvStatus.INVALID_HYPERCALL_INPUT),
        (0, 5, 1, [1], HvStatus.INVALID_PARAMETER),
        (8, 0, 1, [1], HvStatus.INVALID_PARAMETER),
        (0, 1, 0, [], HvStatus.SUCCESS),
        (ALL_PROCESSORS, 0, 0, [], HvStatus.SUCCESS),
    ],
)
def test_flush_ex_sets(flags: int, fmt: int, valid: int, banks: list[int], status: HvStatus) -> None:
    rig = Rig()
    data = struct.pack(f"<QQQQ{len(banks)}Q", 0, flags, fmt, valid, *banks)

    got = rig.slow(Code.HvCallFlushVirtualAddressSpaceEx, data, VariableHeaderSize=len(banks))

    assert got == status
    assert len(rig.flushes) == (status == HvStatus.SUCCESS)


def test_a_flush_of_vps_that_are_not_there_is_done(rig: Rig) -> None:
    rig.context.vtl = 1

    assert rig.slow(Code.HvCallFlushVirtualAddressSpace, flush_input(0, 0b100)) == HvStatus.SUCCESS
    assert rig.flushes == []


@pytest.mark.tlfs("HC-015")
@pytest.mark.parametrize(
    ("code", "reps"),
    [(Code.HvCallFlushVirtualAddressSpace, 0), (Code.HvCallFlushVirtualAddressList, 1)],
)
def test_a_flush_that_is_not_done_is_made_again(rig: Rig, code: Code, reps: int) -> None:
    rig.locked = True
    rig.caller.put(flush_input(0, 1, [0x7000]))

    waiting = rig.caller.call(control(code, RepCount=reps))
    rig.locked = False
    done = rig.caller.again()

    assert (waiting, done) == (Outcome.RETRY, Outcome.COMPLETED)
    assert rig.caller.result.Status == HvStatus.SUCCESS
    assert rig.flushes[0] == rig.flushes[1]


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


def test_without_tlbs_there_are_no_flush_calls() -> None:
    rig = Rig()
    caller = Caller(handlers(rig.connections, rig.find_synic, rig, None))
    caller.context = rig.context

    caller.put(flush_input(0, 1))
    assert caller.status(control(Code.HvCallFlushVirtualAddressSpace)) == HvStatus.INVALID_HYPERCALL_CODE


@given(
    st.sampled_from(sorted(handlers(Rig().connections, Rig().find_synic, Rig(), Rig()))),
    st.binary(min_size=320, max_size=320),
    st.integers(0, 3),
    st.integers(0, 4),
    st.integers(0, 2),
    st.booleans(),
)
def test_no_input_makes_a_handler_raise(
    code: int, data: bytes, reps: int, qwords: int, vtl: int, fast: bool
) -> None:
    rig = Rig()
    rig.context.vtl = vtl
    rig.caller.put(data)

    rig.caller.call(control(code, RepCount=reps, VariableHeaderSize=qwords, IsFast=fast))

    assert rig.caller.dispatcher.internal_errors == 0
