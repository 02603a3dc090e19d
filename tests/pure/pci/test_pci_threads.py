# SPDX-License-Identifier: Apache-2.0
"""Several VP threads use the bus and its device at once: no lock is held the wrong way round, nothing is lost."""

import threading
from collections.abc import Callable

from tests.pure.pci.pci_board import MEMORY_WINDOW, SLOT, PciBoard
from vmm.machine.devices.pci_testdev import IoEventFd, PciTestdev
from vmm.machine.pci.windows import IO_WINDOW

ROUNDS = 300
JOIN_TIMEOUT_S = 30
DEVFN = SLOT << 3
MEMORY, IO = MEMORY_WINDOW[0], IO_WINDOW[0]


class CountingHost:
    """Ioeventfds of which only the number that is armed matters."""

    def __init__(self) -> None:
        self.armed = 0

    def add_ioeventfd(self, port: bool, address: int, size: int, datamatch: int | None) -> IoEventFd:
        self.armed += 1
        return self

    def drain(self) -> int:
        return 0

    def remove(self) -> None:
        self.armed -= 1


def test_bars_move_while_the_device_and_its_pin_are_used() -> None:
    board = PciBoard()
    host = CountingHost()
    device = PciTestdev(host)
    board.bus.add_function(SLOT, device.function)
    other = board.add(slot=4, pin=1)
    board.bus.reset()

    def move(round_number: int) -> None:
        board.bus.config_write(DEVFN, 0x10, 4, MEMORY + (round_number & 1) * 0x100000)

    def switch(round_number: int) -> None:
        board.bus.config_write(DEVFN, 0x04, 2, round_number & 3)

    def use(round_number: int) -> None:
        board.mmio.write(MEMORY, 1, round_number % 3)
        board.ports.write(IO, 1, round_number % 3)
        board.mmio.read(MEMORY, 4)

    def interrupt(round_number: int) -> None:
        other.set_interrupt(bool(round_number & 1))
        board.bus.config_write(4 << 3, 0x04, 2, (round_number & 1) << 10)

    def repeat(work: Callable[[int], None]) -> None:
        for round_number in range(ROUNDS):
            work(round_number)
        finished.append(work)

    finished: list[Callable[[int], None]] = []
    works = [move, switch, use, interrupt]
    threads = [threading.Thread(target=repeat, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_TIMEOUT_S)
    board.bus.reset()
    device.reset()

    assert len(finished) == len(works)
    assert host.armed == 0
    assert (board.read(0x10, 4), board.read(0x14, 4)) == (MEMORY, IO | 1)
    assert not any(line.level for line in board.lines.values())
