# SPDX-License-Identifier: Apache-2.0
"""Whatever a guest passes: no exception, an answer that the rules allow, and nothing touched but the output.

`HYPERCALL_INPUTS` in the environment sets how many trap instructions are executed (12,000 unless set).
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pure.hypercall import any_input
from tests.pure.hypercall.any_input import Case, cases
from tests.pure.hypercall.fakes import ALL_PRIVILEGES, Caller, Context
from vmm.hv.status import HvStatus
from vmm.hypercall.call import AGAIN, Call, CallInput, CallKind, Reply
from vmm.hypercall.calls import CALLS
from vmm.hypercall.convention import CallerMode, Outcome
from vmm.hypercall.elements import Elements

INPUTS = int(os.environ.get("HYPERCALL_INPUTS", "12000"))
FREE = settings(
    max_examples=max(INPUTS // len(CALLS) // 2, 1),  # an example is made slow and fast
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

PARAMETER_CALLS = [call for call in CALLS if call.kind is not CallKind.VTL_SWITCH]
VTL_SWITCHES = [call for call in CALLS if call.kind is CallKind.VTL_SWITCH]


class Scripted:
    """The handler of a case: answers what the case says, with recognisable output."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.calls: list[CallInput[object, object]] = []
        self.reply: Reply = (0, 0, None)

    def __call__(self, context: Context, call: CallInput[object, object]) -> Reply:
        self.calls.append(call)
        if self.case.raises:
            raise RuntimeError("scripted")
        status, reps = self.case.status, len(call.elements)
        done = reps if status == 0 else min(self.case.done, reps - 1) if reps else 0
        outputs = [self._output(self.case.call.output)] * (done if self.case.rep else 1)
        self.reply = (status, done, outputs if self.case.rep else outputs[0])
        return self.reply

    @staticmethod
    def _output(kind: Elements | None) -> object:
        if kind is None:
            return None
        filled = b"\x5a" * kind.size
        if kind.size in (4, 8) and kind.name.startswith("u"):
            return int.from_bytes(filled, "little")
        return filled if kind.name == "HV_REGISTER_VALUE" else Packed(filled)


class Packed:
    """Stands for a structure: it packs to given bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def pack(self) -> bytes:
        return self.data


def run(case: Case) -> tuple[Caller, Scripted, Outcome, dict[str, int], dict[int, bytes], bytes]:
    """One execution, and what the caller's world was before it."""
    handler = Scripted(case)
    caller = Caller(
        {int(case.call.code): handler},
        xmm_input=case.xmm_input,
        xmm_output=case.xmm_output,
        nested=case.nested,
    )
    context, registers = caller.context, caller.registers
    context.vtl, context.hypercalls_enabled = case.vtl, case.enabled
    context.privileges = ALL_PRIVILEGES & ~case.missing
    block = case.block()
    first, second = case.first, case.second
    if case.fast:
        first, second = int.from_bytes(block[:8], "little"), int.from_bytes(block[8:16], "little")
        context.xmm.data[:] = block[16:112]
    elif case.first // 4096 * 4096 in context.memory.pages:
        room = 4096 - case.first % 4096
        context.memory.write(case.first, block[:room])
    context.memory.unreadable, context.memory.unwritable = set(case.unreadable), set(case.unwritable)
    registers.set_input(case.mode or CallerMode.BITS_64, case.control, first, second)
    caller.mode = case.mode
    before = registers.snapshot(), context.memory.snapshot(), bytes(context.xmm.data)
    any_input.made += 1
    return caller, handler, caller.again(), *before


def allowed_registers(case: Case, outcome: Outcome, reps_done: int) -> set[str]:
    """What TLFS 3.9 lets a call change."""
    result = {"rax"} if case.mode == CallerMode.BITS_64 else {"rax", "rdx"}
    if outcome is Outcome.COMPLETED:
        at_zero = case.fast and case.output_size and not case.input_size
        return result | ({"rdx", "r8"} if at_zero else set())
    if outcome is Outcome.RETRY and reps_done:
        return {"rcx"} if case.mode == CallerMode.BITS_64 else {"rdx", "rax"}
    return set()


def changed(before: bytes, after: bytes) -> set[int]:
    if before == after:
        return set()
    return {index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}


@pytest.mark.tlfs(
    "HC-001", "HC-004", "HC-006", "HC-007", "HC-008", "HC-010", "HC-011", "HC-012", "HC-016", "HC-019"
)
@pytest.mark.parametrize("call", PARAMETER_CALLS, ids=lambda call: call.name)
def test_any_call(call: Call) -> None:
    @FREE
    @given(drawn=cases(call))
    def check(drawn: Case) -> None:
        check_case(drawn)
        check_case(replace(drawn, control=drawn.control | 1 << 16))

    check()


@pytest.mark.tlfs("HC-008", "HC-016")
@pytest.mark.parametrize("call", PARAMETER_CALLS, ids=lambda call: call.name)
def test_a_call_made_again_from_the_same_state_does_the_same(call: Call) -> None:
    """Whatever the dispatcher keeps of the first time."""

    @settings(FREE, max_examples=max(FREE.max_examples // 8, 1))
    @given(drawn=cases(call), vtl=st.integers(0, 2))
    def check(drawn: Case, vtl: int) -> None:
        for case in (drawn, replace(drawn, control=drawn.control | 1 << 16)):
            caller, handler, outcome, registers, memory, xmm = run(case)
            seen = world(caller, handler, outcome)
            # Of another VTL in between: nothing of its call may be taken for the first caller's.
            caller.context.vtl = vtl
            restore(caller, registers, memory, xmm)
            caller.again()
            caller.context.vtl = case.vtl
            restore(caller, registers, memory, xmm)
            handler.calls.clear()
            any_input.made += 2

            assert world(caller, handler, caller.again()) == seen

    check()


def world(caller: Caller, handler: Scripted, outcome: Outcome) -> tuple[object, ...]:
    """What a call came to: its outcome, what its handler saw, and the caller's registers and memory."""
    context = caller.context
    return (
        outcome,
        handler.calls[:],
        caller.registers.snapshot(),
        context.memory.snapshot(),
        bytes(context.xmm.data),
    )


def restore(caller: Caller, registers: dict[str, int], memory: dict[int, bytes], xmm: bytes) -> None:
    """The caller's registers and memory as they were."""
    vars(caller.registers).update(registers)
    for gpa, page in memory.items():
        caller.context.memory.pages[gpa][:] = page
    caller.context.xmm.data[:] = xmm


def check_case(case: Case) -> None:
    """One trap instruction and all that may be said of it."""
    caller, handler, outcome, registers, memory, xmm = run(case)
    faults = case.faults()

    # The answer is one that the rules allow.
    if faults:
        assert handler.calls == []
        answer = caller.result.Status if outcome is Outcome.COMPLETED else outcome
        assert answer in faults and outcome is not Outcome.RETRY
    else:
        check_handled(case, caller, handler, outcome)
    assert caller.dispatcher.internal_errors == (1 if handler.calls and case.raises else 0)
    assert bool(caller.context.intercepts) == (outcome is Outcome.INTERCEPT)
    if outcome is Outcome.COMPLETED:
        assert HvStatus.name_of(caller.result.Status) is not None
        assert caller.result & ~0x0FFF_0000_FFFF == 0

    # Nothing changed that must not.
    assert caller.registers.changed_since(registers) <= allowed_registers(case, outcome, handler.reply[1])
    first, last = output_range(case, handler, outcome)
    for gpa, page in caller.context.memory.snapshot().items():
        own = range(case.second - gpa + first, case.second - gpa + last) if not case.fast else range(0)
        assert changed(memory[gpa], page) <= set(own)
    begin = -(-case.input_size // 16) * 16 - 16
    own = range(begin + first, begin + last) if case.fast else range(0)
    assert changed(xmm, bytes(caller.context.xmm.data)) <= set(own)


def check_handled(case: Case, caller: Caller, handler: Scripted, outcome: Outcome) -> None:
    """No rule stands against the call: the handler ran once, and its reply is what the guest sees."""
    (seen,) = handler.calls
    reps = min(case.count - case.start, case.call.reps_per_slice) if case.rep else 0
    assert len(seen.elements) == reps
    if case.raises:
        assert (outcome, caller.result.Status) == (Outcome.COMPLETED, HvStatus.OPERATION_FAILED)
        return
    status, done, _ = handler.reply
    completed = case.start + done if case.rep else 0
    if status == AGAIN or (status == 0 and completed < (case.count if case.rep else 0)):
        assert outcome is Outcome.RETRY
        if case.rep and done:
            word = caller.registers.rcx
            if case.mode == CallerMode.BITS_32:
                word = caller.registers.rdx << 32 | caller.registers.rax
            assert word == case.control & ~(0xFFF << 48) | completed << 48
        return
    assert (outcome, caller.result.Status, caller.result.RepsCompleted) == (
        Outcome.COMPLETED,
        status,
        completed,
    )
    check_output(case, caller, done if case.rep else int(status == 0))


def check_output(case: Case, caller: Caller, done: int) -> None:
    """What was finished is there."""
    size = case.call.output_size
    first, length = size * case.start if case.rep else 0, size * done
    if not length:
        return
    if case.fast:
        registers = caller.registers.rdx.to_bytes(8, "little") + caller.registers.r8.to_bytes(8, "little")
        at = -(-case.input_size // 16) * 16 + first
        stored = (registers + bytes(caller.context.xmm.data))[at : at + length]
    else:
        # An output list may lie over the input list, but what is written last stays.
        caller.context.memory.unreadable = set()
        stored = caller.context.memory.read(case.second + first, length)
    assert stored == b"\x5a" * length


def output_range(case: Case, handler: Scripted, outcome: Outcome) -> tuple[int, int]:
    """The bytes of the output list that this execution may have written."""
    if not handler.calls or case.raises or outcome not in (Outcome.COMPLETED, Outcome.RETRY):
        return 0, 0
    status, done, _ = handler.reply
    size = case.call.output_size
    if case.rep:
        return size * case.start, size * (case.start + done)
    return 0, size if status == 0 else 0


WORDS = st.integers(0, (1 << 64) - 1)


@pytest.mark.tlfs("VSM-041", "VSM-042")
@pytest.mark.parametrize("call", VTL_SWITCHES, ids=lambda call: call.name)
def test_any_vtl_switch(call: Call) -> None:
    near = st.sampled_from([int(call.code), int(call.code) | 1 << 16, int(call.code) | 1 << 32])

    @FREE
    @given(
        code=near | near | WORDS.map(lambda word: word & ~0xFFFF | int(call.code)),
        control=st.integers(0, 3) | WORDS,
        mode=st.sampled_from(CallerMode),
        vtl=st.integers(0, 2),
        agree=st.booleans(),
    )
    def check(code: int, control: int, mode: CallerMode, vtl: int, agree: bool) -> None:
        any_input.made += 1
        caller = Caller({int(call.code): lambda context, value: agree})
        caller.mode, caller.context.vtl = mode, vtl
        if mode == CallerMode.BITS_64:
            caller.registers.rcx, caller.registers.rax = code, control
        else:
            caller.registers.rax, caller.registers.rcx = code, control
            code, control = code & 0xFFFF_FFFF, control & 0xFFFF_FFFF
        before = caller.registers.snapshot()

        outcome = caller.again()

        valid = code == call.code and not control & ~call.control_mask and vtl >= call.min_caller_vtl
        switches = valid and agree and mode != CallerMode.ILLEGAL
        assert outcome is (Outcome.VTL_SWITCH if switches else Outcome.INVALID_OPCODE)
        assert caller.registers.changed_since(before) == set()

    check()


@pytest.mark.tlfs("HC-013", "HC-020")
def test_any_word_on_a_machine_without_hypercalls() -> None:
    @FREE
    @given(word=WORDS, mode=st.sampled_from(CallerMode), privileges=st.sampled_from([0, ALL_PRIVILEGES]))
    def check(word: int, mode: CallerMode, privileges: int) -> None:
        any_input.made += 1
        caller = Caller({})
        caller.mode, caller.context.privileges = mode, privileges

        outcome = caller.call(word)

        if mode == CallerMode.ILLEGAL:
            assert outcome is Outcome.INVALID_OPCODE
            return
        denied = word & 0x8000 and not privileges
        expected = HvStatus.ACCESS_DENIED if denied else HvStatus.INVALID_HYPERCALL_CODE
        assert (outcome, int(caller.result)) == (Outcome.COMPLETED, int(expected))

    check()
