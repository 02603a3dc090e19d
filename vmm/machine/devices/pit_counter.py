# SPDX-License-Identifier: Apache-2.0
"""One counter of an i8254: modes 0 to 5, computed from the time that passed.

Source: Intel 8254 data sheet, whose names are used (CR: count register, CE: counting element). Nothing ticks: a
counter knows when its CE was loaded and with what, and works out CE and OUT for the tick it is asked about.
Ticks are CLK pulses since an arbitrary start. Undefined by the data sheet, so chosen here: a count of 1 in modes
2 and 3 acts as 2, BCD digits above 9 carry into the next one.
"""

from __future__ import annotations

BINARY_MODULUS, BCD_MODULUS = 0x10000, 10000
ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_LOW_HIGH = range(4)
STATUS_OUT, STATUS_NULL_COUNT = 0x80, 0x40

_PERIODIC = (2, 3)
_TRIGGERED = (1, 5)  # started by GATE, which does not stop them
_SMALLEST_PERIOD = 2


class PitCounter:
    """Not thread-safe. `advance` before anything else moves it to the current tick; the rest happens at that tick."""

    def __init__(self, gate: bool) -> None:
        self.tick = 0
        self.gate = gate
        self._control(0x36)

    def _control(self, control_word: int) -> None:
        self._programmed = control_word & 0x3F  # as written: the status byte gives it back
        self.mode = control_word >> 1 & 7
        if self.mode > 5:
            self.mode -= 4  # M2 is "don't care" in modes 2 and 3
        self._bcd = bool(control_word & 1)
        self._access = control_word >> 4 & 3
        self._low_byte: int | None = None  # written, its high byte still to come
        self._high_next = False  # the next read gives the high byte
        self._latched: list[int] = []  # bytes of a latched count, in reading order
        self._latched_status: int | None = None
        self._count_register = 0
        self._null_count = True  # CR has something that CE has not
        self._idle_value = 0  # what CE shows before it is loaded
        # CE was loaded with `_loaded` at elapsed 0; `_elapsed` CLK pulses were counted at `_since`. -1: it is loaded
        # by the next CLK pulse. None: nothing was loaded yet.
        self._loaded = 0
        self._elapsed: int | None = None
        self._since = self.tick
        self._high_at_load = True  # mode 3: the half cycle that began at elapsed 0
        self._out_at_trigger = True  # mode 1: OUT until CE is loaded
        self._reload_tick: int | None = None  # modes 2, 3: when a new count takes effect

    # ---- time ----------------------------------------------------------------------------------------

    def advance(self, tick: int) -> bool:
        """Go on to `tick`, not earlier than the last one. True when OUT rose in between (ends inclusive)."""
        rose = False
        if self._reload_tick is not None and self._reload_tick <= tick:
            rise = self.next_rise()
            rose = rise is not None and rise <= self._reload_tick
            self._reload(self._reload_tick)
        rise = self.next_rise()
        rose = rose or (rise is not None and rise <= tick)
        self.tick = tick
        return rose

    def _reload(self, tick: int) -> None:
        """The cycle ends at `tick`, and the next one uses the new count."""
        self.tick = tick
        self._high_at_load = self._out_at(tick) if self.mode == 3 else True
        self._load(0)

    def _load(self, elapsed: int) -> None:
        self._loaded = self._count_register
        self._elapsed, self._since = elapsed, self.tick
        self._null_count = False
        self._reload_tick = None

    def _counting(self) -> bool:
        return self.gate or self.mode in _TRIGGERED

    def _elapsed_at(self, tick: int) -> int | None:
        if self._elapsed is None:
            return None
        elapsed = self._elapsed + tick - self._since
        if self._counting():
            return elapsed
        # GATE does not keep CE from being loaded.
        return self._elapsed if self._elapsed >= 0 else min(elapsed, 0)

    # ---- OUT -----------------------------------------------------------------------------------------

    @property
    def out(self) -> bool:
        """The OUT pin."""
        return self._out_at(self.tick)

    def _out_at(self, tick: int) -> bool:
        elapsed = self._elapsed_at(tick)
        count = self._loaded
        if self.mode in _PERIODIC and not self.gate:
            return True
        if elapsed is None:
            return self.mode != 0
        if elapsed < 0:
            return self._out_at_trigger if self.mode == 1 else self.mode != 0
        match self.mode:
            case 0:
                return elapsed >= count
            case 1:
                return elapsed >= count
            case 2:
                return elapsed % count != count - 1
            case 3:
                return self._half_cycle(elapsed)[0]
            case _:
                return elapsed != count

    def _half_cycle(self, elapsed: int) -> tuple[bool, int, int]:
        """Mode 3 at `elapsed` >= 0: OUT, CLK pulses since the half cycle began, and until it ends."""
        high, low = self._loaded - self._loaded // 2, self._loaded // 2
        first = high if self._high_at_load else low
        position = elapsed % self._loaded
        if position < first:
            return self._high_at_load, position, first - position
        return not self._high_at_load, position - first, self._loaded - position

    def next_rise(self) -> int | None:
        """The first tick after this one at which OUT rises, if nothing is written; None if it does not."""
        elapsed = self._elapsed_at(self.tick)
        if elapsed is None or not self._counting():
            return None
        count = self._loaded
        match self.mode:
            case 0 | 1:
                pulses = count - elapsed
            case 2:
                pulses = count - elapsed % count if elapsed >= 0 else count - elapsed
            case 3 if elapsed < 0:
                pulses = count - elapsed
            case 3:
                high, _, to_end = self._half_cycle(elapsed)
                pulses = to_end + count // 2 if high else to_end
            case _:
                pulses = count + 1 - elapsed
        return self.tick + pulses if pulses > 0 else None

    def next_edge(self) -> int | None:
        """The first tick after this one at which whoever watches OUT must look: the next rise, in mode 3 the next edge.

        (In modes 2, 4 and 5 OUT is low for one CLK pulse, which nobody sees who looks at its end.)
        """
        elapsed = self._elapsed_at(self.tick)
        if self.mode != 3 or elapsed is None or not self.gate:
            return self.next_rise()
        to_load = max(-elapsed, 0)
        return self.tick + to_load + self._half_cycle(elapsed + to_load)[2]

    # ---- GATE ----------------------------------------------------------------------------------------

    def set_gate(self, gate: bool) -> None:
        """Drive GATE: a level in modes 0 and 4, a trigger in 1 and 5, both in 2 and 3."""
        if gate == self.gate:
            return
        elapsed = self._elapsed_at(self.tick)
        trigger = gate and self.mode in (*_TRIGGERED, *_PERIODIC) and self._count_register
        if trigger:
            self._out_at_trigger = self.out
            self._idle_value = self._value()
            self._high_at_load = True
        self.gate = gate
        if trigger:
            self._load(-1)
        elif self.mode not in _TRIGGERED:
            self._elapsed, self._since = elapsed, self.tick
            self._reload_tick = None  # a stopped cycle has no end; the trigger loads CR

    # ---- registers -----------------------------------------------------------------------------------

    def program(self, control_word: int) -> None:
        """A control word for this counter, counter latch command included."""
        if control_word >> 4 & 3 == ACCESS_LATCH:
            self.latch_count()
        else:
            value = self._value()
            self._control(control_word)
            self._idle_value = value

    def write(self, byte: int) -> None:
        """A byte of a new count."""
        if self._access == ACCESS_LOW:
            self._write_count(byte)
        elif self._access == ACCESS_HIGH:
            self._write_count(byte << 8)
        elif self._low_byte is None:
            self._low_byte = byte
            if self.mode == 0:  # stops counting, OUT goes low
                self._idle_value = self._value()
                self._elapsed = None
        else:
            value, self._low_byte = byte << 8 | self._low_byte, None
            self._write_count(value)

    def _write_count(self, value: int) -> None:
        count = _from_bcd(value) or BCD_MODULUS if self._bcd else value or BINARY_MODULUS
        if self.mode in _PERIODIC:
            count = max(count, _SMALLEST_PERIOD)
        self._count_register = count
        self._null_count = True
        elapsed = self._elapsed_at(self.tick)
        if self.mode in _TRIGGERED:
            return
        if self.mode in _PERIODIC and elapsed is not None and elapsed >= 0:
            if self.gate:
                _, _, to_half = self._half_cycle(elapsed)
                to_end = to_half if self.mode == 3 else self._loaded - elapsed % self._loaded
                self._reload_tick = self.tick + to_end
            return
        if elapsed is not None:
            self._idle_value = self._value()
        self._load(-1)

    def _null(self) -> bool:
        elapsed = self._elapsed_at(self.tick)
        return self._null_count or elapsed is None or elapsed < 0

    def _value(self) -> int:
        """CE as it is read, 16 bits."""
        elapsed = self._elapsed_at(self.tick)
        if elapsed is None or elapsed < 0:
            return self._idle_value
        modulus = BCD_MODULUS if self._bcd else BINARY_MODULUS
        if self.mode == 2:
            value = self._loaded - elapsed % self._loaded
        elif self.mode == 3:
            # By two from an even number; the high half of an odd count has one pulse more, at 0.
            value = (self._loaded & ~1) - 2 * self._half_cycle(elapsed)[1]
        else:
            value = self._loaded - elapsed
        value %= modulus
        return _to_bcd(value) if self._bcd else value

    def latch_count(self) -> None:
        """Hold CE until it is read. A count that is latched already stays."""
        if not self._latched:
            value = self._value()
            low, high = value & 0xFF, value >> 8
            self._latched = {ACCESS_LOW: [low], ACCESS_HIGH: [high]}.get(self._access, [low, high])

    def latch_status(self) -> None:
        """Hold the status byte until it is read. One that is latched already stays."""
        if self._latched_status is None:
            self._latched_status = (
                self._programmed
                | (STATUS_OUT if self.out else 0)
                | (STATUS_NULL_COUNT if self._null() else 0)
            )

    def read(self) -> int:
        """The latched status, else the next byte of the latched count, else of CE."""
        if self._latched_status is not None:
            status, self._latched_status = self._latched_status, None
            return status
        if self._latched:
            return self._latched.pop(0)
        value = self._value()
        if self._access == ACCESS_LOW_HIGH:
            self._high_next = not self._high_next
            return value & 0xFF if self._high_next else value >> 8
        return value >> 8 if self._access == ACCESS_HIGH else value & 0xFF


def _from_bcd(value: int) -> int:
    digits = (value >> shift & 0xF for shift in (12, 8, 4, 0))
    number = 0
    for digit in digits:
        number = number * 10 + digit
    return number % BCD_MODULUS


def _to_bcd(value: int) -> int:
    return value // 1000 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10
