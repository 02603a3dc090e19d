# SPDX-License-Identifier: Apache-2.0
"""CPUID leaves: what is offered, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmm.hv.call_codes import HypercallCode
from vmm.hv.cpuid import (
    HV_ENLIGHTENMENT_INFORMATION_EAX,
    HV_HYPERVISOR_FEATURES_EDX,
    HV_PARTITION_PRIVILEGE_MASK,
)
from vmm.hvcpuid import (
    DEFAULT_FEATURES,
    MAX_LEAF,
    OFFERS,
    HvFeature,
    HvLimits,
    HvVersion,
    HvWords,
    leaves,
    words,
)
from vmm.hypercall.announce import Announcement, announcement
from vmm.hypercall.call import Features
from vmm.hypercall.calls import CALLS

NO_CALLS = announcement((), Features(xmm_input=False, xmm_output=False))
ALL_CALLS = announcement([call.code for call in CALLS], Features())
LIMITS = HvLimits(max_vps=64, gpa_bits=46)


def table(offered: HvWords, limits: HvLimits = LIMITS) -> dict[int, tuple[int, int, int, int]]:
    return {leaf: (eax, ebx, ecx, edx) for leaf, eax, ebx, ecx, edx in leaves(offered, limits)}


@pytest.mark.tlfs("DISC-002", "DISC-003")
def test_vendor_and_interface() -> None:
    found = table(words(DEFAULT_FEATURES, NO_CALLS))

    assert found[0x40000000] == (0x4000000A, 0x7263694D, 0x666F736F, 0x76482074)
    assert found[0x40000001] == (0x31237648, 0, 0, 0)


@pytest.mark.tlfs("DISC-004")
def test_version() -> None:
    version = HvVersion(build=1, major=2, minor=3, service_pack=4, service_number=5)

    entry = leaves(words((), NO_CALLS), LIMITS, version)[2]

    assert entry == (0x40000002, 1, 2 << 16 | 3, 4, 5)


@pytest.mark.tlfs("DISC-005", "DISC-008", "DISC-009", "DISC-016")
def test_the_default_features_set_the_documented_bits() -> None:
    offered = words(DEFAULT_FEATURES, NO_CALLS)
    eax, ebx, ecx, edx = table(offered)[0x40000003]

    # Run time, counter, SynIC, timers, APIC MSRs, hypercall MSRs, VP index, reset, reference TSC, frequencies.
    assert eax == 0b1011_1111_1111 & ~(1 << 8)
    assert ebx == 0
    assert ecx == 0
    # Frequencies, crash, polling, MSR lock, direct timers.
    assert edx == 1 << 8 | 1 << 10 | 1 << 17 | 1 << 18 | 1 << 19


@pytest.mark.tlfs("DISC-005", "DISC-010")
def test_calls_add_what_they_announce() -> None:
    offered = words(DEFAULT_FEATURES, ALL_CALLS)

    assert offered.privileges.PostMessages
    assert offered.privileges.SignalEvents
    assert offered.privileges.AccessVpRegisters
    assert offered.privileges.AccessVsm
    assert offered.features.XmmRegistersForFastHypercallAvailable
    assert offered.recommendations.UseSyntheticClusterIpi
    assert offered.recommendations.UseExProcessorMasks
    assert offered.recommendations.UseRelaxedTiming


@pytest.mark.tlfs("DISC-006", "DISC-007")
def test_vsm_is_announced_only_with_what_it_needs() -> None:
    with_synic = words({HvFeature.SYNIC}, ALL_CALLS).privileges.AccessVsm
    without_synic = words({HvFeature.TIME}, ALL_CALLS).privileges.AccessVsm
    registers = {HypercallCode.HvCallGetVpRegisters, HypercallCode.HvCallSetVpRegisters}
    codes = [call.code for call in CALLS if call.code not in registers]
    without_registers = words({HvFeature.SYNIC}, announcement(codes, Features())).privileges.AccessVsm

    assert (with_synic, without_synic, without_registers) == (True, False, False)


@pytest.mark.tlfs("DISC-011", "DISC-012")
def test_limits() -> None:
    limits = HvLimits(max_vps=7, gpa_bits=39, max_logical_processors=3, spin_retries=0xFFF)
    found = table(words((), NO_CALLS), limits)

    assert found[0x40000004][1:] == (0xFFF, 39, 0)
    assert found[0x40000005] == (7, 3, 0, 0)
    assert table(words((), NO_CALLS))[0x40000004][1] == 0xFFFF_FFFF


@pytest.mark.tlfs("DISC-013", "DISC-014", "DISC-015")
def test_every_leaf_is_there_and_those_not_offered_are_zero() -> None:
    found = table(words(DEFAULT_FEATURES, ALL_CALLS))

    assert list(found) == [*range(0x40000000, MAX_LEAF + 1), 0x40000080, 0x40000081, 0x40000082]
    assert {registers for leaf, registers in found.items() if leaf > 0x40000005} == {(0, 0, 0, 0)}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({HvFeature.STIMER}, "stimer needs synic, time"),
        ({HvFeature.STIMER_DIRECT}, "stimer-direct needs stimer"),
        ({HvFeature.REFERENCE_TSC}, "reference-tsc needs time"),
        ({HvFeature.APIC_RECOMMENDED}, "vapic-recommended needs vapic"),
    ],
)
def test_a_feature_without_what_it_needs(features: set[HvFeature], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        words(features, NO_CALLS)


EAX, EDX, RECOMMENDED = "0x40000003 EAX", "0x40000003 EDX", "0x40000004 EAX"
BITS = {
    HvFeature.HYPERCALL: ((EAX, 5), (EDX, 18)),
    HvFeature.VP_INDEX: ((EAX, 6),),
    HvFeature.VP_RUNTIME: ((EAX, 0),),
    HvFeature.TIME: ((EAX, 1),),
    HvFeature.REFERENCE_TSC: ((EAX, 9),),
    HvFeature.FREQUENCIES: ((EAX, 11), (EDX, 8)),
    HvFeature.SYNIC: ((EAX, 2), (EDX, 17), (RECOMMENDED, 9)),  # polling; AutoEOI is not for new guests
    HvFeature.STIMER: ((EAX, 3),),
    HvFeature.STIMER_DIRECT: ((EDX, 19),),
    HvFeature.APIC: ((EAX, 4),),
    HvFeature.APIC_RECOMMENDED: ((RECOMMENDED, 3),),
    HvFeature.RESET: ((EAX, 7),),
    HvFeature.CRASH: ((EDX, 10),),
    HvFeature.IDLE: ((EAX, 10), (EDX, 5)),
    HvFeature.REENLIGHTENMENT: ((EAX, 13),),
}
"""From the checklist: the tables of DISC-005 and DISC-009, and DISC-010."""
RELAXED_TIMING = 1 << 5
"""Always recommended."""


@pytest.mark.tlfs("DISC-005", "DISC-009", "DISC-010")
@given(st.sets(st.sampled_from(list(HvFeature))))
@example(set(HvFeature))
def test_each_feature_sets_its_bits_and_no_other(features: set[HvFeature]) -> None:
    while missing := {needed for feature in features for needed in OFFERS[feature].needs} - features:
        features |= missing
    expected = {EAX: 0, EDX: 0, RECOMMENDED: RELAXED_TIMING}
    for feature in features:
        for word, position in BITS[feature]:
            expected[word] |= 1 << position

    found = table(words(features, NO_CALLS))

    assert found[0x40000003] == (expected[EAX], 0, 0, expected[EDX])
    assert found[0x40000004][0] == expected[RECOMMENDED]


@pytest.mark.tlfs("DISC-016")
def test_an_ordinary_guest_has_no_privilege_of_a_parent_and_those_that_make_it_one() -> None:
    everything = Announcement(
        HV_PARTITION_PRIVILEGE_MASK((1 << 64) - 1),
        HV_HYPERVISOR_FEATURES_EDX(0),
        HV_ENLIGHTENMENT_INFORMATION_EAX(0),
    )

    ebx = table(words(DEFAULT_FEATURES, everything))[0x40000003][1]
    eax = table(words(DEFAULT_FEATURES, NO_CALLS))[0x40000003][0]

    assert [position for position in (0, 1, 2, 3, 6, 8, 12, 13) if ebx >> position & 1] == []
    assert eax >> 5 & 0b11 == 0b11  # hypercall MSRs and VP index: else Linux does not take it for Hyper-V
