# SPDX-License-Identifier: Apache-2.0
"""INTx: many pins on few interrupt lines, each line high while any pin on it is asserted."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from vmm.machine.pci.function import PciFunction
from vmm.machine.pci.routing import LINK_IRQS, irq_of
from vmm.outside import InterruptLine


class IntxRouter:
    """Drives the board's lines from the functions' pins. Thread-safe.

    Its lock is taken after a device's or the bus's and never held while calling either.
    """

    def __init__(self, lines: Mapping[int, InterruptLine]) -> None:
        """`lines`: an interrupt line for every number in `routing.LINK_IRQS`. Errors: `ValueError`."""
        missing = set(LINK_IRQS) - lines.keys()
        if missing:
            raise ValueError(
                f"PCI interrupts need lines {sorted(set(LINK_IRQS))}, {sorted(missing)} are missing"
            )
        self._lines = {irq: lines[irq] for irq in LINK_IRQS}
        self._asserted: dict[int, set[PciFunction]] = {irq: set() for irq in LINK_IRQS}
        self._functions: list[PciFunction] = []
        self._lock = threading.Lock()

    def connect(self, slot: int, function: PciFunction) -> None:
        """Wire the pin of `function`, if it has one, to the line of its slot."""
        irq = irq_of(slot, function.interrupt_pin - 1)

        def set_pin(level: bool) -> None:
            with self._lock:
                function.interrupt_asserted = level
                self._drive(irq, function)

        if function.interrupt_pin:
            self._functions.append(function)
            function.connect(set_pin)

    def command_changed(self, slot: int, function: PciFunction) -> None:
        """INTERRUPT_DISABLE may have changed: let the line follow."""
        if function.interrupt_pin:
            with self._lock:
                self._drive(irq_of(slot, function.interrupt_pin - 1), function)

    def reset(self) -> None:
        """All pins released, all lines low."""
        with self._lock:
            for function in self._functions:
                function.interrupt_asserted = False
            for irq, asserted in self._asserted.items():
                asserted.clear()
                self._lines[irq].set_level(False)

    def _drive(self, irq: int, function: PciFunction) -> None:
        asserted = self._asserted[irq]
        was_high = bool(asserted)
        if function.interrupt_asserted and function.interrupt_enabled:
            asserted.add(function)
        else:
            asserted.discard(function)
        if bool(asserted) != was_high:
            self._lines[irq].set_level(bool(asserted))
