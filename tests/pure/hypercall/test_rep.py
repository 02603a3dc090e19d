# SPDX-License-Identifier: Apache-2.0
"""Rep calls: slices, continuation, partial completion."""

from __future__ import annotations

import pytest

from tests.pure.hypercall.fakes import INPUT, OUTPUT, Caller, Recorder, control
from vmm.hv.call_codes import HypercallCode
from vmm.hv.hypercall_words import HV_HYPERCALL_INPUT
from vmm.hv.status import HvStatus
from vmm.hypercall.call import AGAIN, REPS_PER_SLICE, CallInput, Reply, failed
from vmm.hypercall.convention import CallerMode, Outcome

APIC_IDS = HypercallCode.HvCallGetVpIndexFromApicId
FLUSH_LIST = HypercallCode.HvCallFlushVirtualAddressList
FLUSH = HypercallCode.HvCallFlushVirtualAddressSpace
GET_REGISTERS = HypercallCode.HvCallGetVpRegisters

BOTH_MODES = pytest.mark.parametrize("mode", [CallerMode.BITS_64, CallerMode.BITS_32])


def identity(call: CallInput[object, int]) -> Reply:
    return 0, len(call.elements), list(call.elements)


def put_ids(caller: Caller, count: int) -> None:
    """APIC ids 1, 2, 3 ... behind a header for the caller's own VTL."""
    caller.put(bytes(16) + b"".join((n + 1).to_bytes(4, "little") for n in range(count)))


def output_ids(caller: Caller, count: int) -> list[int]:
    data = caller.context.memory.read(OUTPUT, 4 * count)
    return [int.from_bytes(data[4 * n : 4 * n + 4], "little") for n in range(count)]


UNTOUCHED = 0xEEEE_EEEE


@pytest.mark.tlfs("HC-010")
def test_reps_completed_count_from_the_start_of_the_list() -> None:
    handler = Recorder(identity)
    caller = Caller({APIC_IDS: handler})
    put_ids(caller, 10)

    status = caller.status(control(APIC_IDS, RepCount=10, RepStartIndex=5))

    assert (status, caller.result.RepsCompleted) == (HvStatus.SUCCESS, 10)
    assert handler.last.elements == (6, 7, 8, 9, 10)


@pytest.mark.tlfs("HC-010")
def test_elements_before_the_start_keep_their_output() -> None:
    caller = Caller({APIC_IDS: Recorder(identity)})
    put_ids(caller, 4)

    caller.status(control(APIC_IDS, RepCount=4, RepStartIndex=2))

    assert output_ids(caller, 5) == [UNTOUCHED, UNTOUCHED, 3, 4, UNTOUCHED]


@pytest.mark.tlfs("HC-010", "HC-019")
@pytest.mark.parametrize("start", [0, 2])
def test_error_tells_and_stores_what_was_finished_before_it(start: int) -> None:
    caller = Caller({APIC_IDS: Recorder(failed(HvStatus.INVALID_PARAMETER, 2, [11, 12]))})
    put_ids(caller, 8)

    status = caller.status(control(APIC_IDS, RepCount=8, RepStartIndex=start))

    assert (status, caller.result.RepsCompleted) == (HvStatus.INVALID_PARAMETER, start + 2)
    assert output_ids(caller, start + 3) == [UNTOUCHED] * start + [11, 12, UNTOUCHED]


@pytest.mark.tlfs("HC-010")
def test_error_at_the_first_element() -> None:
    caller = Caller({APIC_IDS: Recorder(failed(HvStatus.INVALID_PARAMETER))})
    put_ids(caller, 2)

    status = caller.status(control(APIC_IDS, RepCount=2))

    assert (status, caller.result.RepsCompleted) == (HvStatus.INVALID_PARAMETER, 0)


@pytest.mark.tlfs("HC-015")
@BOTH_MODES
def test_long_list_gives_the_processor_back_and_goes_on(mode: CallerMode) -> None:
    handler = Recorder(identity)
    caller = Caller({APIC_IDS: handler})
    caller.mode = mode
    count = 3 * REPS_PER_SLICE + 1
    put_ids(caller, count)

    outcomes = [caller.call(control(APIC_IDS, RepCount=count))]
    while outcomes[-1] is Outcome.RETRY:
        outcomes.append(caller.again())

    assert outcomes == [Outcome.RETRY] * 3 + [Outcome.COMPLETED]
    assert [len(call.elements) for call in handler.calls] == [REPS_PER_SLICE] * 3 + [1]
    assert (caller.result.Status, caller.result.RepsCompleted) == (HvStatus.SUCCESS, count)
    assert output_ids(caller, count) == list(range(1, count + 1))


@pytest.mark.tlfs("HC-008", "HC-015")
def test_continuation_moves_the_rep_start_in_rcx_and_no_other_register() -> None:
    caller = Caller({APIC_IDS: Recorder(identity)})
    count = REPS_PER_SLICE + 1
    put_ids(caller, count)
    caller.registers.set_input(CallerMode.BITS_64, control(APIC_IDS, RepCount=count), INPUT, OUTPUT)
    before = caller.registers.snapshot()

    assert caller.again() is Outcome.RETRY

    assert caller.registers.changed_since(before) == {"rcx"}
    moved = control(APIC_IDS, RepCount=count, RepStartIndex=REPS_PER_SLICE)
    assert HV_HYPERCALL_INPUT(caller.registers.rcx) == moved


@pytest.mark.tlfs("HC-008", "HC-015")
def test_continuation_of_a_32_bit_caller_moves_the_rep_start_in_edx() -> None:
    caller = Caller({APIC_IDS: Recorder(identity)})
    caller.mode = CallerMode.BITS_32
    count = REPS_PER_SLICE + 1
    put_ids(caller, count)

    assert caller.call(control(APIC_IDS, RepCount=count)) is Outcome.RETRY

    moved = control(APIC_IDS, RepCount=count, RepStartIndex=REPS_PER_SLICE)
    assert (caller.registers.rdx, caller.registers.rax) == (moved >> 32, moved & 0xFFFF_FFFF)


@pytest.mark.tlfs("HC-016")
@pytest.mark.parametrize("start", [0, 1, 4094])
def test_at_least_one_rep_is_attempted(start: int) -> None:
    handler = Recorder(identity)
    caller = Caller({FLUSH_LIST: handler})
    caller.context.memory.write(INPUT, bytes(4096))

    # 4095 reps of 8 bytes would leave the page, so a list is as long as what fits behind the start.
    count = min(start + 1, (4096 - 24) // 8)
    caller.call(control(FLUSH_LIST, RepCount=count, RepStartIndex=count - 1))

    assert len(handler.last.elements) == 1


@pytest.mark.tlfs("HC-015")
def test_handler_may_ask_to_be_called_again() -> None:
    replies: list[Reply] = [(AGAIN, 0, None), (AGAIN, 1, None), (0, 2, None)]
    handler = Recorder(lambda call: replies.pop(0))
    caller = Caller({FLUSH_LIST: handler})
    caller.put(bytes(24) + b"".join(n.to_bytes(8, "little") for n in range(3)))

    outcomes = [caller.call(control(FLUSH_LIST, RepCount=3)), caller.again(), caller.again()]

    assert outcomes == [Outcome.RETRY, Outcome.RETRY, Outcome.COMPLETED]
    assert [call.elements for call in handler.calls] == [(0, 1, 2), (0, 1, 2), (1, 2)]
    assert (caller.result.Status, caller.result.RepsCompleted) == (HvStatus.SUCCESS, 3)


@pytest.mark.tlfs("HC-015")
@BOTH_MODES
def test_simple_call_may_be_made_again_too(mode: CallerMode) -> None:
    replies: list[Reply] = [(AGAIN, 0, None), (0, 0, None)]
    caller = Caller({FLUSH: Recorder(lambda call: replies.pop(0))})
    caller.mode = mode
    caller.registers.set_input(mode, control(FLUSH), INPUT, OUTPUT)
    before = caller.registers.snapshot()

    first = caller.again()

    assert (first, caller.registers.changed_since(before)) == (Outcome.RETRY, set())
    assert caller.again() is Outcome.COMPLETED


@pytest.mark.tlfs("HC-007", "HC-010")
def test_fast_output_of_a_call_that_starts_in_the_middle() -> None:
    """Two indices share a register with one that an earlier execution stored: it keeps its value."""
    caller = Caller({APIC_IDS: Recorder(identity)})
    xmm = caller.context.xmm.data
    xmm[:12] = b"".join(n.to_bytes(4, "little") for n in (1, 2, 3))
    before = bytes(xmm)

    caller.status(control(APIC_IDS, IsFast=1, RepCount=3, RepStartIndex=1), 0, 0)

    # Ids in XMM0, indices in XMM1: bytes 16 to 19 are those of the first rep.
    assert bytes(xmm) == before[:20] + (2).to_bytes(4, "little") + (3).to_bytes(4, "little") + before[28:]


@pytest.mark.tlfs("HC-010")
def test_rights_lost_between_slices_leave_the_finished_reps_counted() -> None:
    caller = Caller(
        {GET_REGISTERS: Recorder(lambda call: (0, len(call.elements), [bytes(16)] * len(call.elements)))}
    )
    caller.put(bytes(4096))
    assert caller.call(control(GET_REGISTERS, RepCount=REPS_PER_SLICE + 1)) is Outcome.RETRY

    caller.put(b"\x11", INPUT + 12)  # HV_INPUT_VTL: VTL1, above the caller
    caller.again()

    assert (caller.result.Status, caller.result.RepsCompleted) == (HvStatus.ACCESS_DENIED, REPS_PER_SLICE)


@pytest.mark.tlfs("REG-001")
def test_256_registers_fill_an_output_page() -> None:
    caller = Caller(
        {GET_REGISTERS: Recorder(lambda call: (0, len(call.elements), [bytes(16)] * len(call.elements)))}
    )
    caller.put(bytes(4096))

    outcome = caller.call(control(GET_REGISTERS, RepCount=256))
    while outcome is Outcome.RETRY:
        outcome = caller.again()

    assert (caller.result.Status, caller.result.RepsCompleted) == (HvStatus.SUCCESS, 256)
    assert caller.context.memory.read(OUTPUT, 4096) == bytes(4096)
    assert caller.status(control(GET_REGISTERS, RepCount=257)) == HvStatus.INVALID_ALIGNMENT


@pytest.mark.tlfs("VSM-070")
@pytest.mark.parametrize(
    ("pages", "fast", "status"), [(1, 0, 0), (510, 0, 0), (511, 0, 4), (12, 1, 0), (13, 1, 3)]
)
def test_page_list_of_modify_vtl_protection_mask(pages: int, fast: int, status: int) -> None:
    code = HypercallCode.HvCallModifyVtlProtectionMask
    caller = Caller({code: Recorder(lambda call: (0, len(call.elements), None))})
    caller.context.vtl = 1
    caller.put(bytes(4096))

    outcome = caller.call(control(code, RepCount=pages, IsFast=fast), *((0, 0) if fast else (INPUT, OUTPUT)))
    while outcome is Outcome.RETRY:
        outcome = caller.again()

    assert caller.result.Status == status
