# SPDX-License-Identifier: Apache-2.0
"""The call table against the tables of the documents, and what follows from it for CPUID."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.cpuid import (
    HV_ENLIGHTENMENT_INFORMATION_EAX,
    HV_HYPERVISOR_FEATURES_EDX,
    HV_PARTITION_PRIVILEGE_MASK,
)
from vmm.hypercall.announce import announcement
from vmm.hypercall.call import Call, CallKind, Features
from vmm.hypercall.calls import CALLS, CALLS_BY_CODE

DATA = Path(__file__).resolve().parents[2] / "data" / "hv-hypercalls.csv"
NOTHING = Features(xmm_input=False, xmm_output=False)
ALL_CODES = frozenset(CALLS_BY_CODE)

with DATA.open(encoding="utf-8") as lines:
    DOCUMENTED = {int(row["code_hex"], 16): row for row in csv.DictReader(lines)}

# Cells with two sizes: which document's is taken (the number of the disagreement is in the row's notes).
CHOSEN = {
    ("input_header_bytes", Code.HvCallPostMessageDirect): "280",
    ("rep_element_bytes", Code.HvCallGetVpIndexFromApicId): "4",
    ("output_bytes", Code.HvCallGetVpIndexFromApicId): "4",
    ("input_header_bytes", Code.HvCallGetPartitionId): "0",
    ("output_bytes", Code.HvCallGetPartitionId): "8",
}

# Calls with output, which are made again where the output page is taken away meanwhile (`vmm.hypercall.call.Handler`),
# and why a second time has no further effect.
REPEATABLE = {
    Code.HvCallGetPartitionId: "reads",
    Code.HvCallGetVpRegisters: "reads, without what a RDMSR does beside",
    Code.HvCallTranslateVirtualAddress: "sets bits and takes a lock, which are set and taken then",
    Code.HvCallTranslateVirtualAddressEx: "the same",
    Code.HvCallGetVpIndexFromApicId: "reads",
    Code.HvCallSignalEventDirect: "a flag that is set brings no interrupt",
    Code.HvCallCheckSparseGpaPageVtlAccess: "reads",
    Code.HvExtCallQueryCapabilities: "reads",
}


def documented_size(call: Call, column: str) -> int:
    cell = CHOSEN.get((column, call.code), DOCUMENTED[call.code][column])
    return int(cell.split()[0]) if cell else 0


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_row_agrees_with_the_documents(call: Call) -> None:
    row = DOCUMENTED[call.code]

    assert row["name"] == call.name
    assert call.header_size == documented_size(call, "input_header_bytes")
    assert call.element_size == documented_size(call, "rep_element_bytes")
    assert call.output_size == documented_size(call, "output_bytes")
    assert (call.kind is CallKind.REP) == row["call_type"].startswith("rep")
    assert call.variable_header == ("var header" in row["call_type"])


@pytest.mark.tlfs("REG-001", "REG-002", "VSM-070")
@pytest.mark.parametrize(
    ("code", "header", "element", "output"),
    [
        (Code.HvCallGetVpRegisters, 16, 4, 16),
        (Code.HvCallSetVpRegisters, 16, 32, 0),
        (Code.HvCallModifyVtlProtectionMask, 16, 8, 0),
    ],
)
def test_sizes_of_the_lists(code: Code, header: int, element: int, output: int) -> None:
    call = CALLS_BY_CODE[code]

    assert (call.header_size, call.element_size, call.output_size) == (header, element, output)


def test_rows_are_in_the_order_of_their_codes_and_unique() -> None:
    codes = [int(call.code) for call in CALLS]

    assert codes == sorted(set(codes))


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_first_rep_element_is_8_byte_aligned(call: Call) -> None:
    """TLFS 3.7: whatever the size of the variable header."""
    assert call.kind is not CallKind.REP or call.header_size % 8 == 0


@pytest.mark.tlfs("VSM-036")
@pytest.mark.parametrize("code", [Code.HvCallDisablePartitionVtl, Code.HvCallDisableVpVtl])
def test_calls_that_only_an_old_list_names_are_not_there(code: Code) -> None:
    assert code not in CALLS_BY_CODE


def test_nothing_is_announced_for_no_handler() -> None:
    assert announcement([], NOTHING) == (0, 0, 0)


def test_everything_is_announced_when_all_calls_have_handlers() -> None:
    announced = announcement(ALL_CODES, Features(nested=True))

    assert announced.privileges == HV_PARTITION_PRIVILEGE_MASK.make(
        AccessPartitionId=1,
        PostMessages=1,
        SignalEvents=1,
        AccessVsm=1,
        AccessVpRegisters=1,
        FastHypercallOutput=1,
        EnableExtendedHypercalls=1,
        StartVirtualProcessor=1,
    )
    assert announced.features == HV_HYPERVISOR_FEATURES_EDX.make(
        XmmRegistersForFastHypercallAvailable=1, FastHypercallOutputAvailable=1, TranslateGvaFlagsAvailable=1
    )
    assert announced.recommendations == HV_ENLIGHTENMENT_INFORMATION_EAX.make(
        UseHypercallForLocalFlush=1,
        UseHypercallForRemoteFlushAndLocalFlushEntire=1,
        UseSyntheticClusterIpi=1,
        UseExProcessorMasks=1,
        Nested=1,
    )


@pytest.mark.tlfs("DISC-007")
@pytest.mark.parametrize(
    "code",
    [call.code for call in CALLS if HV_PARTITION_PRIVILEGE_MASK.AccessVsm in call.announces],
    ids=lambda code: code.name,
)
def test_vsm_is_not_announced_when_one_of_its_calls_has_no_handler(code: Code) -> None:
    announced = announcement(ALL_CODES - {code}, NOTHING)

    assert not announced.privileges.AccessVsm


@pytest.mark.parametrize(("xmm_input", "xmm_output"), [(False, True), (True, False)])
def test_xmm_bits_follow_the_offer(xmm_input: bool, xmm_output: bool) -> None:
    announced = announcement([], Features(xmm_input=xmm_input, xmm_output=xmm_output))

    assert announced.features == HV_HYPERVISOR_FEATURES_EDX.make(
        XmmRegistersForFastHypercallAvailable=xmm_input, FastHypercallOutputAvailable=xmm_output
    )
    assert announced.privileges.FastHypercallOutput == xmm_output


def test_announced_privilege_is_enough_for_its_call() -> None:
    """A guest that sees a bit can use what it stands for; SynIC access is announced by the SynIC's MSRs."""
    beside = HV_PARTITION_PRIVILEGE_MASK.AccessSynicRegs.mask
    privileges = announcement(ALL_CODES, Features()).privileges | beside

    for call in CALLS:
        assert call.privileges & ~privileges == 0, call.name


def test_calls_with_output_may_be_made_twice() -> None:
    assert {call.code for call in CALLS if call.output is not None} == REPEATABLE.keys()
