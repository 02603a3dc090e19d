# SPDX-License-Identifier: Apache-2.0
"""One 8259A programmable interrupt controller, without its surroundings (`i8259` wires two of them up).

Source: Intel 8259A data sheet, whose names are used; edge/level register and latched edges as in Intel's
chip sets (ICH: "edge/level triggered control registers", which replace ICW1's LTIM). MCS-80/85 mode and buffered
mode exist on no PC: the bits are taken and change nothing.
"""

from __future__ import annotations

INPUTS = 8
SPURIOUS_LEVEL = 7

ICW1_MARKER, ICW1_SINGLE, ICW1_IC4 = 0x10, 0x02, 0x01
ICW4_SPECIAL_FULLY_NESTED, ICW4_AUTO_EOI = 0x10, 0x02
OCW2_ROTATE, OCW2_SPECIFIC, OCW2_EOI = 0x80, 0x40, 0x20
OCW3_MARKER = 0x08
OCW3_ENABLE_SPECIAL_MASK, OCW3_SPECIAL_MASK = 0x40, 0x20
OCW3_POLL, OCW3_READ_REGISTER, OCW3_READ_ISR = 0x04, 0x02, 0x01

POLL_REQUEST = 0x80
_VECTOR_BASE = 0xF8


class I8259:
    """Registers and priority resolver. Not thread-safe: its owner holds a lock.

    `slave_inputs` are the inputs with another 8259A behind them (ICW3's meaning on a master; wired, not programmed).
    `polled`: the next read is the answer to a poll command.
    """

    def __init__(self, slave_inputs: int) -> None:
        self.isr = self.imr = 0
        self.elcr = 0  # bit n: input n is level-triggered
        self._inputs = 0  # levels as driven from outside; they outlive every reset
        self._edges = 0  # edges seen and not yet acknowledged
        self._slave_inputs = slave_inputs
        self._lowest = SPURIOUS_LEVEL  # the level with the lowest priority
        self._vector_base = 0
        self._next_icw = 2  # 0: initialised; before that no request goes out
        self._single = self._icw4_follows = False
        self._auto_eoi = self._rotate_in_auto_eoi = False
        self._special_mask = self._special_fully_nested = False
        self._read_isr = self.polled = False

    def power_on(self) -> None:
        """The state before the first ICW1: mute. The inputs keep their levels."""
        self._initialise(0)
        self.elcr = 0

    @property
    def irr(self) -> int:
        """Interrupt request register."""
        return self._edges & ~self.elcr | self._inputs & self.elcr

    # ---- inputs --------------------------------------------------------------------------------------

    def set_input(self, level: int, high: bool) -> None:
        """Drive input `level` (0..7). In edge mode a rise stays latched until it is acknowledged."""
        bit = 1 << level
        if not high:
            self._inputs &= ~bit
        elif not self._inputs & bit:
            self._inputs |= bit
            self._edges |= bit

    def withdraw(self, level: int) -> None:
        """Drive input `level` low and forget its edge: a slave has nothing to say any more."""
        self._inputs &= ~(1 << level)
        self._edges &= ~(1 << level)

    def set_elcr(self, value: int) -> None:
        """Choose which inputs are level-triggered. One that becomes edge-triggered waits for a new edge."""
        self._edges &= ~(self.elcr | value)
        self.elcr = value

    # ---- requests and their acknowledgement ----------------------------------------------------------

    def request(self) -> int | None:
        """The level whose request drives INT, None while INT is low."""
        pending = self.irr & ~self.imr
        if not pending or self._next_icw:
            return None
        level = self._first(pending)
        blocking = self.isr
        if self._special_mask:
            blocking &= ~self.imr
        if not blocking:
            return level
        served = self._first(blocking)
        if served == level and self._special_fully_nested and self._slave_inputs >> level & 1:
            return level  # the slave has one of higher priority than what is in service
        return level if self._rank(level) < self._rank(served) else None

    def acknowledge(self, level: int) -> None:
        """INTA for what `request` gave: its IS bit is set (unless in AEOI mode), its edge is used up."""
        bit = 1 << level
        self._edges &= ~bit
        if not self._auto_eoi:
            self.isr |= bit
        elif self._rotate_in_auto_eoi:
            self._lowest = level

    def vector(self, level: int) -> int:
        """The byte put on the bus for `level`."""
        return self._vector_base | level

    def _rank(self, level: int) -> int:
        """0 for the highest priority."""
        return (level - self._lowest - 1) & (INPUTS - 1)

    def _first(self, bits: int) -> int:
        """The level with the highest priority in `bits`, which is not 0."""
        return min((level for level in range(INPUTS) if bits >> level & 1), key=self._rank)

    # ---- registers -----------------------------------------------------------------------------------

    def read(self, a0: int) -> int:
        """A0 = 0: IRR or ISR as OCW3 chose; A0 = 1: IMR. After a poll command, either gives the poll byte."""
        if self.polled:
            self.polled = False
            level = self.request()
            if level is None:
                return SPURIOUS_LEVEL
            self.acknowledge(level)
            return POLL_REQUEST | level
        if a0:
            return self.imr
        return self.isr if self._read_isr else self.irr

    def write(self, a0: int, value: int) -> None:
        """A0 = 0: ICW1, OCW2 or OCW3; A0 = 1: the next ICW, or OCW1."""
        if not a0:
            if value & ICW1_MARKER:
                self._initialise(value)
            elif value & OCW3_MARKER:
                self._ocw3(value)
            else:
                self._ocw2(value)
        elif self._next_icw == 0:
            self.imr = value
        else:
            self._icw(value)

    def _initialise(self, icw1: int) -> None:
        # ICW1 resets the edge sense: an input that is high already makes no request until it rises again.
        self._edges = self.isr = self.imr = 0
        self._lowest = SPURIOUS_LEVEL
        self._next_icw = 2
        self._single = bool(icw1 & ICW1_SINGLE)
        self._icw4_follows = bool(icw1 & ICW1_IC4)
        self._auto_eoi = self._rotate_in_auto_eoi = False
        self._special_mask = self._special_fully_nested = False
        self._read_isr = self.polled = False

    def _icw(self, value: int) -> None:
        if self._next_icw == 2:
            self._vector_base = value & _VECTOR_BASE
            self._next_icw = 3
            if not self._single:
                return
        elif self._next_icw == 4:
            self._special_fully_nested = bool(value & ICW4_SPECIAL_FULLY_NESTED)
            self._auto_eoi = bool(value & ICW4_AUTO_EOI)
            self._next_icw = 0
            return
        self._next_icw = 4 if self._icw4_follows else 0

    def _ocw2(self, value: int) -> None:
        level = value & 7
        if not value & OCW2_EOI:
            if value & OCW2_SPECIFIC:
                if value & OCW2_ROTATE:
                    self._lowest = level  # set priority
            else:
                self._rotate_in_auto_eoi = bool(value & OCW2_ROTATE)
            return
        if not value & OCW2_SPECIFIC:
            # In special mask mode a masked IS bit is out of reach of a non-specific EOI.
            served = self.isr & ~self.imr if self._special_mask else self.isr
            if not served:
                return
            level = self._first(served)
        self.isr &= ~(1 << level)
        if value & OCW2_ROTATE:
            self._lowest = level

    def _ocw3(self, value: int) -> None:
        self.polled = bool(value & OCW3_POLL)
        if value & OCW3_READ_REGISTER:
            self._read_isr = bool(value & OCW3_READ_ISR)
        if value & OCW3_ENABLE_SPECIAL_MASK:
            self._special_mask = bool(value & OCW3_SPECIAL_MASK)
