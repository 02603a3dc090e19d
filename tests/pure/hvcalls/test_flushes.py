# SPDX-License-Identifier: Apache-2.0
"""Flushes of address spaces and of lists of ranges, as a guest asks for them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from tests.pure.hvcalls.rig import VPS, Rig
from tests.pure.hypercall.fakes import Caller, control
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.status import HvStatus
from vmm.hvcalls.handlers import handlers
from vmm.hvcalls.outside import TlbFlush
from vmm.hypercall.convention import Outcome


@pytest.fixture
def rig() -> Rig:
    return Rig()


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


ALL_PROCESSORS, ALL_SPACES, NON_GLOBAL = 1, 2, 4


def flush_input(flags: int, mask: int, ranges: Sequence[int] = ()) -> bytes:
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


def test_without_tlbs_there_are_no_flush_calls() -> None:
    rig = Rig()
    caller = Caller(handlers(rig.connections, rig.find_synic, rig, None))
    caller.context = rig.context

    caller.put(flush_input(0, 1))
    assert caller.status(control(Code.HvCallFlushVirtualAddressSpace)) == HvStatus.INVALID_HYPERCALL_CODE
