# SPDX-License-Identifier: Apache-2.0
"""MC146818A real-time clock and the PC's CMOS memory.

Source: Motorola MC146818A data sheet (register and bit names are its own); CMOS bytes as a PC's BIOS fills
them. The time is the host's wall clock plus an offset that a guest changes by setting the time. Nothing runs
while nobody waits for an interrupt: flags are worked out from the time that passed when they are looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from vmm.machine.devices.byte_ports import BytePorts
from vmm.machine.devices.rtc_time import (
    ALARM_REGISTERS,
    TIME_REGISTERS,
    Format,
    next_alarm,
    registers_at,
    seconds_from,
)
from vmm.outside import Clock, InterruptLine

RTC_PORT = 0x70
RTC_PORT_COUNT = 2
RTC_IRQ = 8
CMOS_BYTES = 128

REG_A, REG_B, REG_C, REG_D = 10, 11, 12, 13
A_UIP, A_DIVIDER_RESET, A_RATE = 0x80, 0x60, 0x0F
B_SET, B_PIE, B_AIE, B_UIE, B_SQWE, B_DM, B_24 = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
C_IRQF, C_PF, C_AF, C_UF = 0x80, 0x40, 0x20, 0x10
D_VRT = 0x80

A_AT_POST = 0x26  # 32.768 kHz time base, 1024 Hz
B_AT_POST = B_24

UPDATE_NS = 244_000 + 1_984_000
"""UIP is set this long before the time changes: 244 us of warning and the update cycle (32.768 kHz base)."""

WALL_CLOCK_CHECK_NS = 10 * 1_000_000_000
"""Longest wait for an alarm before looking again: the host's wall clock may be set while we wait."""

CMOS_SHUTDOWN = 0x0F
CMOS_EQUIPMENT = 0x14
CMOS_BASE_MEMORY = 0x15
CMOS_EXTENDED_MEMORY = (0x17, 0x30)
CMOS_MEMORY_ABOVE_16M = 0x34
CMOS_MEMORY_ABOVE_4G = 0x5B
CMOS_CHECKSUM = 0x2E  # of 0x10..0x2d, high byte first

_SECOND_NS = 1_000_000_000
_TIME_BASE_HZ = 32768
_DIVIDER_RELEASE_NS = 500_000_000  # first update after the divider chain is released
_NMI_MASK = 0x80
_KIB, _MIB = 1 << 10, 1 << 20
_BASE_MEMORY_KIB = 640
_EQUIPMENT_FPU = 0x02


class Rtc(BytePorts):
    """Port 0x70 (index, bit 7 masks NMI, write-only) and port 0x71 (the indexed byte).

    The line is high while IRQF is set. `on_alarm` is called, with no lock held, whenever the alarm interrupt
    (AF with AIE) rises: that wakes a machine from S3 (`AcpiPm.rtc_wake`).
    """

    name = "rtc"

    def __init__(
        self,
        line: InterruptLine,
        clock: Clock,
        low_ram_bytes: int,
        high_ram_bytes: int,
        on_alarm: Callable[[], None],
    ) -> None:
        """low_ram_bytes: RAM below 4 GiB, counted from 0; high_ram_bytes: RAM from 4 GiB on."""
        self._line = line
        self._clock = clock
        self._on_alarm = on_alarm
        self._lock = threading.Lock()
        self._timer = clock.timer(self._on_timer)
        self._cmos = _cmos_at_delivery(low_ram_bytes, high_ram_bytes)
        self._index = 0
        self.nmi_masked = False
        self._offset_ns = 0  # this clock less the host's wall clock
        self._running = True
        self._divider_was_held = False
        self._flags = 0
        self._line_level = self._alarm_raised = False
        self._last_second = self._now_ns() // _SECOND_NS  # up to here the flags know what happened
        self._last_period = 0

    def reset(self) -> None:
        """RESET pin and what firmware's self test does: no interrupts, usual rate, 24 h BCD, clock running.

        Time, alarm and CMOS bytes (the shutdown byte among them) survive: a battery keeps them.
        """
        with self._lock:
            self._write_control(REG_A, A_AT_POST)
            self._write_control(REG_B, B_AT_POST)
            self._flags = 0
            self._index = 0
            self.nmi_masked = False
            self._update()

    def read_byte(self, offset: int) -> int:
        """Port 0x71: the indexed byte. Port 0x70 gives 0xff."""
        if offset != 1:
            return 0xFF
        index = self._index
        alarm = False
        with self._lock:
            if index in TIME_REGISTERS and self._running:
                return registers_at(self._now_ns() // _SECOND_NS, self._format())[index]
            value = self._cmos[index]
            if index == REG_A:
                updating = self._now_ns() % _SECOND_NS >= _SECOND_NS - UPDATE_NS
                value |= A_UIP if self._running and updating else 0
            elif index == REG_C:
                self._catch_up()
                value = self._flags | (C_IRQF if self._flags & self._cmos[REG_B] else 0)
                self._flags = 0
                alarm = self._update()
        if alarm:
            self._on_alarm()
        return value

    def write_byte(self, offset: int, value: int) -> None:
        """Port 0x70 selects a byte, port 0x71 stores it. Registers C and D are read-only."""
        if offset == 0:
            self._index = value & ~_NMI_MASK
            self.nmi_masked = bool(value & _NMI_MASK)
        elif offset == 1 and self._index not in (REG_C, REG_D):
            with self._lock:
                alarm = self._store(self._index, value)
            if alarm:
                self._on_alarm()

    def _store(self, index: int, value: int) -> bool:
        if index in (REG_A, REG_B):
            self._write_control(index, value)
        elif index in ALARM_REGISTERS:
            self._catch_up()  # with the old alarm
            self._cmos[index] = value
        elif index in TIME_REGISTERS and self._running:
            self._catch_up()
            now_ns = self._freeze_registers()
            self._cmos[index] = value
            self._set_time(now_ns % _SECOND_NS)
        else:
            self._cmos[index] = value
            return False
        return self._update()

    # ---- state, lock held ----------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return self._clock.wall_time_ns() + self._offset_ns

    def _format(self) -> Format:
        control = self._cmos[REG_B]
        return Format(binary=bool(control & B_DM), hours_24=bool(control & B_24))

    def _freeze_registers(self) -> int:
        """Put the current time into the register bytes; returns it, in nanoseconds."""
        now_ns = self._now_ns()
        for index, byte in registers_at(now_ns // _SECOND_NS, self._format()).items():
            self._cmos[index] = byte
        return now_ns

    def _set_time(self, phase_ns: int) -> None:
        """Let the time go on from the register bytes, `phase_ns` into that second."""
        self._last_second = seconds_from(self._cmos, self._format())
        self._offset_ns = self._last_second * _SECOND_NS + phase_ns - self._clock.wall_time_ns()

    def _write_control(self, index: int, value: int) -> None:
        """Write register A or B. SET and a held divider chain stop the clock; the time then stands still."""
        self._catch_up()
        if index == REG_B and value & B_SET:
            value &= ~B_UIE  # SET clears it
        control_a = value & ~A_UIP if index == REG_A else self._cmos[REG_A]
        control_b = value if index == REG_B else self._cmos[REG_B]
        held = control_a & A_DIVIDER_RESET == A_DIVIDER_RESET
        runs = not (held or control_b & B_SET)
        if self._running and not runs:
            self._freeze_registers()  # in the format so far
        self._cmos[REG_A], self._cmos[REG_B] = control_a, control_b
        self._divider_was_held = self._divider_was_held or held
        if runs and not self._running:
            # SET leaves the divider chain running, so the second goes on where it is.
            phase_ns = _DIVIDER_RELEASE_NS if self._divider_was_held else self._now_ns() % _SECOND_NS
            self._divider_was_held = False
            self._set_time(phase_ns)
        self._running = runs
        self._last_period = self._ticks() // (self._period_ticks() or 1)

    def _ticks(self) -> int:
        """Time base of the periodic interrupt: guest time, since the wall clock may jump."""
        return self._clock.now_ns() * _TIME_BASE_HZ // _SECOND_NS

    def _period_ticks(self) -> int:
        """Period of register A's rate in time base ticks; 0 when off (data sheet table 5)."""
        rate = self._cmos[REG_A] & A_RATE
        if rate == 0 or self._cmos[REG_A] & A_DIVIDER_RESET == A_DIVIDER_RESET:
            return 0
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _catch_up(self) -> None:
        """Set the flags for what happened since the last look."""
        if self._running:
            second = self._now_ns() // _SECOND_NS
            if second > self._last_second:
                self._flags |= C_UF
                alarm = next_alarm(self._last_second, self._cmos, self._format())
                if alarm is not None and alarm <= second:
                    self._flags |= C_AF
            self._last_second = second  # may be earlier: the host's clock was set back
        period_ticks = self._period_ticks()
        if period_ticks:
            period = self._ticks() // period_ticks
            if period > self._last_period:
                self._flags |= C_PF
            self._last_period = period

    def _update(self) -> bool:
        """Drive the line, arm the timer for the next interrupt. True when the alarm interrupt rose."""
        raised = self._flags & self._cmos[REG_B] & (C_PF | C_AF | C_UF)
        if bool(raised) != self._line_level:
            self._line_level = bool(raised)
            self._line.set_level(self._line_level)
        rose = bool(raised & C_AF) and not self._alarm_raised
        self._alarm_raised = bool(raised & C_AF)
        wait_ns = self._wait_ns()
        if wait_ns is None:
            self._timer.cancel()
        else:
            self._timer.arm(self._clock.now_ns() + wait_ns)
        return rose

    def _wait_ns(self) -> int | None:
        """Nanoseconds to the next event whose interrupt is enabled and whose flag is still clear."""
        waited_for = self._cmos[REG_B] & ~self._flags
        waits = []
        if self._running and waited_for & (B_UIE | B_AIE):
            second = self._last_second + 1 if waited_for & B_UIE else None
            if waited_for & B_AIE:
                alarm = next_alarm(self._last_second, self._cmos, self._format())
                second = min((time for time in (second, alarm) if time is not None), default=None)
            if second is not None:
                waits.append(min(second * _SECOND_NS - self._now_ns(), WALL_CLOCK_CHECK_NS))
        period_ticks = self._period_ticks()
        if waited_for & B_PIE and period_ticks:
            due_ns = -(-(self._last_period + 1) * period_ticks * _SECOND_NS // _TIME_BASE_HZ)  # rounded up
            waits.append(due_ns - self._clock.now_ns())
        return min(waits, default=None)

    def _on_timer(self) -> None:
        with self._lock:
            self._catch_up()
            alarm = self._update()
        if alarm:
            self._on_alarm()


def _cmos_at_delivery(low_ram_bytes: int, high_ram_bytes: int) -> bytearray:
    """The bytes that a BIOS has found out about the machine."""
    cmos = bytearray(CMOS_BYTES)

    def put(index: int, size: int, value: int) -> None:
        cmos[index : index + size] = min(value, (1 << (8 * size)) - 1).to_bytes(size, "little")

    put(REG_A, 1, A_AT_POST)
    put(REG_B, 1, B_AT_POST)
    put(REG_D, 1, D_VRT)
    put(CMOS_EQUIPMENT, 1, _EQUIPMENT_FPU)
    put(CMOS_BASE_MEMORY, 2, _BASE_MEMORY_KIB)
    for index in CMOS_EXTENDED_MEMORY:
        put(index, 2, max(low_ram_bytes - _MIB, 0) // _KIB)
    put(CMOS_MEMORY_ABOVE_16M, 2, max(low_ram_bytes - 16 * _MIB, 0) // (64 * _KIB))
    put(CMOS_MEMORY_ABOVE_4G, 3, high_ram_bytes // (64 * _KIB))
    cmos[CMOS_CHECKSUM : CMOS_CHECKSUM + 2] = sum(cmos[0x10:CMOS_CHECKSUM]).to_bytes(2, "big")
    return cmos
