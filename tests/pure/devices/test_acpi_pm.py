# SPDX-License-Identifier: Apache-2.0
"""ACPI fixed hardware: events, sleep and wake-up, PM timer, GPE0, SMI commands (ACPI 6.3 section 4.8)."""

from __future__ import annotations

import pytest
from hypothesis import given

from vmm.machine.devices import acpi_pm as pm
from vmm.machine.devices.acpi_pm import AcpiPm, Gpe0, SmiCommand
from vmm.outside import Region

from .fakes import SECOND_NS, FakeClock, FakeControl, FakeLine
from .fuzz import ACCESSES, carry_out

STS, EN, CNT, TIMER = 0, 2, 4, 8
S3 = pm.SLEEP_TYPE_S3 << 10 | pm.SLP_EN
S5 = pm.SLEEP_TYPE_S5 << 10 | pm.SLP_EN


def carry_ns(number: int) -> int:
    """First nanosecond after the `number`th carry: the top bit changes every 2^23 ticks of 3.579545 MHz."""
    return -(-(number << 23) * SECOND_NS // 3_579_545)


HALF_PERIOD_NS = carry_ns(1)  # 2.3435 s


class Board:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sci = FakeLine()
        self.control = FakeControl()
        self.device = AcpiPm(self.sci, self.clock, self.control)
        self.gpe0 = Gpe0(self.device)
        self.smi = SmiCommand(self.device)
        self.device.reset()

    def read(self, register: int) -> int:
        return self.device.read(register, 2)

    def write(self, register: int, value: int) -> None:
        self.device.write(register, 2, value)

    def enable(self, events: int) -> None:
        self.smi.write(0, 1, pm.ACPI_ENABLE)
        self.write(EN, events)


def test_everything_is_off_after_reset() -> None:
    board = Board()

    assert [board.read(register) for register in (STS, EN, CNT)] == [0, 0, 0]
    assert board.gpe0.read(0, 4) == 0


def test_reset_forgets_events_and_drops_the_sci() -> None:
    board = Board()
    board.enable(pm.PWRBTN)
    board.device.press_power_button()
    board.device.raise_gpe(3)

    board.device.reset()

    assert not board.sci.level
    assert [board.read(register) for register in (STS, EN, CNT)] == [0, 0, 0]
    assert board.gpe0.read(0, 4) == 0


def test_only_defined_bits_are_kept() -> None:
    board = Board()

    board.write(EN, 0xFFFF)
    board.write(CNT, 0xFFFF & ~pm.SLP_EN)

    assert board.read(EN) == pm.PM1_ENABLE_BITS
    assert board.read(CNT) == pm.SCI_EN | pm.BM_RLD | pm.SLP_TYP_MASK  # GBL_RLS is write-only


# Events


@pytest.mark.parametrize(
    ("event", "bit"),
    [("press_power_button", pm.PWRBTN), ("press_sleep_button", pm.SLPBTN), ("rtc_wake", pm.RTC)],
)
def test_an_enabled_event_raises_the_sci_until_its_status_is_cleared(event: str, bit: int) -> None:
    board = Board()
    board.enable(bit)

    getattr(board.device, event)()
    raised = board.sci.level, board.read(STS)
    board.write(STS, bit)

    assert raised == (True, bit)
    assert (board.sci.level, board.read(STS)) == (False, 0)


def test_a_disabled_event_only_sets_its_status() -> None:
    board = Board()
    board.enable(0)

    board.device.press_power_button()

    assert (board.sci.level, board.read(STS)) == (False, pm.PWRBTN)


def test_enabling_an_event_that_is_pending_raises_the_sci() -> None:
    board = Board()
    board.enable(0)
    board.device.press_power_button()

    board.write(EN, pm.PWRBTN)

    assert board.sci.level


def test_no_sci_in_legacy_mode() -> None:
    board = Board()
    board.write(EN, pm.PWRBTN)

    board.device.press_power_button()
    legacy = board.sci.level
    board.smi.write(0, 1, pm.ACPI_ENABLE)

    assert (legacy, board.sci.level) == (False, True)


def test_clearing_one_status_bit_leaves_the_others() -> None:
    board = Board()
    board.device.press_power_button()
    board.device.rtc_wake()

    board.write(STS, pm.PWRBTN)

    assert board.read(STS) == pm.RTC


def test_the_button_tells_whether_the_guest_listens() -> None:
    board = Board()

    deaf = board.device.press_power_button()
    board.enable(pm.PWRBTN)

    assert (deaf, board.device.press_power_button()) == (False, True)


# SMI commands


def test_acpi_enable_and_disable_switch_sci_en() -> None:
    board = Board()

    board.smi.write(0, 1, pm.ACPI_ENABLE)
    enabled = board.read(CNT)
    board.smi.write(0, 1, pm.ACPI_DISABLE)

    assert (enabled, board.read(CNT)) == (pm.SCI_EN, 0)


def test_other_smi_commands_and_the_status_byte_are_only_stored() -> None:
    board = Board()

    board.smi.write(0, 2, 0xF142)

    stored = board.smi.read(0, 2)
    board.smi.reset()

    assert (stored, board.smi.read(0, 2)) == (0xF142, 0)
    assert board.read(CNT) == 0


# Sleep


def test_s5_powers_off() -> None:
    board = Board()

    board.write(CNT, S5)

    assert board.control.calls == [("power_off", 0)]


def test_the_high_byte_alone_can_start_the_sleep() -> None:
    board = Board()

    board.device.write(CNT + 1, 1, S3 >> 8)

    assert board.control.calls == [("suspend", 0)]


def test_sleep_type_without_sleep_enable_only_stores_it() -> None:
    board = Board()

    board.write(CNT, 1 << 10)

    assert (board.control.calls, board.read(CNT)) == ([], 1 << 10)


@pytest.mark.parametrize("sleep_type", [2, 3, 4, 5, 6, 7])
def test_unknown_sleep_types_are_ignored(sleep_type: int) -> None:
    board = Board()

    board.write(CNT, sleep_type << 10 | pm.SLP_EN)

    assert board.control.calls == []
    assert board.read(CNT) == sleep_type << 10  # SLP_EN reads as 0


def test_the_rtc_wakes_from_s3() -> None:
    # The steps of kvm-unit-tests' s3: RTC_EN, sleep with SCI_EN clear, alarm.
    board = Board()
    board.write(EN, pm.RTC)
    board.write(CNT, S3)

    board.device.rtc_wake()

    assert board.control.calls == [("suspend", 0), ("wake", 0)]
    assert board.read(STS) == pm.WAK_STS | pm.RTC


def test_a_wake_event_that_is_not_enabled_lets_it_sleep() -> None:
    board = Board()
    board.write(CNT, S3)

    board.device.rtc_wake()
    board.device.raise_gpe(1)

    assert board.control.calls == [("suspend", 0)]


def test_an_event_pending_before_s3_wakes_at_once() -> None:
    board = Board()
    board.write(EN, pm.RTC)
    board.device.rtc_wake()

    board.write(CNT, S3)

    assert board.control.calls == [("suspend", 0), ("wake", 0)]


def test_the_power_button_wakes_whatever_is_enabled() -> None:
    board = Board()
    board.write(CNT, S3)

    told = board.device.press_power_button()

    assert told
    assert board.control.calls == [("suspend", 0), ("wake", 0)]


def test_it_wakes_once() -> None:
    board = Board()
    board.write(EN, pm.RTC)
    board.write(CNT, S3)

    board.device.rtc_wake()
    board.device.rtc_wake()
    board.device.press_power_button()

    assert board.control.calls == [("suspend", 0), ("wake", 0)]


def test_it_falls_asleep_once() -> None:
    """Two processors may both write the register before the machine stands."""
    board = Board()

    board.write(CNT, S3)
    board.write(CNT, S3)

    assert board.control.calls == [("suspend", 0)]


def test_it_can_sleep_again_after_waking() -> None:
    board = Board()
    board.write(EN, pm.RTC)
    board.write(CNT, S3)
    board.device.rtc_wake()
    board.write(STS, 0xFFFF)

    board.write(CNT, S3)

    assert board.control.calls == [("suspend", 0), ("wake", 0), ("suspend", 0)]


def test_registers_survive_s3() -> None:
    board = Board()
    board.enable(pm.RTC)
    board.write(CNT, S3 | pm.SCI_EN)

    board.device.rtc_wake()

    assert board.read(CNT) == pm.SLEEP_TYPE_S3 << 10 | pm.SCI_EN
    assert board.read(EN) == pm.RTC
    assert board.sci.level


# PM timer


def test_the_timer_counts_at_3_579545_mhz() -> None:
    board = Board()

    board.clock.advance(SECOND_NS)

    assert board.device.read(TIMER, 4) == 3_579_545


def test_the_timer_wraps_at_24_bits() -> None:
    board = Board()

    board.clock.advance(2 * HALF_PERIOD_NS)  # 2^24 ticks

    assert board.device.read(TIMER, 4) == 0


def test_the_timer_is_readable_in_parts_and_not_writable() -> None:
    board = Board()
    board.clock.advance(SECOND_NS)

    board.device.write(TIMER, 4, 0)
    parts = [board.device.read(TIMER + offset, 1) for offset in range(4)]

    assert bytes(parts) == (3_579_545).to_bytes(4, "little")
    assert board.device.read(TIMER + 2, 2) == 3_579_545 >> 16


def test_carry_is_set_when_the_top_bit_changes_either_way() -> None:
    board = Board()
    seen = []

    for number in (1, 2, 3):
        board.clock.advance(carry_ns(number) - 1 - board.clock.now_ns())
        seen.append(board.read(STS))
        board.clock.advance(1)
        seen.append(board.read(STS))
        board.write(STS, pm.TMR)
        seen.append(board.read(STS))

    assert seen == [0, pm.TMR, 0] * 3


def test_carry_raises_the_sci_at_its_time_and_again_after_it_was_cleared() -> None:
    board = Board()
    board.enable(pm.TMR)
    levels = []

    for number in (1, 2, 3):
        board.clock.advance(carry_ns(number) - 1 - board.clock.now_ns())
        levels.append(board.sci.level)
        board.clock.advance(1)
        levels.append(board.sci.level)
        board.write(STS, pm.TMR)
        levels.append(board.sci.level)

    assert levels == [False, True, False] * 3


def test_no_timer_runs_for_an_event_nobody_wants() -> None:
    board = Board()

    board.clock.advance(10 * HALF_PERIOD_NS)
    board.write(STS, 0xFFFF)

    assert board.clock.arms == 0


def test_carry_does_not_wake() -> None:
    board = Board()
    board.enable(pm.TMR)
    board.write(CNT, S3 | pm.SCI_EN)

    board.clock.advance(3 * HALF_PERIOD_NS)

    assert board.control.calls == [("suspend", 0)]


# GPE0


def test_a_gpe_raises_the_sci_until_it_is_cleared() -> None:
    board = Board()
    board.enable(0)
    board.gpe0.write(2, 2, 1 << 9)

    board.device.raise_gpe(9)
    raised = board.sci.level, board.gpe0.read(0, 2)
    board.gpe0.write(1, 1, 1 << 1)

    assert raised == (True, 1 << 9)
    assert (board.sci.level, board.gpe0.read(0, 4)) == (False, 1 << 25)  # enabled still


def test_an_enabled_gpe_wakes() -> None:
    board = Board()
    board.gpe0.write(2, 1, 1 << 2)
    board.write(CNT, S3)

    board.device.raise_gpe(2)

    assert board.control.calls == [("suspend", 0), ("wake", 0)]


def test_a_gpe_number_out_of_range_is_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="0 to 15"):
        Board().device.raise_gpe(16)


# Sizes


def test_status_and_enable_can_be_reached_with_one_access() -> None:
    board = Board()
    board.device.press_power_button()

    board.device.write(STS, 4, pm.RTC << 16 | pm.PWRBTN)

    assert board.device.read(STS, 4) == pm.RTC << 16


def test_a_byte_write_leaves_the_other_byte() -> None:
    board = Board()
    board.write(EN, pm.PM1_ENABLE_BITS)

    board.device.write(EN, 1, 0)

    assert board.read(EN) == pm.PM1_ENABLE_BITS & 0xFF00


@given(ACCESSES)
def test_any_accesses_are_survived(accesses: list[tuple[int, int, int | None, int]]) -> None:
    board = Board()
    ports: list[tuple[Region, int]] = [(board.device, offset) for offset in range(pm.PM_PORT_COUNT)]
    ports += [(board.gpe0, 0), (board.gpe0, 3), (board.smi, 0), (board.smi, 1)]
    for access in accesses:
        board.clock.advance(access[3])
        carry_out(access, ports)
        board.device.rtc_wake()

    sleeps = [call for call, _ in board.control.calls if call in ("suspend", "wake")]
    assert sleeps == ["suspend", "wake"] * (len(sleeps) // 2) + ["suspend"] * (len(sleeps) % 2)
