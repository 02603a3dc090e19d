# SPDX-License-Identifier: Apache-2.0
"""Rights, internal errors, and what the dispatcher keeps."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.pure.hypercall.fakes import INPUT, OUTPUT, Caller, Context, Recorder, control, without
from vmm.hv.bits import BitField
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.status import HvStatus
from vmm.hypercall.call import Call, CallInput, CallKind, Features, Reply
from vmm.hypercall.calls import CALLS
from vmm.hypercall.convention import CallerMode, Outcome
from vmm.hypercall.dispatcher import INTERNAL_ERRORS_LOGGED, PREPARED_KEPT, Dispatcher
from vmm.hypercall.prepared import PARSED_KEPT, PreparedSimple
from vmm.outside import GuestMemoryError

PRIVILEGED = [
    pytest.param(call, privilege, id=f"{call.name}-{privilege.name}")
    for call in CALLS
    for privilege in call.requires
    if call.kind is not CallKind.VTL_SWITCH
]
HIGHER_VTL_ONLY = [call for call in CALLS if call.min_caller_vtl and call.kind is not CallKind.VTL_SWITCH]
SPIN_WAIT = Code.HvCallNotifyLongSpinWait
QUERY = Code.HvExtCallQueryCapabilities
APIC_IDS = Code.HvCallGetVpIndexFromApicId


def valid(call: Call) -> int:
    return control(call.code, RepCount=int(call.element is not None))


@pytest.mark.tlfs("DISC-005", "HC-018")
@pytest.mark.parametrize(("call", "privilege"), PRIVILEGED)
def test_call_without_its_privilege_is_denied(call: Call, privilege: BitField[bool]) -> None:
    handler = Recorder()
    caller = Caller({int(call.code): handler})
    caller.context.vtl = 2
    caller.context.privileges = without(privilege.mask)

    assert caller.status(valid(call)) == HvStatus.ACCESS_DENIED
    assert handler.calls == []


@pytest.mark.tlfs("HC-018")
@pytest.mark.parametrize("call", HIGHER_VTL_ONLY, ids=lambda call: call.name)
def test_caller_in_too_low_a_vtl_is_denied(call: Call) -> None:
    handler = Recorder()
    caller = Caller({int(call.code): handler})
    caller.context.vtl = call.min_caller_vtl - 1

    assert caller.status(valid(call)) == HvStatus.ACCESS_DENIED
    assert handler.calls == []


@pytest.mark.tlfs("HC-018")
@pytest.mark.parametrize("word", [1 << 60, 1 << 32, 1 << 17, 1 << 31])
def test_denial_comes_before_what_the_control_word_would_reveal(word: int) -> None:
    caller = Caller({QUERY: Recorder()})
    caller.context.privileges = 0

    assert caller.status(control(QUERY) | word) == HvStatus.ACCESS_DENIED


def test_privilege_taken_away_after_the_first_call_counts() -> None:
    caller = Caller({Code.HvCallPostMessage: Recorder()})
    assert caller.status(control(Code.HvCallPostMessage)) == HvStatus.SUCCESS

    caller.context.privileges = without(HV_PARTITION_PRIVILEGE_MASK.PostMessages.mask)

    assert caller.status(control(Code.HvCallPostMessage)) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("HC-018")
def test_lower_vtl_is_denied_what_a_higher_one_has_just_done() -> None:
    code = Code.HvCallModifyVtlProtectionMask
    caller = Caller({code: Recorder((0, 1, None))})
    caller.context.vtl = 1
    caller.put(bytes(4096))
    assert caller.status(control(code, RepCount=1)) == HvStatus.SUCCESS

    caller.context.vtl = 0

    assert caller.status(control(code, RepCount=1)) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("HC-020")
@pytest.mark.parametrize("code", [0x8000, 0x8001, 0x8002, 0x8041, 0xC001, 0xFFFF])
def test_extended_code_without_the_privilege_is_denied(code: int) -> None:
    caller = Caller({QUERY: Recorder()})
    caller.context.privileges = without(HV_PARTITION_PRIVILEGE_MASK.EnableExtendedHypercalls.mask)

    assert caller.status(code) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("HC-020")
def test_extended_capabilities_with_the_privilege() -> None:
    caller = Caller({QUERY: Recorder((0, 0, 0b1_0101))})

    assert caller.status(control(QUERY), 0, OUTPUT) == HvStatus.SUCCESS
    assert caller.context.memory.read(OUTPUT, 8) == (0b1_0101).to_bytes(8, "little")


def raising(context: Context, call: CallInput[Any, Any]) -> Reply:
    raise GuestMemoryError("a handler has no business in guest memory")


BREACHES: list[Any] = [
    pytest.param(raising, id="raises"),
    pytest.param(Recorder(), id="success without all reps"),
    pytest.param(Recorder((0, 3, [1, 2, 3])), id="more reps than there are"),
    pytest.param(Recorder((0, -1, [])), id="negative reps"),
    pytest.param(Recorder((5, 2, [1, 2])), id="error with all reps done"),
    pytest.param(Recorder((0, 2, [1])), id="too little output"),
    pytest.param(Recorder((0, 2, [1, 2, 3])), id="too much output"),
    pytest.param(Recorder((0, 2, [1, 1 << 32])), id="number that does not fit"),
    pytest.param(Recorder((0, 2, None)), id="no output"),
    pytest.param(Recorder(lambda call: None), id="no reply"),  # type: ignore[arg-type,return-value]  # the point
]


@pytest.mark.parametrize("handler", BREACHES)
@pytest.mark.parametrize("fast", [0, 1])
def test_mistake_of_a_handler_is_counted_and_the_guest_gets_a_status(handler: Any, fast: int) -> None:
    caller = Caller({APIC_IDS: handler})
    caller.put(bytes(4096))
    word = control(APIC_IDS, RepCount=2, IsFast=fast)
    caller.registers.set_input(CallerMode.BITS_64, word, *((0, 0) if fast else (INPUT, OUTPUT)))
    before, memory = caller.registers.snapshot(), caller.context.memory.snapshot()
    xmm = bytes(caller.context.xmm.data)

    outcome = caller.again()

    assert (outcome, caller.result.Status) == (Outcome.COMPLETED, HvStatus.OPERATION_FAILED)
    assert caller.dispatcher.internal_errors == 1
    assert caller.registers.changed_since(before) == {"rax"}
    assert (caller.context.memory.snapshot(), bytes(caller.context.xmm.data)) == (memory, xmm)


def test_mistake_of_a_simple_handler() -> None:
    caller = Caller({QUERY: Recorder((0, 0, None))})

    assert caller.status(control(QUERY), 0, OUTPUT) == HvStatus.OPERATION_FAILED
    assert caller.dispatcher.internal_errors == 1


def test_internal_error_is_reported_with_its_cause() -> None:
    reported: list[tuple[str, BaseException | None]] = []
    dispatcher: Dispatcher[Context] = Dispatcher(
        {SPIN_WAIT: raising}, on_internal_error=lambda name, error: reported.append((name, error.__cause__))
    )
    caller = Caller({})
    caller.dispatcher = dispatcher

    caller.call(control(SPIN_WAIT))

    assert [(name, type(cause)) for name, cause in reported] == [
        ("HvCallNotifyLongSpinWait", GuestMemoryError)
    ]


def test_internal_errors_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caller = Caller({SPIN_WAIT: raising})

    with caplog.at_level(logging.ERROR):
        for _ in range(INTERNAL_ERRORS_LOGGED + 5):
            caller.call(control(SPIN_WAIT))

    assert caller.dispatcher.internal_errors == INTERNAL_ERRORS_LOGGED + 5
    assert len(caplog.records) == INTERNAL_ERRORS_LOGGED


def test_what_is_kept_of_control_words_is_bounded() -> None:
    code = Code.HvCallFlushVirtualAddressList
    caller = Caller({code: Recorder(lambda call: (0, len(call.elements), None))})
    caller.put(bytes(4096))

    for start in range(PREPARED_KEPT + 10):
        caller.call(control(code, RepCount=4095, RepStartIndex=start))

    assert len(caller.dispatcher._prepared) <= PREPARED_KEPT


def test_what_is_kept_of_short_input_blocks_is_bounded() -> None:
    handler = Recorder()
    caller = Caller({SPIN_WAIT: handler})

    for spins in range(2 * PARSED_KEPT + 1):
        caller.call(control(SPIN_WAIT, IsFast=1), spins)

    assert [call.header.SpinCount for call in handler.calls] == list(range(2 * PARSED_KEPT + 1))
    (prepared,) = caller.dispatcher._prepared.values()
    assert isinstance(prepared, PreparedSimple)
    assert 1 <= len(prepared._parsed) <= PARSED_KEPT


def test_long_input_blocks_are_not_kept() -> None:
    caller = Caller({Code.HvCallPostMessage: Recorder()})

    caller.call(control(Code.HvCallPostMessage))

    (prepared,) = caller.dispatcher._prepared.values()
    assert isinstance(prepared, PreparedSimple)
    assert prepared._parsed == {}


def test_invalid_control_words_are_not_kept() -> None:
    caller = Caller({SPIN_WAIT: Recorder()})

    for bit in range(17, 64):
        caller.call(control(SPIN_WAIT) | 1 << bit)

    assert caller.dispatcher._prepared == {}


def test_handler_for_a_code_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="no row for call 0x7fff: add it"):
        Dispatcher({0x7FFF: raising})


def test_features_default_to_all_but_nesting() -> None:
    assert Dispatcher[Context]({}).features == Features(xmm_input=True, xmm_output=True, nested=False)
