# SPDX-License-Identifier: Apache-2.0
"""Who may call, and which registers carry what."""

from __future__ import annotations

import pytest

from tests.pure.hypercall.fakes import INPUT, OUTPUT, Caller, Context, Recorder, control
from vmm.hv.call_codes import HypercallCode
from vmm.hv.hypercall_words import HV_INPUT_VTL
from vmm.hv.inputs import (
    HV_INPUT_GET_VP_REGISTERS,
    HV_INPUT_NOTIFY_LONG_SPIN_WAIT,
    HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI,
    HV_INPUT_SET_VP_REGISTERS,
)
from vmm.hv.status import HvStatus
from vmm.hypercall.call import CallInput, Reply
from vmm.hypercall.convention import CallerMode, Outcome, caller_mode, write_fast_output

SPIN_WAIT = HypercallCode.HvCallNotifyLongSpinWait
IPI = HypercallCode.HvCallSendSyntheticClusterIpi
GET_REGISTERS = HypercallCode.HvCallGetVpRegisters
SET_REGISTERS = HypercallCode.HvCallSetVpRegisters
FLUSH = HypercallCode.HvCallFlushVirtualAddressSpace
QUERY = HypercallCode.HvExtCallQueryCapabilities
START_VP = HypercallCode.HvCallStartVirtualProcessor

BOTH_MODES = pytest.mark.parametrize("mode", [CallerMode.BITS_64, CallerMode.BITS_32])

PE, LMA, VM86 = 1 << 0, 1 << 10, 1 << 17


def register_values(call: CallInput[HV_INPUT_GET_VP_REGISTERS, int]) -> Reply:
    """Each register reads as its own name."""
    return 0, len(call.elements), [name.to_bytes(16, "little") for name in call.elements]


@pytest.mark.tlfs("HC-002", "HC-014")
@pytest.mark.parametrize(
    ("cr0", "efer", "rflags", "cs_l", "cpl", "mode"),
    [
        (PE, LMA, 2, 1, 0, CallerMode.BITS_64),
        (PE, LMA, 2, 0, 0, CallerMode.BITS_32),  # compatibility mode
        (PE, 0, 2, 1, 0, CallerMode.BITS_32),  # CS.L means nothing without EFER.LMA
        (PE, 0, 2, 0, 0, CallerMode.BITS_32),
        (0, 0, 2, 0, 0, CallerMode.ILLEGAL),  # real mode
        (PE, LMA, 2, 1, 3, CallerMode.ILLEGAL),
        (PE, LMA, 2, 1, 1, CallerMode.ILLEGAL),
        (PE, 0, 2 | VM86, 0, 0, CallerMode.ILLEGAL),
    ],
)
def test_mode_of_the_caller(cr0: int, efer: int, rflags: int, cs_l: int, cpl: int, mode: CallerMode) -> None:
    assert caller_mode(cr0, efer, rflags, cs_l, cpl) is mode


@pytest.mark.tlfs("HC-014")
def test_illegal_mode_is_invalid_opcode_and_changes_nothing() -> None:
    handler = Recorder()
    caller = Caller({SPIN_WAIT: handler})
    caller.registers.set_input(CallerMode.BITS_64, control(SPIN_WAIT), INPUT, OUTPUT)
    before = caller.registers.snapshot()
    caller.mode = CallerMode.ILLEGAL

    outcome = caller.again()

    assert (outcome, handler.calls) == (Outcome.INVALID_OPCODE, [])
    assert caller.registers.changed_since(before) == set()


@pytest.mark.tlfs("HCP-004")
def test_interface_that_is_not_enabled_is_invalid_opcode() -> None:
    handler = Recorder()
    caller = Caller({SPIN_WAIT: handler})
    caller.context.hypercalls_enabled = False

    assert caller.call(control(SPIN_WAIT)) is Outcome.INVALID_OPCODE
    assert handler.calls == []


@pytest.mark.tlfs("HC-002", "HC-006")
@BOTH_MODES
def test_fast_input_in_general_registers(mode: CallerMode) -> None:
    handler = Recorder()
    caller = Caller({IPI: handler})
    caller.mode = mode

    caller.status(control(IPI, IsFast=1), 0x0000_0000_0000_00F1, 0x8000_0000_0000_0003)

    header = handler.last.header
    assert isinstance(header, HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI)
    assert (header.Vector, header.ProcessorMask) == (0xF1, 0x8000_0000_0000_0003)


@pytest.mark.tlfs("HC-002", "HC-003")
@BOTH_MODES
def test_slow_input_and_output_by_address(mode: CallerMode) -> None:
    caller = Caller({GET_REGISTERS: Recorder(register_values)})
    caller.mode = mode
    caller.put(HV_INPUT_GET_VP_REGISTERS(1, 2, HV_INPUT_VTL(0)).pack() + b"\x10\0\0\0\x11\0\0\0")

    caller.status(control(GET_REGISTERS, RepCount=2))

    output = caller.context.memory.read(OUTPUT, 32)
    assert output == (0x10).to_bytes(16, "little") + (0x11).to_bytes(16, "little")


@pytest.mark.tlfs("HC-002", "HC-009")
def test_result_of_a_32_bit_caller_is_split() -> None:
    caller = Caller({SET_REGISTERS: Recorder((HvStatus.INVALID_PARAMETER, 2, None))})
    caller.mode = CallerMode.BITS_32
    caller.put(bytes(4096))

    caller.call(control(SET_REGISTERS, RepCount=3))

    assert (caller.registers.rdx, caller.registers.rax) == (2, 5)


@pytest.mark.tlfs("HC-006")
@BOTH_MODES
def test_fast_input_goes_on_in_xmm_registers(mode: CallerMode) -> None:
    handler = Recorder()
    caller = Caller({FLUSH: handler})
    caller.mode = mode
    caller.context.xmm.data[:8] = (0x55).to_bytes(8, "little")

    caller.status(control(FLUSH, IsFast=1), 0x1000, 1)

    assert tuple(handler.last.header) == (0x1000, 1, 0x55)


@pytest.mark.tlfs("HC-006")
def test_xmm_registers_are_not_read_for_16_bytes() -> None:
    caller = Caller({IPI: Recorder()})

    caller.status(control(IPI, IsFast=1), 0x20, 1)

    assert caller.context.xmm.reads == 0


@pytest.mark.tlfs("HC-006")
def test_112_bytes_are_the_most_that_registers_carry() -> None:
    handler = Recorder(lambda call: (0, len(call.elements), None))
    caller = Caller({SET_REGISTERS: handler})

    # 16 bytes of header and 32 for each element.
    fits = caller.status(control(SET_REGISTERS, IsFast=1, RepCount=3))
    too_long = caller.status(control(SET_REGISTERS, IsFast=1, RepCount=4))

    assert (fits, too_long) == (HvStatus.SUCCESS, HvStatus.INVALID_HYPERCALL_INPUT)
    assert len(handler.last.elements) == 3


@pytest.mark.tlfs("HC-006", "VSM-026")
@pytest.mark.parametrize("code", [START_VP, HypercallCode.HvCallEnableVpVtl])
def test_input_that_no_register_holds_cannot_be_fast(code: HypercallCode) -> None:
    caller = Caller({code: Recorder()})

    assert caller.status(control(code, IsFast=1)) == HvStatus.INVALID_HYPERCALL_INPUT


@pytest.mark.tlfs("HC-006")
@BOTH_MODES
def test_xmm_input_that_is_not_offered_is_invalid_opcode(mode: CallerMode) -> None:
    handler = Recorder()
    caller = Caller({FLUSH: handler}, xmm_input=False)
    caller.mode = mode
    before = bytes(caller.context.xmm.data)

    assert caller.call(control(FLUSH, IsFast=1)) is Outcome.INVALID_OPCODE
    assert (handler.calls, bytes(caller.context.xmm.data)) == ([], before)


@pytest.mark.tlfs("HC-006")
def test_general_registers_do_not_need_the_xmm_offer() -> None:
    caller = Caller({IPI: Recorder()}, xmm_input=False, xmm_output=False)

    assert caller.status(control(IPI, IsFast=1), 0x20, 1) == HvStatus.SUCCESS


@pytest.mark.tlfs("HC-007", "REG-001")
@pytest.mark.parametrize("names", [1, 2, 3, 4])
def test_fast_output_begins_at_the_first_chunk_behind_the_input(names: int) -> None:
    caller = Caller({GET_REGISTERS: Recorder(register_values)})
    xmm = caller.context.xmm.data
    for index in range(names):
        xmm[4 * index : 4 * index + 4] = (0x10 + index).to_bytes(4, "little")
    before = bytes(xmm)

    caller.status(control(GET_REGISTERS, IsFast=1, RepCount=names), 1, 2)

    # Header in RDX and R8, up to four names in XMM0, values from XMM1 on.
    values = b"".join((0x10 + index).to_bytes(16, "little") for index in range(names))
    start = 16
    assert bytes(xmm) == before[:start] + values + before[start + len(values) :]


@pytest.mark.tlfs("HC-007")
def test_fast_input_and_output_share_112_bytes() -> None:
    caller = Caller({GET_REGISTERS: Recorder(register_values)})

    # Header 16, four names 16, four values 64: 96. Five names take two chunks: 16 + 32 + 80 = 128.
    four = caller.status(control(GET_REGISTERS, IsFast=1, RepCount=4), 1, 2)
    five = caller.status(control(GET_REGISTERS, IsFast=1, RepCount=5), 1, 2)

    assert (four, five) == (HvStatus.SUCCESS, HvStatus.INVALID_HYPERCALL_INPUT)


@pytest.mark.tlfs("HC-007")
def test_output_of_a_call_without_input_is_in_rdx() -> None:
    caller = Caller({QUERY: Recorder((0, 0, 0x1F))})
    caller.registers.set_input(CallerMode.BITS_64, control(QUERY, IsFast=1), 0xAAAA, 0xBBBB)
    before = caller.registers.snapshot()

    caller.again()

    assert (caller.registers.rdx, caller.registers.r8) == (0x1F, 0xBBBB)
    assert caller.registers.changed_since(before) == {"rax", "rdx"}


@pytest.mark.tlfs("HC-007", "HC-008")
@pytest.mark.parametrize("offset", [0, 4, 8, 12, 16, 24])
@pytest.mark.parametrize("size", [1, 4, 8, 16, 24, 40])
def test_fast_output_is_stored_to_the_byte(offset: int, size: int) -> None:
    caller = Caller({})
    registers, xmm = caller.registers, caller.context.xmm
    before = registers.rdx.to_bytes(8, "little") + registers.r8.to_bytes(8, "little") + bytes(xmm.data)
    output = bytes(range(1, size + 1))

    write_fast_output(registers, xmm, offset, output)

    after = registers.rdx.to_bytes(8, "little") + registers.r8.to_bytes(8, "little") + bytes(xmm.data)
    assert after == before[:offset] + output + before[offset + size :]


@pytest.mark.tlfs("HC-007")
def test_fast_output_that_is_not_offered_is_invalid_opcode() -> None:
    handler = Recorder(register_values)
    caller = Caller({GET_REGISTERS: handler}, xmm_output=False)

    assert caller.call(control(GET_REGISTERS, IsFast=1, RepCount=1)) is Outcome.INVALID_OPCODE
    assert handler.calls == []


@pytest.mark.tlfs("HC-007")
def test_fast_output_is_for_64_bit_callers() -> None:
    handler = Recorder(register_values)
    caller = Caller({GET_REGISTERS: handler})
    caller.mode = CallerMode.BITS_32

    status = caller.status(control(GET_REGISTERS, IsFast=1, RepCount=1))

    assert (status, handler.calls) == (HvStatus.INVALID_HYPERCALL_INPUT, [])


@pytest.mark.tlfs("HC-008")
@pytest.mark.parametrize("fast", [0, 1])
@pytest.mark.parametrize(
    ("mode", "allowed"), [(CallerMode.BITS_64, {"rax"}), (CallerMode.BITS_32, {"rax", "rdx"})]
)
def test_simple_call_changes_the_result_registers_alone(
    mode: CallerMode, allowed: set[str], fast: int
) -> None:
    caller = Caller({SPIN_WAIT: Recorder()})
    caller.mode = mode
    caller.registers.set_input(mode, control(SPIN_WAIT, IsFast=fast), INPUT, OUTPUT)
    before = caller.registers.snapshot()

    caller.again()

    assert caller.registers.changed_since(before) <= allowed


@pytest.mark.tlfs("HC-008")
def test_rep_call_that_completes_leaves_rcx() -> None:
    caller = Caller({SET_REGISTERS: Recorder((0, 2, None))})
    caller.put(HV_INPUT_SET_VP_REGISTERS(1, 2, HV_INPUT_VTL(0)).pack())
    caller.registers.set_input(CallerMode.BITS_64, control(SET_REGISTERS, RepCount=2), INPUT, OUTPUT)
    before = caller.registers.snapshot()

    caller.again()

    assert caller.registers.changed_since(before) == {"rax"}


@pytest.mark.tlfs("HC-006")
def test_bytes_behind_the_input_are_ignored() -> None:
    handler = Recorder()
    caller = Caller({SPIN_WAIT: handler})

    caller.status(control(SPIN_WAIT, IsFast=1), 0x77, 0xFFFF_FFFF_FFFF_FFFF)

    assert handler.last.header == HV_INPUT_NOTIFY_LONG_SPIN_WAIT(SpinCount=0x77)


def test_context_is_handed_through() -> None:
    seen: list[Context] = []

    def handler(context: Context, call: CallInput[None, None]) -> Reply:
        seen.append(context)
        return 0, 0, None

    caller = Caller({SPIN_WAIT: handler})
    caller.status(control(SPIN_WAIT))

    assert seen == [caller.context]
