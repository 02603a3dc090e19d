# SPDX-License-Identifier: Apache-2.0
"""The VTL that a call names: form, limit, and what the handler sees."""

from __future__ import annotations

import pytest

from tests.pure.hypercall.fakes import Caller, Recorder, control
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.hypercall_words import HV_INPUT_VTL
from vmm.hv.memory_bits import HV_TRANSLATE_GVA_CONTROL_FLAGS
from vmm.hv.outputs import HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS
from vmm.hv.status import HvStatus
from vmm.hypercall.call import Call, CallKind, Features, TargetVtl, VtlForm
from vmm.hypercall.calls import CALLS, CALLS_BY_CODE
from vmm.hypercall.elements import U64_ELEMENTS, Elements
from vmm.hypercall.prepared import HandledCall

INPUT_VTL = [call for call in CALLS if call.target_vtl and call.target_vtl.form is VtlForm.INPUT_VTL]
PLAIN = [call for call in CALLS if call.target_vtl and call.target_vtl.form is VtlForm.PLAIN]


def offset_of_vtl(call: Call) -> int:
    assert call.header is not None and call.target_vtl is not None
    return call.header.offset_of(call.target_vtl.field)


def make(call: Call, vtl_byte: int, caller_vtl: int) -> tuple[Caller, Recorder]:
    """A call whose input is zero but for the VTL byte, and which then fails in the handler."""
    handler = Recorder((HvStatus.OBJECT_IN_USE, 0, ()))
    caller = Caller({int(call.code): handler})
    caller.context.vtl = caller_vtl
    block = bytearray(4096)
    block[offset_of_vtl(call)] = vtl_byte
    caller.put(bytes(block))
    caller.call(control(call.code, RepCount=int(call.element is not None)))
    return caller, handler


@pytest.mark.tlfs("HC-017", "REG-003")
@pytest.mark.parametrize("bit", [5, 6, 7])
@pytest.mark.parametrize("call", INPUT_VTL, ids=lambda call: call.name)
def test_reserved_bit_of_input_vtl(call: Call, bit: int) -> None:
    caller, handler = make(call, 1 << bit, caller_vtl=2)

    assert (caller.result.Status, handler.calls) == (HvStatus.INVALID_PARAMETER, [])


@pytest.mark.tlfs("REG-003")
@pytest.mark.parametrize("ignored", [0, 1, 15])
@pytest.mark.parametrize("call", INPUT_VTL, ids=lambda call: call.name)
def test_input_vtl_without_use_target_is_the_callers(call: Call, ignored: int) -> None:
    assert call.target_vtl is not None
    _, handler = make(call, ignored, caller_vtl=2)

    resolved = getattr(handler.last.header, call.target_vtl.field)

    assert resolved == HV_INPUT_VTL.make(TargetVtl=2, UseTargetVtl=1)


@pytest.mark.tlfs("REG-003")
@pytest.mark.parametrize("call", INPUT_VTL, ids=lambda call: call.name)
def test_input_vtl_names_a_lower_vtl(call: Call) -> None:
    assert call.target_vtl is not None
    _, handler = make(call, 0x11, caller_vtl=2)

    assert getattr(handler.last.header, call.target_vtl.field).TargetVtl == 1


@pytest.mark.tlfs("REG-004", "VSM-073")
@pytest.mark.parametrize("call", INPUT_VTL, ids=lambda call: call.name)
def test_input_vtl_above_the_caller(call: Call) -> None:
    assert call.target_vtl is not None
    caller, handler = make(call, 0x13, caller_vtl=2)

    if call.target_vtl.above_caller:
        assert getattr(handler.last.header, call.target_vtl.field).TargetVtl == 3
    else:
        assert (caller.result.Status, handler.calls) == (HvStatus.ACCESS_DENIED, [])


@pytest.mark.tlfs("VP-010")
@pytest.mark.parametrize("code", [Code.HvCallSendSyntheticClusterIpi, Code.HvCallSendSyntheticClusterIpiEx])
def test_interrupts_may_be_sent_upwards(code: Code) -> None:
    _, handler = make(CALLS_BY_CODE[code], 0x11, caller_vtl=0)

    assert handler.last.header.TargetVtl.TargetVtl == 1


@pytest.mark.parametrize("call", PLAIN, ids=lambda call: call.name)
def test_plain_vtl_number_has_four_bits(call: Call) -> None:
    caller, handler = make(call, 16, caller_vtl=2)

    assert (caller.result.Status, handler.calls) == (HvStatus.INVALID_PARAMETER, [])


@pytest.mark.parametrize("call", PLAIN, ids=lambda call: call.name)
def test_plain_vtl_number_above_the_caller(call: Call) -> None:
    assert call.target_vtl is not None
    caller, handler = make(call, 3, caller_vtl=2)

    if call.target_vtl.above_caller:
        assert getattr(handler.last.header, call.target_vtl.field) == 3
    else:
        assert (caller.result.Status, handler.calls) == (HvStatus.ACCESS_DENIED, [])


TRANSLATE = CALLS_BY_CODE[Code.HvCallTranslateVirtualAddress]


def translate(flags: int) -> tuple[Caller, Recorder]:
    handler = Recorder((0, 0, HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS(0, 6, 0, 0x123)))
    caller = Caller({int(TRANSLATE.code): handler})
    caller.context.vtl = 1
    caller.put(bytes(16) + flags.to_bytes(8, "little") + bytes(8))
    caller.call(control(TRANSLATE.code))
    return caller, handler


@pytest.mark.tlfs("REG-003")
@pytest.mark.parametrize(("top_byte", "vtl"), [(0x00, 1), (0x10, 0), (0x11, 1)])
def test_vtl_in_the_flags_of_a_translation(top_byte: int, vtl: int) -> None:
    _, handler = translate(top_byte << 56 | 0x3)

    flags = handler.last.header.ControlFlags
    assert isinstance(flags, HV_TRANSLATE_GVA_CONTROL_FLAGS)
    assert flags == (0x10 | vtl) << 56 | 0x3
    assert flags.ValidateRead and flags.ValidateWrite


@pytest.mark.tlfs("HC-017", "REG-003", "REG-004")
@pytest.mark.parametrize(("top_byte", "status"), [(0x12, 6), (0x20, 5), (0x80, 5)])
def test_vtl_in_the_flags_that_is_refused(top_byte: int, status: int) -> None:
    caller, handler = translate(top_byte << 56 | 0x3)

    assert (caller.result.Status, handler.calls) == (status, [])


@pytest.mark.tlfs("HC-017")
def test_reserved_bytes_are_refused_where_the_row_says_so() -> None:
    handler = Recorder()
    caller = Caller({Code.HvCallEnablePartitionVtl: handler})

    # Bytes 10 to 15 of the header: the upper ones of R8.
    status = caller.status(control(Code.HvCallEnablePartitionVtl, IsFast=1), (1 << 64) - 1, 1 | 1 << 16)

    assert (status, handler.calls) == (HvStatus.INVALID_PARAMETER, [])


@pytest.mark.tlfs("HC-017")
def test_padding_is_ignored() -> None:
    """Guests leave bytes 5 to 7 of this header as they found them on their stack."""
    handler = Recorder()
    caller = Caller({Code.HvCallSendSyntheticClusterIpi: handler})

    status = caller.status(control(Code.HvCallSendSyntheticClusterIpi, IsFast=1), 0xFFFF_FF00_0000_0020, 1)

    assert (status, handler.last.header.Vector) == (HvStatus.SUCCESS, 0x20)


def test_row_that_names_no_field_of_its_header_is_refused() -> None:
    row = Call(Code.HvCallPostMessage, "none", target_vtl=TargetVtl("Vtl"), header=TRANSLATE.header)

    with pytest.raises(ValueError, match="HV_INPUT_TRANSLATE_VIRTUAL_ADDRESS has no field Vtl"):
        HandledCall(row, Recorder(), Features())


@pytest.mark.parametrize(("kind", "element"), [(CallKind.REP, None), (CallKind.SIMPLE, U64_ELEMENTS)])
def test_row_whose_class_and_elements_disagree_is_refused(kind: CallKind, element: Elements | None) -> None:
    row = Call(Code.HvCallPostMessage, "none", kind, element=element)

    with pytest.raises(ValueError, match="HvCallPostMessage: a rep call has an input element"):
        HandledCall(row, Recorder(), Features())
