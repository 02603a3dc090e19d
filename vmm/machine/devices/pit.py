# SPDX-License-Identifier: Apache-2.0
"""The PC's i8254 programmable interval timer, and port 0x61 where its second and third counter show.

| ports | what |
|---|---|
| 0x40, 0x41, 0x42 | counter 0 (interrupt 0), 1 (memory refresh), 2 (speaker) |
| 0x43 | control word, write-only |
| 0x61 | bit 0 GATE of counter 2, 1 speaker, 2-3 NMI masks (kept, without effect), 4 refresh, 5 OUT of counter 2 |

Sources: Intel 8254 data sheet; IBM PC/AT Technical Reference (port 0x61).
"""

from __future__ import annotations

import threading

from vmm.bus import PortBus
from vmm.machine.devices.byte_ports import BytePorts
from vmm.machine.devices.pit_counter import PitCounter
from vmm.outside import Clock, InterruptLine

PIT_PORT, PIT_PORT_COUNT = 0x40, 4
SYSTEM_CONTROL_B_PORT = 0x61
PIT_HZ = 1_193_182

MINIMUM_INTERRUPT_PERIOD_NS = 200_000
"""Interrupts come no oftener than this. A guest may ask for one every 1.7 us (count 2), which would keep the timer
thread from everything else; the kernel's PIT has the same limit (KVM's min_timer_period_us)."""

_CONTROL_OFFSET = 3
_READ_BACK = 3  # the "counter" of a read-back command
_READ_BACK_KEEP_COUNT, _READ_BACK_KEEP_STATUS = 0x20, 0x10  # active low: 0 latches
_B_GATE2, _B_WRITABLE, _B_REFRESH, _B_OUT2 = 0x01, 0x0F, 0x10, 0x20
_REFRESH_TICKS = 18  # 15 us, what a PC's firmware programs counter 1 to
_SECOND_NS = 1_000_000_000


class Pit(BytePorts):
    """The chip, ports 0x40 to 0x43. Thread-safe. `line` is interrupt 0 and follows OUT of counter 0."""

    name = "pit"

    def __init__(self, line: InterruptLine, clock: Clock) -> None:
        self._line = line
        self._clock = clock
        self._lock = threading.Lock()
        self._timer = clock.timer(self._on_timer)
        self._armed_ns: int | None = None
        self._fired_ns = -MINIMUM_INTERRUPT_PERIOD_NS
        self._line_level = False
        self._system_control_b = 0
        self._counters = _at_power_on()

    def attach(self, ports: PortBus) -> None:
        """Decode ports 0x40 to 0x43 and 0x61. Errors: `BusConflictError`."""
        ports.add(PIT_PORT, PIT_PORT_COUNT, self, self.name)
        ports.add(SYSTEM_CONTROL_B_PORT, 1, _SystemControlB(self), "system-control-b")

    def reset(self) -> None:
        """All counters wait for a count, OUT high, counter 2 stopped."""
        with self._lock:
            self._counters = _at_power_on()
            self._system_control_b = 0
            self._advance()
            self._drive(False)
            self._watch()

    def read_byte(self, offset: int) -> int:
        """A counter's byte (status, latched count or count); the control word cannot be read: 0xff."""
        if offset >= _CONTROL_OFFSET:
            return 0xFF
        with self._lock:
            self._advance()
            return self._counters[offset].read()

    def write_byte(self, offset: int, value: int) -> None:
        """A byte of a count, or a control word."""
        if offset >= PIT_PORT_COUNT:
            return
        with self._lock:
            self._advance()
            if offset < _CONTROL_OFFSET:
                self._counters[offset].write(value)
            elif value >> 6 == _READ_BACK:
                self._read_back(value)
            else:
                self._counters[value >> 6].program(value)
            self._drive(self._counters[0].out)
            self._watch()

    def _read_back(self, command: int) -> None:
        for index, counter in enumerate(self._counters):
            if command & 2 << index:
                if not command & _READ_BACK_KEEP_COUNT:
                    counter.latch_count()
                if not command & _READ_BACK_KEEP_STATUS:
                    counter.latch_status()

    def read_system_control_b(self) -> int:
        """Port 0x61."""
        with self._lock:
            self._advance()
            value = self._system_control_b
            value |= _B_OUT2 if self._counters[2].out else 0
            return value | (_B_REFRESH if self._counters[1].tick // _REFRESH_TICKS & 1 else 0)

    def write_system_control_b(self, value: int) -> None:
        """Port 0x61: bits 0 to 3 are stored, bit 0 is GATE of counter 2."""
        with self._lock:
            self._advance()
            self._system_control_b = value & _B_WRITABLE
            self._counters[2].set_gate(bool(value & _B_GATE2))

    # ---- lock held -----------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Bring the counters to now, and the line with counter 0."""
        tick = self._clock.now_ns() * PIT_HZ // _SECOND_NS
        rose, _, _ = [counter.advance(tick) for counter in self._counters]
        if rose:
            self._drive(False)
            self._drive(True)
        self._drive(self._counters[0].out)

    def _drive(self, level: bool) -> None:
        if level != self._line_level:
            self._line_level = level
            self._line.set_level(level)

    def _watch(self) -> None:
        """Arm the timer for the next edge of counter 0, not sooner than the minimum period allows."""
        edge = self._counters[0].next_edge()
        if edge is None:
            self._armed_ns = None
            self._timer.cancel()
            return
        edge_ns = -(-edge * _SECOND_NS // PIT_HZ)  # rounded up: at that time the tick is over
        deadline_ns = max(edge_ns, self._fired_ns + MINIMUM_INTERRUPT_PERIOD_NS)
        if deadline_ns != self._armed_ns:
            self._armed_ns = deadline_ns
            self._timer.arm(deadline_ns)

    def _on_timer(self) -> None:
        with self._lock:
            self._armed_ns = None
            self._fired_ns = self._clock.now_ns()
            self._advance()
            self._watch()


class _SystemControlB(BytePorts):
    def __init__(self, pit: Pit) -> None:
        self._pit = pit

    def read_byte(self, offset: int) -> int:
        return self._pit.read_system_control_b() if offset == 0 else 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        if offset == 0:
            self._pit.write_system_control_b(value)


def _at_power_on() -> tuple[PitCounter, PitCounter, PitCounter]:
    return PitCounter(gate=True), PitCounter(gate=True), PitCounter(gate=False)
