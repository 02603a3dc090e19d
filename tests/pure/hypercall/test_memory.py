# SPDX-License-Identifier: Apache-2.0
"""Input and output lists in guest memory: where they may lie, when they are read and written."""

from __future__ import annotations

import pytest

from tests.pure.hypercall.fakes import INPUT, OUTPUT, Caller, Recorder, control
from vmm.hv.call_codes import HypercallCode
from vmm.hv.inputs import HV_INPUT_POST_MESSAGE
from vmm.hv.status import HvStatus
from vmm.hypercall.call import CallInput, Reply, failed
from vmm.hypercall.convention import Outcome
from vmm.hypercall.outside import UnprotectedMemory
from vmm.outside import GuestMemoryError

POST = HypercallCode.HvCallPostMessage  # 256 bytes in, nothing out
QUERY = HypercallCode.HvExtCallQueryCapabilities  # nothing in, 8 bytes out
APIC_IDS = HypercallCode.HvCallGetVpIndexFromApicId  # rep: 16 bytes and 4 each in, 4 each out
SPIN_WAIT = HypercallCode.HvCallNotifyLongSpinWait
GET_REGISTERS = HypercallCode.HvCallGetVpRegisters
TRANSLATE = HypercallCode.HvCallTranslateVirtualAddress

NO_RAM = 0x2000
BEYOND = 0xFFFF_FFFF_FFFF_F000


def apic_ids(call: CallInput[object, int]) -> Reply:
    """VP index = APIC id + 100."""
    return 0, len(call.elements), [apic_id + 100 for apic_id in call.elements]


@pytest.mark.tlfs("HC-004")
@pytest.mark.parametrize("gpa", [INPUT + 1, INPUT + 2, INPUT + 4, INPUT + 7])
def test_misaligned_input(gpa: int) -> None:
    handler = Recorder()
    caller = Caller({POST: handler})

    assert caller.status(control(POST), gpa) == HvStatus.INVALID_ALIGNMENT
    assert handler.calls == []


@pytest.mark.tlfs("HC-004")
@pytest.mark.parametrize("gpa", [OUTPUT + 1, OUTPUT + 2, OUTPUT + 4, OUTPUT + 7])
def test_misaligned_output(gpa: int) -> None:
    handler = Recorder()
    caller = Caller({QUERY: handler})

    assert caller.status(control(QUERY), 0, gpa) == HvStatus.INVALID_ALIGNMENT
    assert handler.calls == []


@pytest.mark.tlfs("HC-004")
def test_input_may_end_at_the_end_of_its_page_and_not_behind_it() -> None:
    caller = Caller({POST: Recorder()})

    last = caller.status(control(POST), INPUT + 4096 - 256)
    crossing = caller.status(control(POST), INPUT + 4096 - 248)
    crossing_into_ram = caller.status(control(POST), OUTPUT + 4096 - 248)

    assert (last, crossing, crossing_into_ram) == (
        HvStatus.SUCCESS,
        HvStatus.INVALID_ALIGNMENT,
        HvStatus.INVALID_ALIGNMENT,
    )


@pytest.mark.tlfs("HC-004")
def test_output_may_end_at_the_end_of_its_page_with_a_hole_behind_it() -> None:
    caller = Caller({QUERY: Recorder((0, 0, 1))})

    assert caller.status(control(QUERY), 0, INPUT + 4096 - 8) == HvStatus.SUCCESS
    assert caller.context.memory.read(INPUT + 4096 - 8, 8) == (1).to_bytes(8, "little")


@pytest.mark.tlfs("HC-004")
def test_page_crossing_counts_all_elements_of_a_list() -> None:
    caller = Caller({APIC_IDS: Recorder(apic_ids)})
    caller.put(bytes(4096))

    # 16 + 4 x 2 bytes of input, 4 x 2 of output.
    fits = caller.status(control(APIC_IDS, RepCount=2), INPUT + 4096 - 24, OUTPUT + 4096 - 8)
    input_crosses = caller.status(control(APIC_IDS, RepCount=3), INPUT + 4096 - 24, OUTPUT)
    output_crosses = caller.status(control(APIC_IDS, RepCount=3), INPUT, OUTPUT + 4096 - 8)

    assert (fits, input_crosses, output_crosses) == (
        HvStatus.SUCCESS,
        HvStatus.INVALID_ALIGNMENT,
        HvStatus.INVALID_ALIGNMENT,
    )


@pytest.mark.tlfs("HC-004")
def test_list_longer_than_a_page() -> None:
    caller = Caller({APIC_IDS: Recorder(apic_ids)})

    assert caller.status(control(APIC_IDS, RepCount=4095)) == HvStatus.INVALID_ALIGNMENT


@pytest.mark.tlfs("HC-004")
@pytest.mark.parametrize("gpa", [NO_RAM, BEYOND, 1 << 52])
def test_input_that_is_not_ram(gpa: int) -> None:
    handler = Recorder()
    caller = Caller({POST: handler})

    assert caller.status(control(POST), gpa) == HvStatus.INVALID_ALIGNMENT
    assert handler.calls == []


@pytest.mark.tlfs("HC-004")
@pytest.mark.parametrize("gpa", [NO_RAM, BEYOND, 1 << 52])
def test_output_that_is_not_ram_is_found_before_the_handler_runs(gpa: int) -> None:
    handler = Recorder((0, 0, 1))
    caller = Caller({QUERY: handler})

    assert caller.status(control(QUERY), 0, gpa) == HvStatus.INVALID_ALIGNMENT
    assert handler.calls == []


@pytest.mark.tlfs("HC-004")
def test_overlapping_lists_are_well_defined() -> None:
    """Released Linux kernels give one address for both lists of this call, so it must work: input is copied first."""
    caller = Caller({APIC_IDS: Recorder(apic_ids)})
    caller.put(bytes(16) + (7).to_bytes(4, "little"))

    status = caller.status(control(APIC_IDS, RepCount=1), INPUT, INPUT)

    assert (status, caller.context.memory.read(INPUT, 4)) == (HvStatus.SUCCESS, (107).to_bytes(4, "little"))


@pytest.mark.tlfs("HC-003")
def test_output_address_of_a_call_without_output_is_not_looked_at() -> None:
    caller = Caller({POST: Recorder()})

    assert caller.status(control(POST), INPUT, BEYOND + 0xFFD) == HvStatus.SUCCESS


@pytest.mark.tlfs("HC-003")
def test_input_address_of_a_call_without_input_is_not_looked_at() -> None:
    caller = Caller({QUERY: Recorder((0, 0, 1))})

    assert caller.status(control(QUERY), BEYOND + 0xFFD, OUTPUT) == HvStatus.SUCCESS


@pytest.mark.tlfs("HC-003", "MISC-001")
def test_addresses_of_a_fast_call_are_data() -> None:
    caller = Caller({SPIN_WAIT: Recorder()})

    assert caller.status(control(SPIN_WAIT, IsFast=1), BEYOND + 0xFFD, 1) == HvStatus.SUCCESS


@pytest.mark.tlfs("HC-005", "HC-022")
def test_input_hidden_by_a_higher_vtl_is_an_intercept() -> None:
    handler = Recorder()
    caller = Caller({POST: handler})
    caller.context.memory.unreadable = {INPUT}
    caller.registers.set_input(2, control(POST), INPUT + 64, OUTPUT)
    before = caller.registers.snapshot()

    outcome = caller.again()

    assert (outcome, caller.context.intercepts) == (Outcome.INTERCEPT, [(INPUT + 64, False)])
    assert (handler.calls, caller.registers.changed_since(before)) == ([], set())


@pytest.mark.tlfs("HC-005", "HC-022")
def test_output_write_protected_by_a_higher_vtl_is_an_intercept_before_the_handler_runs() -> None:
    handler = Recorder((0, 0, 1))
    caller = Caller({QUERY: handler})
    caller.context.memory.unwritable = {OUTPUT}
    caller.registers.set_input(2, control(QUERY), 0, OUTPUT)
    before = caller.registers.snapshot()

    outcome = caller.again()

    assert (outcome, caller.context.intercepts) == (Outcome.INTERCEPT, [(OUTPUT, True)])
    assert (handler.calls, caller.registers.changed_since(before)) == ([], set())


@pytest.mark.tlfs("HC-005", "HC-022")
def test_output_page_that_is_taken_away_while_the_handler_runs_is_an_intercept() -> None:
    """The call is made again as a whole, and finds what is true then."""
    answers = iter([(0, 0, 1), (0, 0, 2)])
    caller = Caller({QUERY: lambda context, call: taken_away(next(answers))})

    def taken_away(reply: Reply) -> Reply:
        caller.context.memory.unwritable = {OUTPUT} if reply[2] == 1 else set()
        return reply

    caller.registers.set_input(2, control(QUERY), 0, OUTPUT)
    before, memory = caller.registers.snapshot(), caller.context.memory.snapshot()

    assert (caller.again(), caller.context.intercepts) == (Outcome.INTERCEPT, [(OUTPUT, True)])
    assert (caller.registers.changed_since(before), caller.context.memory.snapshot()) == (set(), memory)
    caller.context.memory.unwritable = set()
    assert caller.again() is Outcome.COMPLETED
    assert caller.context.memory.read(OUTPUT, 8) == (2).to_bytes(8, "little")


@pytest.mark.tlfs("HC-018")
@pytest.mark.parametrize("output", ["hidden", "no RAM"])
@pytest.mark.parametrize("code", [GET_REGISTERS, TRANSLATE])
def test_vtl_above_the_caller_is_denied_before_its_output_page_is_looked_at(
    code: HypercallCode, output: str
) -> None:
    """A simple and a rep call. Nor does the higher VTL hear of an access that is not made."""
    handler = Recorder()
    caller = Caller({code: handler})
    caller.context.memory.unwritable = {OUTPUT}
    caller.put(b"\x11" * 64)  # VTL1, as HV_INPUT_VTL and in the flags of a translation

    status = caller.status(
        control(code, RepCount=int(code == GET_REGISTERS)), INPUT, OUTPUT if output == "hidden" else NO_RAM
    )

    assert (status, handler.calls, caller.context.intercepts) == (HvStatus.ACCESS_DENIED, [], [])


@pytest.mark.tlfs("HC-005")
def test_call_goes_through_once_the_higher_vtl_gives_way() -> None:
    caller = Caller({POST: Recorder()})
    caller.context.memory.unreadable = {INPUT}
    assert caller.call(control(POST)) is Outcome.INTERCEPT

    caller.context.memory.unreadable = set()

    assert caller.again() is Outcome.COMPLETED
    assert caller.result.Status == HvStatus.SUCCESS


@pytest.mark.tlfs("HC-005")
def test_output_page_that_is_only_read_protected_can_be_written() -> None:
    caller = Caller({QUERY: Recorder((0, 0, 1))})
    caller.context.memory.unreadable = {OUTPUT}

    assert caller.status(control(QUERY), 0, OUTPUT) == HvStatus.SUCCESS


@pytest.mark.tlfs("HC-019")
@pytest.mark.parametrize("fast", [0, 1])
def test_simple_call_that_fails_writes_nothing(fast: int) -> None:
    caller = Caller({QUERY: Recorder((HvStatus.ACCESS_DENIED, 0, 0x1F))})
    caller.registers.set_input(2, control(QUERY, IsFast=fast), 0, OUTPUT)
    before, memory = caller.registers.snapshot(), caller.context.memory.snapshot()

    caller.again()

    assert caller.registers.changed_since(before) == {"rax"}
    assert caller.context.memory.snapshot() == memory


def test_input_is_read_once() -> None:
    """What the handler sees was copied in one go: the guest cannot change it between a check and its use."""
    caller = Caller({POST: Recorder()})

    caller.status(control(POST), INPUT + 8)

    assert caller.context.memory.reads == [(INPUT + 8, HV_INPUT_POST_MESSAGE.SIZE)]


def test_handler_gets_the_layout_of_the_row() -> None:
    handler = Recorder(failed(HvStatus.INVALID_CONNECTION_ID))
    caller = Caller({POST: handler})
    message = HV_INPUT_POST_MESSAGE(ConnectionId=5, MessageType=1, PayloadSize=3, Payload=b"abc" + bytes(237))
    caller.put(message.pack())

    assert caller.status(control(POST)) == HvStatus.INVALID_CONNECTION_ID
    assert handler.last.header == message


class Ram:
    """`vmm.outside.GuestMemory` of one page."""

    def __init__(self) -> None:
        self.page = bytearray(4096)

    def read(self, gpa: int, size: int) -> bytes:
        if gpa + size > len(self.page):
            raise GuestMemoryError(f"{gpa:#x}: no RAM")
        return bytes(self.page[gpa : gpa + size])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        self.read(gpa, len(data))
        self.page[gpa : gpa + len(data)] = data

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        found = self.read(gpa, len(expected))
        if found == expected:
            self.write(gpa, new)
        return found

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        self.write(gpa, bytes([value]) * size)

    def ranges(self) -> list[tuple[int, int]]:
        return [(0, len(self.page))]


def test_unprotected_memory_lets_every_byte_of_ram_be_written() -> None:
    memory = UnprotectedMemory(Ram())

    memory.require_writable(4088, 8)
    memory.write(4088, b"12345678")

    assert memory.read(4088, 8) == b"12345678"


def test_unprotected_memory_refuses_what_is_not_ram() -> None:
    memory = UnprotectedMemory(Ram())

    with pytest.raises(GuestMemoryError):
        memory.require_writable(4088, 16)
