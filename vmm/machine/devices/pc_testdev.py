# SPDX-License-Identifier: Apache-2.0
"""pc-testdev, the ISA device by which kvm-unit-tests' x86 tests see port accesses, interrupt lines and trapped MMIO.

| address | access | what |
|---|---|---|
| 0xe0..0xe3 | 1, 2, 4 bytes | 32-bit latch: reads give back what was written |
| 0xe4 | 4-byte write | guest physical address: drop the host's mapping of that page |
| 0xe8..0xeb | 1, 2, 4 bytes | the same latch |
| 0x2000 + n, n = 0..23 | 1-byte write | drive interrupt line (GSI) n: 0 low, else high |
| 0xff000000, 64 KiB | any | memory of which every access is trapped |

Other accesses read as all ones and change nothing. Behaviour as QEMU's device of the same name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from vmm.bus import MmioBus, PortBus
from vmm.outside import InterruptLine

LATCH_PORT: Final = 0xE0
FLUSH_PORT: Final = 0xE4
BYTE_LATCH_PORT: Final = 0xE8
LATCH_SIZE: Final = 4
IRQ_PORT: Final = 0x2000
IRQ_COUNT: Final = 24
MEMORY_GPA: Final = 0xFF000000
MEMORY_SIZE: Final = 0x10000
PAGE_SIZE: Final = 4096


class PcTestdev:
    """The device with its five regions; `attach` puts them on the buses. Thread-safe."""

    name = "pc-testdev"

    def __init__(self, lines: Sequence[InterruptLine], flush: Callable[[int], None]) -> None:
        """`lines`: the line of each GSI 0..23. `flush(gpa)`: drop the host mapping of the page at `gpa`, any page
        the guest names: the callback ignores what is not RAM, and does not raise. Errors: `ValueError`.
        """
        if len(lines) != IRQ_COUNT:
            raise ValueError(f"pc-testdev drives {IRQ_COUNT} interrupt lines, {len(lines)} were given")
        lock = threading.Lock()
        self._latch = _Bytes(LATCH_SIZE, lock)
        self._memory = _Bytes(MEMORY_SIZE, lock)
        self._lines = _IrqLines(lines, lock)
        self._flush = _FlushPage(flush)

    def attach(self, ports: PortBus, mmio: MmioBus) -> None:
        """Decode all addresses of the table above. Errors: `BusConflictError`."""
        ports.add(LATCH_PORT, LATCH_SIZE, self._latch, "pc-testdev-latch")
        ports.add(FLUSH_PORT, LATCH_SIZE, self._flush, "pc-testdev-flush")
        ports.add(BYTE_LATCH_PORT, LATCH_SIZE, self._latch, "pc-testdev-byte-latch")
        ports.add(IRQ_PORT, IRQ_COUNT, self._lines, "pc-testdev-irq")
        mmio.add(MEMORY_GPA, MEMORY_SIZE, self._memory, "pc-testdev-memory")

    def reset(self) -> None:
        """Latch and memory zero, every line that this device holds high low again."""
        self._latch.clear()
        self._memory.clear()
        self._lines.release()


class _Bytes:
    """Bytes that can be read and written; an access that reaches beyond the end is cut there."""

    def __init__(self, size: int, lock: threading.Lock) -> None:
        self._bytes = bytearray(size)
        self._size = size
        self._lock = lock

    def clear(self) -> None:
        with self._lock:
            self._bytes[:] = bytes(self._size)

    def read(self, offset: int, size: int) -> int:
        with self._lock:
            data = self._bytes[offset : offset + size]
        return int.from_bytes(data + b"\xff" * (size - len(data)), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        inside = min(size, self._size - offset)
        with self._lock:
            self._bytes[offset : offset + inside] = value.to_bytes(size, "little")[:inside]


class _WriteOnly:
    """A register without a read side."""

    def read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1


class _FlushPage(_WriteOnly):
    def __init__(self, flush: Callable[[int], None]) -> None:
        self._flush = flush

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 4:
            self._flush(value & -PAGE_SIZE)


class _IrqLines(_WriteOnly):
    def __init__(self, lines: Sequence[InterruptLine], lock: threading.Lock) -> None:
        self._lines = tuple(lines)
        self._high = [False] * len(self._lines)
        self._lock = lock

    def write(self, offset: int, size: int, value: int) -> None:
        if size == 1:
            with self._lock:
                self._high[offset] = bool(value)
                self._lines[offset].set_level(bool(value))

    def release(self) -> None:
        with self._lock:
            for index, high in enumerate(self._high):
                if high:
                    self._lines[index].set_level(False)
                    self._high[index] = False
