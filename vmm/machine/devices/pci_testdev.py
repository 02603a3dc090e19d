# SPDX-License-Identifier: Apache-2.0
"""pci-testdev (1b36:0005): what a write to an emulated device costs, by exit and by ioeventfd.

BAR 0 (memory, 4 KiB) and BAR 1 (I/O, 256 bytes) start with the same header, little-endian (QEMU's
docs/specs/pci-testdev.rst):

| offset | size | name | |
|---|---|---|---|
| 0 | 1 | test | write-only: starts that test of this BAR |
| 1 | 1 | width | bytes of a write of the test, 0: there is no such test |
| 4 | 4 | offset | where in this BAR the test writes |
| 8 | 4 | data | what it writes |
| 12 | 4 | count | writes seen since the start |
| 16 | | name | NUL-terminated |

Guests scan test numbers until one is not there. The eventfd tests need the machine's help (`IoEventFds`); without
it, or on a host that refuses, they are not there.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from typing import Final, Protocol

from vmm.machine.pci.function import Bar, BarKind, PciFunction
from vmm.machine.pci.header import Identity

VENDOR_ID: Final = 0x1B36
DEVICE_ID: Final = 0x0005
_OTHER_CLASS: Final = 0x00FF00
_SUBSYSTEM: Final = (0x1AF4, 0x1100)

MEMORY_BAR: Final = 0
IO_BAR: Final = 1
MEMORY_BAR_SIZE: Final = 4096
IO_BAR_SIZE: Final = 256

_TEST_REGISTER: Final = 0
_HEADER: Final = struct.Struct("<BBxxIII")
_WIDTH: Final = 1
_ANY_WIDTH: Final = 0
_MATCHED_DATA: Final = 0xFA
_UNMATCHED_DATA: Final = 0xCE


class IoEventFd(Protocol):
    """An armed ioeventfd."""

    def drain(self) -> int:
        """How many writes it took since the last call. Does not block."""

    def remove(self) -> None:
        """Disarm and close it."""


class IoEventFds(Protocol):
    """What the machine offers: writes that the kernel counts without leaving the guest for the VMM."""

    def add_ioeventfd(self, port: bool, address: int, size: int, datamatch: int | None) -> IoEventFd | None:
        """Catch writes of `size` bytes (0: any) to `address` (an I/O port, or a GPA), `datamatch` only if given.

        None when the host cannot: the device then goes without. KVM_IOEVENTFD; 0 needs
        KVM_CAP_IOEVENTFD_ANY_LENGTH.
        """


@dataclass(frozen=True, slots=True)
class PciTest:
    """One test of a BAR. `datamatch`: only writes of `data` count; `eventfd`: the kernel takes the writes."""

    number: int
    bar: int
    offset: int
    data: int
    datamatch: bool
    eventfd: bool
    name: str


def _tests(bar: int, kind: str, first_offset: int) -> tuple[PciTest, ...]:
    return (
        PciTest(0, bar, first_offset, _MATCHED_DATA, True, False, f"{kind}-no-eventfd"),
        PciTest(1, bar, first_offset + 1, _UNMATCHED_DATA, False, True, f"{kind}-wildcard-eventfd"),
        PciTest(2, bar, first_offset + 2, _MATCHED_DATA, True, True, f"{kind}-datamatch-eventfd"),
    )


# Offsets and data are QEMU's, so that logs of both can be compared.
TESTS: Final = {MEMORY_BAR: _tests(MEMORY_BAR, "mmio", 2048), IO_BAR: _tests(IO_BAR, "portio", 131)}


class PciTestdev:
    """The device; `function` is what goes on the PCI bus. Thread-safe."""

    name = "pci-testdev"

    def __init__(self, ioeventfds: IoEventFds | None = None) -> None:
        self._ioeventfds = ioeventfds
        self._lock = threading.Lock()
        self._test: PciTest | None = None
        self._count = 0
        self._eventfd: IoEventFd | None = None
        self._addresses: dict[int, int | None] = {MEMORY_BAR: None, IO_BAR: None}
        self.function = PciFunction(
            self.name,
            Identity(VENDOR_ID, DEVICE_ID, _OTHER_CLASS, 0, *_SUBSYSTEM),
            bars=(
                Bar(MEMORY_BAR, BarKind.MEMORY_32, MEMORY_BAR_SIZE, _TestBar(self, MEMORY_BAR)),
                Bar(IO_BAR, BarKind.IO, IO_BAR_SIZE, _TestBar(self, IO_BAR)),
            ),
            bar_moved=self._bar_moved,
        )

    def reset(self) -> None:
        """No test runs."""
        with self._lock:
            self._stop()

    def read(self, offset: int, size: int) -> int:
        """The header of the running test, the same in both BARs; zero without one and behind the name."""
        with self._lock:
            test = self._test
            if test is None:
                return 0
            self._collect()
            fixed = _HEADER.pack(test.number, _WIDTH, test.offset, test.data, self._count)
        header = fixed + test.name.encode("ascii")
        return int.from_bytes(header[offset : offset + size], "little")

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Starts a test, or is one of its writes. A wide write counts by the byte that hits."""
        with self._lock:
            test = self._test
            if offset == _TEST_REGISTER:
                self._stop()
                self._start(bar, value & 0xFF)
            elif test is not None and bar == test.bar and offset <= test.offset < offset + size:
                byte = value >> 8 * (test.offset - offset) & 0xFF
                if not test.datamatch or byte == test.data:
                    self._add(1)

    # What follows runs with the lock held.

    def _start(self, bar: int, number: int) -> None:
        tests = TESTS[bar]
        if number >= len(tests):
            return
        test = tests[number]
        if test.eventfd:
            self._eventfd = self._arm(test)
            if self._eventfd is None:
                return
        self._test = test

    def _stop(self) -> None:
        self._disarm()
        self._test = None
        self._count = 0

    def _arm(self, test: PciTest) -> IoEventFd | None:
        base = self._addresses[test.bar]
        if self._ioeventfds is None or base is None:
            return None
        port, address = test.bar == IO_BAR, base + test.offset
        datamatch = test.data if test.datamatch else None
        if not port and datamatch is None:
            # Of any width: a kernel with hardware support then needs no instruction decoding.
            eventfd = self._ioeventfds.add_ioeventfd(port, address, _ANY_WIDTH, None)
            if eventfd is not None:
                return eventfd
        return self._ioeventfds.add_ioeventfd(port, address, _WIDTH, datamatch)

    def _disarm(self) -> None:
        if self._eventfd is not None:
            self._eventfd.remove()
            self._eventfd = None

    def _collect(self) -> None:
        if self._eventfd is not None:
            self._add(self._eventfd.drain())

    def _add(self, writes: int) -> None:
        self._count = self._count + writes & 0xFFFFFFFF

    def _bar_moved(self, bar: int, address: int | None) -> None:
        with self._lock:
            self._addresses[bar] = address
            if self._test is not None and self._test.bar == bar and self._test.eventfd:
                self._collect()
                self._disarm()
                self._eventfd = self._arm(self._test)


class _TestBar:
    """One BAR's window on the device."""

    def __init__(self, device: PciTestdev, bar: int) -> None:
        self._device = device
        self._bar = bar
        self.read = device.read

    def write(self, offset: int, size: int, value: int) -> None:
        self._device.write(self._bar, offset, size, value)
