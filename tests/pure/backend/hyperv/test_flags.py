# SPDX-License-Identifier: Apache-2.0
"""QEMU's hv-* flags become features, calls and CPUID bits."""

from __future__ import annotations

import pytest

from tests.pure.hvcalls.rig import Rig
from tests.pure.vsm.world import World
from vmm.backend.hyperv.flags import EVERYTHING, NAMES, HypervFlagError, wanted
from vmm.backend.hyperv.offer import offer
from vmm.hv.call_codes import HypercallCode
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK
from vmm.hvcalls.handlers import handlers
from vmm.hvcpuid import HvFeature
from vmm.vsm import calls as vsm_calls


@pytest.mark.parametrize("flags", [{}, {"hv-time": "off"}, {"hv-passthrough": "off"}])
def test_nothing_asked_for_is_no_interface(flags: dict[str, str]) -> None:
    assert wanted(flags) is None


def test_passthrough_is_everything() -> None:
    assert wanted({"hv-passthrough": "on"}) == EVERYTHING


@pytest.mark.tlfs("SYN-029", "VSM-090")
def test_no_handler_is_without_a_way_to_it() -> None:
    rig = Rig()
    carried_out = {
        *handlers(rig.connections, rig.find_synic, rig, rig),
        *vsm_calls.handlers(World().partition),
    }

    found = wanted({"hv-passthrough": "on", "hv-vsm": "on"})

    assert found is not None
    assert carried_out <= found.codes


OF_THE_FIRST_VSM_BRANCH = dict.fromkeys(
    [
        *("hv-vpindex", "hv-synic", "hv-vsm", "hv-stimer", "hv-vapic", "hv-time"),
        *("hv-stimer-direct", "hv-xmm-input", "hv-xmm-output"),
    ],
    "on",
)
"""kvm-unit-tests' entry for `hyperv_vsm` there. The guest makes these calls without looking for a recommendation."""


@pytest.mark.tlfs("TLB-005")
def test_vtls_come_with_the_calls_that_they_need_beside_their_own() -> None:
    found = wanted(OF_THE_FIRST_VSM_BRANCH)

    assert found is not None
    assert {0x02, 0x03, 0x13, 0x14, 0x0B, 0x15, 0x50, 0x51, 0x52, 0x99} <= found.codes


@pytest.mark.parametrize("first", [True, False])
def test_what_vtls_need_can_be_taken_away_by_name(first: bool) -> None:
    flags = {"hv-vsm": "on", "hv-tlbflush": "off"} if first else {"hv-tlbflush": "off", "hv-vsm": "on"}

    found = wanted(flags)

    assert found is not None and found.vsm
    assert not {0x02, 0x03, 0x13, 0x14} & found.codes
    assert {0x0B, 0x50} <= found.codes


def test_without_vtls_the_rest_of_everything_stays() -> None:
    assert wanted({"hv-passthrough": "on", "hv-vsm": "off"}) == EVERYTHING


def test_a_part_can_be_taken_away_from_everything() -> None:
    found = wanted({"hv-passthrough": "on", "hv-synic": "off", "hv-tlbflush": "no"})

    assert found is not None
    assert EVERYTHING.features - found.features == {HvFeature.SYNIC}
    assert {code.name for code in EVERYTHING.codes - found.codes} == {
        "HvCallPostMessage",
        "HvCallSignalEvent",
        "HvCallFlushVirtualAddressSpace",
        "HvCallFlushVirtualAddressList",
        "HvCallFlushVirtualAddressSpaceEx",
        "HvCallFlushVirtualAddressListEx",
    }


def test_any_flag_brings_the_hypercall_page_and_no_more_than_it_says() -> None:
    found = wanted({"hv-vpindex": "on"})

    assert found is not None
    assert found.features == {HvFeature.HYPERCALL, HvFeature.VP_INDEX}
    assert not found.convention.xmm_input
    assert HypercallCode.HvCallPostMessage not in found.codes


def test_the_synic_brings_its_calls() -> None:
    found = wanted({"hv-synic": "on"})

    assert found is not None
    assert {HypercallCode.HvCallPostMessage, HypercallCode.HvCallSignalEvent} <= found.codes


@pytest.mark.parametrize(("text", "value"), [("0xfff", 0xFFF), ("8191", 8191), ("0xffffffff", 0xFFFFFFFF)])
def test_spinlocks(text: str, value: int) -> None:
    found = wanted({"hv-spinlocks": text})

    assert found is not None
    assert found.spin_retries == value


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ({"hv-evmcs": "on"}, "hv-evmcs"),
        ({"hv-spinlocks": "1"}, "0xfff to"),
        ({"hv-spinlocks": "on"}, "number of tries"),
        ({"hv-time": "2"}, "hv-time=on or hv-time=off"),
    ],
)
def test_what_is_not_understood_is_named(flags: dict[str, str], part: str) -> None:
    with pytest.raises(HypervFlagError, match=part) as error:
        wanted(flags)
    assert "\n" not in str(error.value)


def test_names_have_no_underscore() -> None:
    assert all(name.startswith("hv-") and "_" not in name for name in NAMES)


def announced(flags: dict[str, str], *, tsc_known: bool = True) -> HV_PARTITION_PRIVILEGE_MASK:
    found = wanted(flags)
    assert found is not None
    return offer(found, cpus=2, gpa_bits=40, tsc_hz=2_000_000_000, tsc_known=tsc_known).msrs.privileges


def test_a_tsc_that_nobody_knows_is_no_clock_page() -> None:
    privileges = announced({"hv-time": "on"}, tsc_known=False)

    assert privileges.AccessPartitionReferenceCounter
    assert not privileges.AccessPartitionReferenceTsc


def test_a_feature_without_what_it_needs_is_refused() -> None:
    with pytest.raises(HypervFlagError, match="stimer needs synic, time"):
        announced({"hv-stimer": "on"})


@pytest.mark.tlfs("TLB-005")
def test_flushes_by_call_are_recommended() -> None:
    said = offer(EVERYTHING, cpus=2, gpa_bits=40, tsc_hz=2_000_000_000, tsc_known=True)
    (recommended,) = [entry.eax for entry in said.leaves if entry.leaf == 0x4000_0004]

    assert {code for code in EVERYTHING.codes if "FlushVirtualAddress" in HypercallCode(code).name} == {
        2,
        3,
        0x13,
        0x14,
    }
    assert recommended >> 2 & 1  # remote flushes
    assert recommended >> 11 & 1  # sets of more than 64 processors


def test_hv_vsm_is_not_announced_yet() -> None:
    assert not announced({"hv-passthrough": "on"}).AccessVsm
