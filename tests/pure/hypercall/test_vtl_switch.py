# SPDX-License-Identifier: Apache-2.0
"""VTL call and return: the two calls with registers of their own and no status."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.pure.hypercall.fakes import Caller, Context, without
from vmm.hv.bits import BitField
from vmm.hv.call_codes import HypercallCode
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.status import HvStatus
from vmm.hypercall.convention import CallerMode, Outcome

CALL = int(HypercallCode.HvCallVtlCall)
RETURN = int(HypercallCode.HvCallVtlReturn)
BOTH_MODES = pytest.mark.parametrize("mode", [CallerMode.BITS_64, CallerMode.BITS_32])

Switch = Callable[[Context, int], bool]


class Switcher:
    """Both handlers, agreeing or not."""

    def __init__(self, agree: bool = True) -> None:
        self.agree = agree
        self.controls: list[int] = []

    def __call__(self, context: Context, control: int) -> bool:
        self.controls.append(control)
        return self.agree


def switch(
    code: int, control: int = 0, *, vtl: int = 1, mode: CallerMode = CallerMode.BITS_64, agree: bool = True
) -> tuple[Outcome, Switcher, set[str]]:
    """One switch; the outcome, the handler, and the registers that moved."""
    switcher = Switcher(agree)
    caller = Caller({CALL: switcher, RETURN: switcher})
    caller.mode, caller.context.vtl = mode, vtl
    if mode == CallerMode.BITS_64:
        caller.registers.rcx, caller.registers.rax = code, control
    else:
        # EDX and the upper halves hold whatever the guest left there.
        caller.registers.rax, caller.registers.rcx = 0xDEAD << 32 | code, 0xBEEF << 32 | control
    before = caller.registers.snapshot()
    outcome = caller.again()
    return outcome, switcher, caller.registers.changed_since(before)


@pytest.mark.tlfs("VSM-040")
@BOTH_MODES
def test_call_switches_and_changes_no_register(mode: CallerMode) -> None:
    outcome, switcher, changed = switch(CALL, vtl=0, mode=mode)

    assert (outcome, switcher.controls, changed) == (Outcome.VTL_SWITCH, [0], set())


@pytest.mark.tlfs("VSM-042")
@BOTH_MODES
@pytest.mark.parametrize("fast", [0, 1])
def test_return_switches_and_tells_whether_it_is_fast(mode: CallerMode, fast: int) -> None:
    outcome, switcher, changed = switch(RETURN, fast, mode=mode)

    assert (outcome, switcher.controls, changed) == (Outcome.VTL_SWITCH, [fast], set())


@pytest.mark.tlfs("VSM-041", "VSM-042")
@BOTH_MODES
@pytest.mark.parametrize(("code", "control"), [(CALL, 1), (CALL, 1 << 31), (RETURN, 2), (RETURN, 3)])
def test_reserved_control_bit_is_invalid_opcode(code: int, control: int, mode: CallerMode) -> None:
    outcome, switcher, changed = switch(code, control, mode=mode)

    assert (outcome, switcher.controls, changed) == (Outcome.INVALID_OPCODE, [], set())


@pytest.mark.tlfs("VSM-041")
@pytest.mark.parametrize("extra", [1 << 16, 1 << 17, 1 << 31, 1 << 32, 1 << 48, 1 << 63])
def test_other_bit_beside_the_code_is_invalid_opcode(extra: int) -> None:
    outcome, switcher, _ = switch(CALL | extra)

    assert (outcome, switcher.controls) == (Outcome.INVALID_OPCODE, [])


@pytest.mark.tlfs("VSM-041", "VSM-042")
@pytest.mark.parametrize("code", [CALL, RETURN])
def test_no_vtl_to_go_to_is_invalid_opcode(code: int) -> None:
    outcome, switcher, changed = switch(code, agree=False)

    assert (outcome, switcher.controls, changed) == (Outcome.INVALID_OPCODE, [0], set())


@pytest.mark.tlfs("VSM-042")
def test_return_from_the_lowest_vtl_is_invalid_opcode() -> None:
    outcome, switcher, _ = switch(RETURN, vtl=0)

    assert (outcome, switcher.controls) == (Outcome.INVALID_OPCODE, [])


@pytest.mark.tlfs("VSM-041", "VSM-042")
@pytest.mark.parametrize("code", [CALL, RETURN])
def test_illegal_mode_is_invalid_opcode(code: int) -> None:
    outcome, switcher, _ = switch(code, mode=CallerMode.ILLEGAL)

    assert (outcome, switcher.controls) == (Outcome.INVALID_OPCODE, [])


@pytest.mark.tlfs("DISC-006")
@pytest.mark.parametrize(
    "privilege",
    [
        HV_PARTITION_PRIVILEGE_MASK.AccessVsm,
        HV_PARTITION_PRIVILEGE_MASK.AccessVpRegisters,
        HV_PARTITION_PRIVILEGE_MASK.AccessSynicRegs,
    ],
    ids=lambda bit: bit.name,
)
def test_partition_without_vsm_gets_invalid_opcode(privilege: BitField[bool]) -> None:
    switcher = Switcher()
    caller = Caller({CALL: switcher})
    caller.context.privileges = without(privilege.mask)
    caller.registers.rcx, caller.registers.rax = CALL, 0

    assert caller.again() is Outcome.INVALID_OPCODE
    assert switcher.controls == []


def test_machine_without_vsm_does_not_know_the_codes() -> None:
    caller = Caller({})

    assert caller.status(CALL) == HvStatus.INVALID_HYPERCALL_CODE


def test_handler_that_raises_is_counted_and_is_invalid_opcode() -> None:
    def raising(context: Context, control: int) -> bool:
        raise RuntimeError("a mistake of ours")

    caller = Caller({CALL: raising})
    caller.registers.rcx, caller.registers.rax = CALL, 0

    assert caller.again() is Outcome.INVALID_OPCODE
    assert caller.dispatcher.internal_errors == 1
