# SPDX-License-Identifier: Apache-2.0
"""Hypercall page, VP assist page, crash and re-enlightenment MSRs, each alone."""

from __future__ import annotations

import pytest

from tests.pure.synic.partition import PAGE, RAM_PAGES, FakePartition
from vmm.hv.msr_bits import HV_CRASH_CTL_REG_CONTENTS
from vmm.hv.vp_pages import HV_VP_ASSIST_PAGE
from vmm.hvmsr.crash import MESSAGE_BYTES, REPORTS, CrashRegisters
from vmm.hvmsr.hypercall_page import HypercallPage
from vmm.hvmsr.reenlightenment import Reenlightenment
from vmm.hvmsr.vp_assist import VpAssistPage

GPA_BITS = 40
ENABLE, LOCKED = 1, 2
OS_ID = 0x8100_0000_0000_0000
NUMBER = 7  # of the guest page that is used


class Rig(FakePartition):
    def __init__(self) -> None:
        super().__init__()
        self.page = HypercallPage(0, self.overlays, self.services.hypercall_page, GPA_BITS)

    def seen(self) -> bytes:
        return self.memory.read(NUMBER * PAGE, PAGE)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.tlfs("HCP-001", "HCP-003")
def test_reset_values(rig: Rig) -> None:
    assert (rig.page.read_os_id(), rig.page.read_msr(), rig.page.enabled) == (0, 0, False)


@pytest.mark.tlfs("HCP-003")
def test_enabling_shows_the_code_and_disabling_gives_ram_back(rig: Rig) -> None:
    rig.page.write_os_id(OS_ID)
    value = NUMBER * PAGE | 0xF00 | ENABLE

    assert rig.page.write_msr(value)
    seen = rig.seen()
    read = rig.page.read_msr()
    assert rig.page.write_msr(0)

    assert seen == rig.services.code.ljust(PAGE, b"\xcc")
    assert read == value
    assert rig.seen() == b"\xcc" * PAGE


@pytest.mark.tlfs("HCP-004")
def test_without_os_id_the_page_stays_disabled(rig: Rig) -> None:
    assert rig.page.write_msr(NUMBER * PAGE | ENABLE)

    assert rig.page.read_msr() == NUMBER * PAGE
    assert not rig.page.enabled


@pytest.mark.tlfs("HCP-002")
def test_os_id_zero_disables(rig: Rig) -> None:
    rig.page.write_os_id(OS_ID)
    rig.page.write_msr(NUMBER * PAGE | ENABLE)

    rig.page.write_os_id(0)

    assert rig.page.read_msr() == NUMBER * PAGE
    assert rig.seen() == b"\xcc" * PAGE


@pytest.mark.tlfs("HCP-005")
def test_a_page_beyond_the_address_space_faults(rig: Rig) -> None:
    rig.page.write_os_id(OS_ID)

    accepted = [rig.page.write_msr(gpa | ENABLE) for gpa in (1 << GPA_BITS, (1 << 64) - PAGE)]
    last = rig.page.write_msr((1 << GPA_BITS) - PAGE | ENABLE)

    assert (accepted, last) == ([False, False], True)


@pytest.mark.tlfs("HCP-006")
def test_locked_means_no_change_until_reset(rig: Rig) -> None:
    rig.page.write_os_id(OS_ID)
    locked = NUMBER * PAGE | ENABLE | LOCKED
    rig.page.write_msr(locked)

    refused = [rig.page.write_msr(value) for value in (0, (NUMBER + 1) * PAGE | ENABLE, locked)]
    rig.page.write_os_id(0)
    during = rig.page.read_msr()
    rig.page.reset()

    assert refused == [False] * 3
    assert during == locked
    assert rig.page.read_msr() == 0
    assert rig.seen() == b"\xcc" * PAGE
    assert rig.page.write_msr(0)


# VP assist page


@pytest.mark.tlfs("VSM-048", "VSM-049")
def test_vp_assist_fields_lie_where_the_layout_says(rig: Rig) -> None:
    assist = VpAssistPage(0, 1, rig.overlays)
    assist.write_msr(NUMBER * PAGE | 0xE | ENABLE)

    assist.set_entry_reason(2)
    assist.set_return_registers(0x1111, 0x2222)
    assist.vina_asserted = True

    page = HV_VP_ASSIST_PAGE.unpack(rig.seen())
    assert page.VtlControl.EntryReason == 2
    assert page.VtlControl.VtlReturnX64Rax == 0x1111
    assert page.VtlControl.VtlReturnX64Rcx == 0x2222
    assert rig.seen()[12] == 1
    assert assist.vina_asserted
    assert assist.return_registers() == (0x1111, 0x2222)
    assert assist.read_msr() == NUMBER * PAGE | 0xE | ENABLE


@pytest.mark.tlfs("VSM-051")
def test_nothing_is_written_while_it_is_disabled(rig: Rig) -> None:
    assist = VpAssistPage(0, 1, rig.overlays)
    assist.set_entry_reason(1)
    assist.vina_asserted = True

    assist.write_msr(NUMBER * PAGE | ENABLE)

    assert rig.seen() == bytes(PAGE)
    assert assist.return_registers() == (0, 0)


@pytest.mark.tlfs("VSM-045")
def test_a_32_bit_vtl_has_its_return_registers_in_the_same_place(rig: Rig) -> None:
    assist = VpAssistPage(0, 1, rig.overlays)
    assert assist.return_registers_x86() == (0, 0, 0)
    assist.write_msr(NUMBER * PAGE | ENABLE)

    rig.memory.write(NUMBER * PAGE + 16, bytes.fromhex("0a000000 0c000000 0d000000"))

    assert assist.return_registers_x86() == (0xA, 0xC, 0xD)


def test_the_guest_clears_vina(rig: Rig) -> None:
    assist = VpAssistPage(0, 1, rig.overlays)
    assist.write_msr(NUMBER * PAGE | ENABLE)
    assist.vina_asserted = True

    rig.memory.write(NUMBER * PAGE + 12, b"\0")

    assert not assist.vina_asserted


# Crash


class CrashRig(FakePartition):
    def __init__(self) -> None:
        super().__init__()
        self.crash = CrashRegisters(self.memory, self.services.guest_crashed)


NOTIFY, MESSAGE, NO_DUMP = 1 << 63, 1 << 62, 1 << 61


@pytest.mark.tlfs("MISC-002")
def test_control_reads_what_is_offered_and_parameters_keep_their_values() -> None:
    rig = CrashRig()
    for number in range(5):
        rig.crash.write_parameter(number, 100 + number)

    assert rig.crash.read_control() == NOTIFY | MESSAGE
    assert [rig.crash.read_parameter(number) for number in range(5)] == [100, 101, 102, 103, 104]


@pytest.mark.tlfs("MISC-002")
def test_notify_reports_parameters_and_message() -> None:
    rig = CrashRig()
    rig.memory.write(NUMBER * PAGE + 8, b"Oops: it broke\n")
    for number, value in enumerate((0xD1, 1, 2, NUMBER * PAGE + 8, 15)):
        rig.crash.write_parameter(number, value)

    assert rig.crash.write_control(1, 0, NOTIFY | MESSAGE | NO_DUMP | 3 << 58)

    (report,) = rig.services.crashes
    assert (report.vp, report.vtl) == (1, 0)
    assert report.parameters == (0xD1, 1, 2, NUMBER * PAGE + 8, 15)
    assert report.message == b"Oops: it broke\n"
    assert (report.control.NoCrashDump, report.control.PreOSId) == (True, 3)
    assert (
        str(report)
        == f"the guest reports a crash (VP 1, VTL 0): P0=0xd1 P1=0x1 P2=0x2 P3={NUMBER * PAGE + 8:#x} P4=0xf"
    )


@pytest.mark.tlfs("MISC-002")
def test_without_notify_nothing_is_reported_and_without_message_none_is_read() -> None:
    rig = CrashRig()

    rig.crash.write_control(0, 0, MESSAGE)
    rig.crash.write_control(0, 0, NOTIFY)

    (report,) = rig.services.crashes
    assert (report.message, report.message_error) == (None, None)


@pytest.mark.tlfs("MISC-002")
@pytest.mark.parametrize(
    ("gpa", "length", "read"),
    [
        (0, 1 << 64 - 1, MESSAGE_BYTES),
        (0, MESSAGE_BYTES + 1, MESSAGE_BYTES),
        (0, 0, 0),
        (RAM_PAGES * PAGE - 8, 16, None),
        ((1 << 64) - 1, 16, None),
    ],
)
def test_message_lengths_are_bounded_and_bad_addresses_reported(
    gpa: int, length: int, read: int | None
) -> None:
    rig = CrashRig()
    rig.crash.write_parameter(3, gpa)
    rig.crash.write_parameter(4, length)

    rig.crash.write_control(0, 0, NOTIFY | MESSAGE)

    (report,) = rig.services.crashes
    if read is None:
        assert report.message is None
        assert report.message_error is not None
        assert report.message_error.startswith("the crash message cannot be read")
    else:
        assert report.message is not None
        assert len(report.message) == read


def test_a_guest_that_crashes_for_ever_is_heard_a_few_times() -> None:
    rig = CrashRig()

    accepted = [rig.crash.write_control(0, 0, NOTIFY) for _ in range(1000)]
    heard = len(rig.services.crashes)
    rig.crash.reset()
    rig.crash.write_control(0, 0, NOTIFY)

    assert all(accepted)
    assert (heard, len(rig.services.crashes)) == (REPORTS, REPORTS + 1)


def test_offered_actions_are_those_of_the_register_layout() -> None:
    control = HV_CRASH_CTL_REG_CONTENTS(CrashRig().crash.read_control())

    assert (control.CrashNotify, control.CrashMessage, control.NoCrashDump) == (True, True, False)


# Re-enlightenment


@pytest.mark.tlfs("TMR-019")
def test_a_migration_interrupts_and_starts_emulation() -> None:
    partition = FakePartition()
    state = Reenlightenment(partition.services)
    control = 1 << 32 | 1 << 16 | 0xEE

    written = [state.write_control(1, control), state.write_emulation_control(1)]
    state.tsc_frequency_changed()
    during = (state.emulating, state.read_emulation_status())
    state.write_emulation_status(0)

    assert written == [True, True]
    assert (state.read_control(), state.read_emulation_control()) == (control, 1)
    assert partition.services.taken() == [(1, 1, 0xEE, False)]
    assert during == (True, 1)
    assert not state.emulating


@pytest.mark.tlfs("TMR-019")
def test_a_guest_that_did_not_ask_is_not_told() -> None:
    partition = FakePartition()
    state = Reenlightenment(partition.services)

    state.tsc_frequency_changed()

    assert partition.services.taken() == []
    assert not state.emulating


@pytest.mark.tlfs("TMR-019")
def test_what_reenlightenment_refuses() -> None:
    state = Reenlightenment(FakePartition().services)

    refused = [
        state.write_control(0, 1 << 16 | 15),
        state.write_control(0, 1 << 8),
        state.write_control(0, 1 << 17),
        state.write_emulation_control(2),
        state.write_emulation_status(1),
    ]
    state.reset()

    assert refused == [False] * 5
    assert (state.read_control(), state.read_emulation_control(), state.read_emulation_status()) == (0, 0, 0)
