# SPDX-License-Identifier: Apache-2.0
"""All MSRs together: what is announced works, everything else faults; scope; reset."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.synic.partition import PAGE, FakePartition, FakeTsc
from vmm.hv.access import VtlScope
from vmm.hv.cpuid import HV_HYPERVISOR_FEATURES_EDX, HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.msrs import HvMsr
from vmm.hvmsr.msr_file import announced
from vmm.hvmsr.state import HvOffer, HvState
from vmm.overlay.copying import CopyingBackend
from vmm.synic.messages import PostedMessage

EVERYTHING = (1 << 64) - 1
TSC_HZ, APIC_HZ = 2_500_000_000, 1_000_000_000
NUMBER = 9  # a guest page

NOT_IMPLEMENTED = {
    HvMsr.HV_X64_MSR_NPIEP_CONFIG,
    HvMsr.HV_X64_MSR_STIME_UNHALTED_TIMER_CONFIG,
    HvMsr.HV_X64_MSR_STIME_UNHALTED_TIMER_COUNT,
    HvMsr.HV_X64_MSR_TSC_INVARIANT_CONTROL,
    *(msr for msr in HvMsr if "NESTED" in msr.name),
}
IMPLEMENTED = [msr for msr in HvMsr if msr not in NOT_IMPLEMENTED]

# A value that is accepted and read back, where any is.
SAMPLE = {
    HvMsr.HV_X64_MSR_GUEST_OS_ID: 0x8100 << 48,
    HvMsr.HV_X64_MSR_ICR: 0x0100_0000_0000_00F3,
    HvMsr.HV_X64_MSR_TPR: 0x20,
    HvMsr.HV_X64_MSR_REENLIGHTENMENT_CONTROL: 0x100EE,
    HvMsr.HV_X64_MSR_TSC_EMULATION_CONTROL: 1,
    **{HvMsr.of(HvMsr.HV_X64_MSR_SINT0 + n): 0x30 + n for n in range(16)},
    **{HvMsr.of(HvMsr.HV_X64_MSR_STIMER0_CONFIG + 2 * n): 2 << 16 | 2 for n in range(4)},
}
PAGE_VALUE = NUMBER * PAGE  # not enabled: a number like any other


class Rig(FakePartition):
    def __init__(self, privileges: int = EVERYTHING, features: int = 0xFFFF_FFFF, vtls: int = 2) -> None:
        super().__init__()
        self.offer = HvOffer(
            HV_PARTITION_PRIVILEGE_MASK(privileges),
            HV_HYPERVISOR_FEATURES_EDX(features),
            gpa_bits=40,
            tsc_hz=TSC_HZ,
            apic_hz=APIC_HZ,
        )
        self.state = HvState(
            self.offer,
            self.services,
            self.memory,
            self.clock,
            CopyingBackend(self.memory),
            FakeTsc(self.clock, TSC_HZ),
        )
        for vp in range(2):
            for vtl in range(vtls):
                self.state.enable_vtl(vp, vtl)
        self.state.reference.resume()


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.tlfs("MISC-007")
@pytest.mark.parametrize("msr", list(HvMsr), ids=lambda msr: msr.name)
def test_access_is_what_the_table_says(rig: Rig, msr: Any) -> None:
    value = rig.state.read_msr(0, 0, msr)
    written = rig.state.write_msr(0, 0, msr, SAMPLE.get(msr, PAGE_VALUE))

    if msr in NOT_IMPLEMENTED:
        assert (value, written) == (None, False)
    else:
        assert (value is not None) is msr.access.readable
        assert written is msr.access.writable


@pytest.mark.tlfs("HCP-003", "SYN-003", "TMR-010", "MISC-007")
@pytest.mark.parametrize(
    "msr",
    [
        msr
        for msr in IMPLEMENTED
        if msr.reset_value is not None
        and msr.access.readable
        and msr is not HvMsr.HV_X64_MSR_SCONTROL  # DIS-24, tested in test_synic
    ],
    ids=lambda msr: msr.name,
)
def test_reset_values_are_the_tables(rig: Rig, msr: Any) -> None:
    assert rig.state.read_msr(0, 1, msr) == msr.reset_value


@pytest.mark.tlfs("DISC-005", "MISC-007")
@pytest.mark.parametrize("msr", IMPLEMENTED, ids=lambda msr: msr.name)
def test_what_is_not_announced_faults_and_alone_announced_works(msr: Any) -> None:
    privilege = msr.privilege
    is_privilege = privilege.owner is HV_PARTITION_PRIVILEGE_MASK
    without = Rig(
        EVERYTHING & ~privilege.mask if is_privilege else EVERYTHING,
        0xFFFF_FFFF if is_privilege else 0xFFFF_FFFF & ~privilege.mask,
    )
    alone = Rig(privilege.mask if is_privilege else 0, 0 if is_privilege else privilege.mask)

    assert not announced(msr, without.offer.privileges, without.offer.features)
    assert without.state.read_msr(0, 0, msr) is None
    assert not without.state.write_msr(0, 0, msr, SAMPLE.get(msr, PAGE_VALUE))
    assert (alone.state.read_msr(0, 0, msr) is not None) is msr.access.readable


@pytest.mark.tlfs("MISC-007")
@given(
    st.integers(0, 1) | st.integers(0x4000_0000, 0x4000_1100) | st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 64) - 1),
)
def test_no_access_raises_and_unknown_numbers_fault(number: int, value: int) -> None:
    rig = Rig()

    written = rig.state.write_msr(0, 0, number, value)
    read = rig.state.read_msr(0, 0, number)

    if not isinstance(HvMsr.of(number), HvMsr):
        assert (read, written) == (None, False)
    if read is not None:
        assert 0 <= read < 1 << 64


@pytest.mark.tlfs("MISC-007")
@given(st.lists(st.tuples(st.sampled_from(IMPLEMENTED), st.integers(0, (1 << 64) - 1)), max_size=30))
def test_any_sequence_of_writes_leaves_a_readable_state(writes: list[tuple[HvMsr, int]]) -> None:
    rig = Rig()
    for msr, value in writes:
        rig.state.write_msr(0, 0, msr, value)
        rig.clock.advance(1_000_000)
    for msr in IMPLEMENTED:
        read = rig.state.read_msr(0, 0, msr)
        assert (read is not None) is msr.access.readable
        assert read is None or 0 <= read < 1 << 64


@pytest.mark.parametrize(
    "msr",
    [
        msr
        for msr in IMPLEMENTED
        if msr.vtl_scope is VtlScope.PRIVATE
        and msr.access.readable
        and msr.access.writable
        and msr is not HvMsr.HV_X64_MSR_EOM  # reads zero whatever is written
    ],
    ids=lambda msr: msr.name,
)
def test_private_msrs_are_one_per_vtl(rig: Rig, msr: Any) -> None:
    before = rig.state.read_msr(0, 0, msr)
    value = SAMPLE.get(msr, PAGE_VALUE)

    rig.state.write_msr(0, 1, msr, value)

    assert rig.state.read_msr(0, 1, msr) == value
    assert rig.state.read_msr(0, 0, msr) == before


@pytest.mark.tlfs("HCP-001")
@pytest.mark.parametrize(
    "msr", [HvMsr.HV_X64_MSR_GUEST_OS_ID, HvMsr.HV_X64_MSR_REFERENCE_TSC], ids=lambda msr: msr.name
)
def test_some_private_msrs_are_the_same_on_all_vps(rig: Rig, msr: HvMsr) -> None:
    rig.state.write_msr(0, 1, msr, 0x123000)

    assert rig.state.read_msr(1, 1, msr) == 0x123000


@pytest.mark.tlfs("DISC-018", "TMR-018")
def test_shared_msrs_read_the_same_in_all_vtls(rig: Rig) -> None:
    rig.services.runtimes[1] = 777
    rig.clock.advance(1_000_000)

    for vtl in (0, 1):
        read = {
            msr: rig.state.read_msr(1, vtl, msr)
            for msr in (
                HvMsr.HV_X64_MSR_VP_INDEX,
                HvMsr.HV_X64_MSR_VP_RUNTIME,
                HvMsr.HV_X64_MSR_TSC_FREQUENCY,
                HvMsr.HV_X64_MSR_APIC_FREQUENCY,
            )
        }
        assert list(read.values()) == [1, 777, TSC_HZ, APIC_HZ]
    counts = [rig.state.read_msr(vp, vtl, HvMsr.HV_X64_MSR_TIME_REF_COUNT) for vp in (0, 1) for vtl in (0, 1)]
    assert len(set(counts)) == 1


def test_crash_parameters_are_shared(rig: Rig) -> None:
    rig.state.write_msr(0, 1, HvMsr.HV_X64_MSR_CRASH_P2, 5)

    assert rig.state.read_msr(1, 0, HvMsr.HV_X64_MSR_CRASH_P2) == 5


def test_timers_and_synics_of_vtls_are_apart(rig: Rig) -> None:
    """A timer of VTL1 on VP 1 interrupts there and nowhere else."""
    direct = 1 << 12 | 0xF3 << 4 | 1
    rig.state.write_msr(1, 1, HvMsr.HV_X64_MSR_STIMER0_COUNT, 10_000)
    rig.state.write_msr(1, 1, HvMsr.HV_X64_MSR_STIMER0_CONFIG, direct)

    rig.clock.advance(2_000_000)

    assert rig.services.taken() == [(1, 1, 0xF3, False)]


@pytest.mark.tlfs("TMR-017")
def test_the_time_unhalted_timer_is_not_offered(rig: Rig) -> None:
    """Not even to a partition with every privilege and feature bit."""
    for msr in (
        HvMsr.HV_X64_MSR_STIME_UNHALTED_TIMER_CONFIG,
        HvMsr.HV_X64_MSR_STIME_UNHALTED_TIMER_COUNT,
    ):
        assert rig.state.read_msr(0, 0, msr) is None
        assert not rig.state.write_msr(0, 0, msr, 0x120)


@pytest.mark.tlfs("APIC-001", "WIN-005")
def test_eoi_ignores_its_value_and_looks_at_the_queues(rig: Rig) -> None:
    rig.state.write_msr(0, 0, HvMsr.HV_X64_MSR_SIMP, NUMBER * PAGE | 1)
    rig.state.write_msr(0, 0, HvMsr.HV_X64_MSR_SINT3, 0x40)
    synic = rig.state.find_synic(0, 0)
    assert synic is not None
    synic.post(3, PostedMessage(1, b"first"))
    synic.post(3, PostedMessage(1, b"second"))
    rig.empty_slot(NUMBER, 3)
    rig.services.apics[0, 0].in_service = 0x40

    assert rig.state.write_msr(0, 0, HvMsr.HV_X64_MSR_EOI, 0xDEAD_BEEF_0000_0000)

    assert rig.message(NUMBER, 3).Payload.startswith(b"second")
    assert rig.state.write_msr(0, 0, HvMsr.HV_X64_MSR_EOI, 0)  # nothing in service


def test_icr_and_tpr_reach_the_vtls_apic(rig: Rig) -> None:
    accepted = rig.state.write_msr(0, 1, HvMsr.HV_X64_MSR_ICR, 0x0100_0000_0000_00F3)
    refused = rig.state.write_msr(0, 1, HvMsr.HV_X64_MSR_ICR, 0)
    rig.state.write_msr(0, 1, HvMsr.HV_X64_MSR_TPR, 0xABC30)

    assert (accepted, refused) == (True, False)
    assert rig.services.apics[0, 1].tpr == 0x30
    assert rig.services.apics[0, 0].tpr == 0


@pytest.mark.tlfs("MISC-004")
def test_reset_msr_asks_for_a_reset(rig: Rig) -> None:
    rig.state.write_msr(0, 0, HvMsr.HV_X64_MSR_RESET, 0)
    before = rig.services.resets
    rig.state.write_msr(0, 0, HvMsr.HV_X64_MSR_RESET, 1)

    assert (before, rig.services.resets) == (0, 1)
    assert rig.state.read_msr(0, 0, HvMsr.HV_X64_MSR_RESET) == 0


def test_guest_idle_puts_the_vp_to_sleep(rig: Rig) -> None:
    assert rig.state.read_msr(1, 1, HvMsr.HV_X64_MSR_GUEST_IDLE) == 0
    assert rig.services.idles == [(1, 1)]


def test_the_value_of_guest_idle_puts_nobody_to_sleep(rig: Rig) -> None:
    state = rig.state.vp(1, 1)

    assert state is not None
    assert state.msrs.value(HvMsr.HV_X64_MSR_GUEST_IDLE) == 0
    assert rig.services.idles == []


def test_the_value_of_an_msr_is_what_rdmsr_gives(rig: Rig) -> None:
    state = rig.state.vp(1, 1)

    assert state is not None
    assert state.msrs.values.keys() == state.msrs.readers.keys()
    assert state.msrs.value(HvMsr.HV_X64_MSR_VP_INDEX) == state.msrs.read(HvMsr.HV_X64_MSR_VP_INDEX) == 1


@pytest.mark.tlfs("MISC-002")
def test_a_crash_is_reported_with_its_vp_and_vtl(rig: Rig) -> None:
    rig.state.write_msr(1, 1, HvMsr.HV_X64_MSR_CRASH_CTL, 1 << 63)

    assert [(report.vp, report.vtl) for report in rig.services.crashes] == [(1, 1)]


def test_reset_brings_back_power_on_state_and_ram() -> None:
    rig = Rig(vtls=3)
    before = bytes(rig.memory.ram)
    fresh = {msr: rig.state.read_msr(1, 0, msr) for msr in IMPLEMENTED}
    for vtl in range(3):
        for msr in IMPLEMENTED:
            rig.state.write_msr(1, vtl, msr, SAMPLE.get(msr, PAGE_VALUE + vtl * PAGE | 1))
    assert bytes(rig.memory.ram) != before

    rig.state.reset()

    assert bytes(rig.memory.ram) == before
    moving = {HvMsr.HV_X64_MSR_ICR, HvMsr.HV_X64_MSR_TPR}  # the local APIC's, not ours
    assert {msr: rig.state.read_msr(1, 0, msr) for msr in IMPLEMENTED if msr not in moving} == {
        msr: value for msr, value in fresh.items() if msr not in moving
    }
    assert (rig.state.vp(1, 1), rig.state.vtl(1), rig.state.read_msr(1, 1, 0x40000000)) == (None, None, None)
    assert not rig.state.write_msr(1, 2, 0x40000000, 1)
    rig.services.taken()
    rig.clock.advance(10**12)
    assert rig.services.taken() == []


def test_after_a_reset_a_vtl_can_be_enabled_again(rig: Rig) -> None:
    rig.state.write_msr(0, 1, HvMsr.HV_X64_MSR_GUEST_OS_ID, 5)
    rig.state.reset()

    again = rig.state.enable_vtl(0, 1)

    assert rig.state.enable_vtl(0, 1) is again
    assert rig.state.read_msr(0, 1, HvMsr.HV_X64_MSR_GUEST_OS_ID) == 0
