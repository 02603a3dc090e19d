# SPDX-License-Identifier: Apache-2.0
"""The 64-bit word that a call begins with, and the one it ends with."""

from __future__ import annotations

import pytest

from tests.pure.hypercall.fakes import Caller, Recorder, control
from vmm.hv.call_codes import HypercallCode
from vmm.hv.status import HvStatus
from vmm.hypercall.control import result_value, with_rep_start
from vmm.hypercall.convention import Outcome

SPIN_WAIT = HypercallCode.HvCallNotifyLongSpinWait  # simple
SET_REGISTERS = HypercallCode.HvCallSetVpRegisters  # rep
IPI_EX = HypercallCode.HvCallSendSyntheticClusterIpiEx  # simple with a variable header
FLUSH_EX = HypercallCode.HvCallFlushVirtualAddressListEx  # rep with a variable header

RESERVED_BITS = [*range(27, 31), *range(44, 48), *range(60, 64)]


@pytest.mark.tlfs("HC-001")
@pytest.mark.parametrize("bit", RESERVED_BITS)
def test_reserved_bit_is_invalid_input(bit: int) -> None:
    handler = Recorder()
    caller = Caller({SPIN_WAIT: handler})

    status = caller.status(control(SPIN_WAIT, IsFast=1) | 1 << bit)

    assert (status, handler.calls) == (HvStatus.INVALID_HYPERCALL_INPUT, [])


@pytest.mark.tlfs("HC-001")
@pytest.mark.parametrize("bit", RESERVED_BITS)
def test_reserved_bit_of_a_rep_call_is_invalid_input(bit: int) -> None:
    caller = Caller({SET_REGISTERS: Recorder((0, 1, None))})

    status = caller.status(control(SET_REGISTERS, RepCount=1) | 1 << bit)

    assert status == HvStatus.INVALID_HYPERCALL_INPUT


@pytest.mark.tlfs("HC-001")
def test_nested_bit_is_reserved_where_no_nesting_is_announced() -> None:
    caller = Caller({SPIN_WAIT: Recorder()})

    assert caller.status(control(SPIN_WAIT, IsNested=1)) == HvStatus.INVALID_HYPERCALL_INPUT


@pytest.mark.tlfs("HC-001")
def test_nested_bit_is_accepted_where_nesting_is_announced() -> None:
    caller = Caller({SPIN_WAIT: Recorder()}, nested=True)

    assert caller.status(control(SPIN_WAIT, IsNested=1)) == HvStatus.SUCCESS


@pytest.mark.tlfs("HC-001")
def test_every_field_reaches_the_call_from_its_bits() -> None:
    handler = Recorder((0, 2, None))
    caller = Caller({FLUSH_EX: handler})
    header, bank, elements = 32, 8, 8
    block = bytes(header) + (7).to_bytes(bank, "little")
    block += b"".join(n.to_bytes(elements, "little") for n in (10, 11, 12))
    caller.put(block)

    # Code 0x14, slow, one qword of variable header, three reps from index 1 on: bits as the TLFS numbers them.
    caller.status(0x14 | 1 << 17 | 3 << 32 | 1 << 48)

    assert (handler.last.variable, handler.last.elements) == ((7,), (11, 12))


@pytest.mark.tlfs("HC-011")
@pytest.mark.parametrize(
    "fields", [{"RepCount": 1}, {"RepStartIndex": 1}, {"RepCount": 2, "RepStartIndex": 1}]
)
def test_simple_call_with_a_rep_field_is_invalid_input(fields: dict[str, int]) -> None:
    caller = Caller({SPIN_WAIT: Recorder()})

    assert caller.status(control(SPIN_WAIT, **fields)) == HvStatus.INVALID_HYPERCALL_INPUT


@pytest.mark.tlfs("HC-011")
@pytest.mark.parametrize(("count", "start"), [(0, 0), (0, 1), (1, 1), (1, 2), (4095, 4095)])
def test_rep_count_must_be_greater_than_rep_start(count: int, start: int) -> None:
    handler = Recorder((0, 1, None))
    caller = Caller({SET_REGISTERS: handler})

    status = caller.status(control(SET_REGISTERS, RepCount=count, RepStartIndex=start))

    assert (status, handler.calls) == (HvStatus.INVALID_HYPERCALL_INPUT, [])


@pytest.mark.tlfs("HC-012")
@pytest.mark.parametrize(("code", "reps"), [(SPIN_WAIT, 0), (SET_REGISTERS, 1)])
@pytest.mark.parametrize("qwords", [1, 1023])
def test_variable_header_of_a_call_that_takes_none_is_invalid_input(
    code: int, reps: int, qwords: int
) -> None:
    caller = Caller({code: Recorder((0, reps, None))})

    status = caller.status(control(code, RepCount=reps, VariableHeaderSize=qwords))

    assert status == HvStatus.INVALID_HYPERCALL_INPUT


@pytest.mark.tlfs("HC-012")
@pytest.mark.parametrize("qwords", [0, 1, 3])
def test_variable_header_reaches_a_call_that_takes_one(qwords: int) -> None:
    handler = Recorder()
    caller = Caller({IPI_EX: handler})
    caller.put(bytes(24) + b"".join((n + 1).to_bytes(8, "little") for n in range(qwords)))

    caller.status(control(IPI_EX, VariableHeaderSize=qwords))

    assert handler.last.variable == tuple(range(1, qwords + 1))


@pytest.mark.tlfs("HC-009")
def test_result_has_the_status_and_zeroes_around_it() -> None:
    caller = Caller({SPIN_WAIT: Recorder((HvStatus.UNKNOWN_REGISTER_NAME, 0, None))})

    caller.call(control(SPIN_WAIT))

    assert caller.registers.rax == 0x87


@pytest.mark.tlfs("HC-009", "HC-010")
def test_result_has_the_count_of_reps_in_bits_43_to_32() -> None:
    assert result_value(0x06, 0xFFF) == 0x0000_0FFF_0000_0006


def test_rep_start_is_replaced_and_nothing_else() -> None:
    word = control(SET_REGISTERS, IsFast=1, RepCount=7, RepStartIndex=3, VariableHeaderSize=5)

    assert with_rep_start(word, 4095) == control(
        SET_REGISTERS, IsFast=1, RepCount=7, RepStartIndex=4095, VariableHeaderSize=5
    )


@pytest.mark.tlfs("HC-013")
@pytest.mark.parametrize("code", [0x0000, 0x000E, 0x0010, 0x7FFF, 0x8002, 0xFFFF])
def test_unknown_code(code: int) -> None:
    caller = Caller({SPIN_WAIT: Recorder()})

    assert caller.status(code) == HvStatus.INVALID_HYPERCALL_CODE


@pytest.mark.tlfs("HC-013")
def test_call_of_the_table_without_a_handler_is_an_unknown_code() -> None:
    caller = Caller({})

    assert caller.status(control(SPIN_WAIT)) == HvStatus.INVALID_HYPERCALL_CODE


@pytest.mark.tlfs("HC-013")
def test_unknown_code_is_told_before_its_control_word_is_judged() -> None:
    caller = Caller({})

    assert caller.call(0xFFFF_FFFF_FFFF_7FFF) is Outcome.COMPLETED
    assert caller.result.Status == HvStatus.INVALID_HYPERCALL_CODE
