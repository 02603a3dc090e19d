# SPDX-License-Identifier: Apache-2.0
"""fw_cfg: how the machine tells its firmware or kernel what it is made of.

Source: QEMU's fw_cfg specification (docs/specs/fw_cfg), x86 port layout. All items are read-only.
"""

from __future__ import annotations

import struct
import threading

from vmm.outside import GuestMemory, GuestMemoryError

SELECTOR_PORT = 0x510
SELECTOR_PORT_COUNT = 2
"""0x510 selector (16-bit write), 0x511 data (byte reads)."""

DMA_PORT = 0x514
DMA_PORT_COUNT = 8
"""Address register of the DMA interface, big endian: high half at 0x514, low half at 0x518 (starts it)."""

KEY_SIGNATURE = 0x00
KEY_ID = 0x01
KEY_RAM_SIZE = 0x03
KEY_CPU_COUNT = 0x05
KEY_MAX_CPUS = 0x0F
KEY_FILE_DIRECTORY = 0x19
KEY_FIRST_FILE = 0x20

SIGNATURE = b"QEMU"
DMA_SIGNATURE = b"QEMU CFG"
ID_TRADITIONAL = 1 << 0
ID_DMA = 1 << 1

MAX_FILES = 64
"""Entries of the file directory; bounds what a guest has to search."""

FILE_NAME_BYTES = 56
"""A directory entry's name field, its terminating NUL included."""

_KEY_WRITE_CHANNEL = 0x4000  # selects an item for writing; no item can be written, so it selects the item
_KEY_OF_ARCHITECTURE = 0x8000  # above it are no files

_DMA_ERROR = 1 << 0
_DMA_READ = 1 << 1
_DMA_SKIP = 1 << 2
_DMA_SELECT = 1 << 3
_DMA_WRITE = 1 << 4
_DMA_ACCESS = struct.Struct(">IIQ")  # control, length, address


class FwCfg:
    """Ports 0x510 and 0x511; `FwCfgDma` has the DMA registers at 0x514.

    An item that does not exist reads as zeros, as does everything behind an item's end: kvm-unit-tests rely
    on it (they read key 0x11 as a limit of RAM, and 0 means none).
    """

    name = "fw-cfg"

    def __init__(self, memory: GuestMemory, ram_bytes: int, cpu_count: int, max_cpus: int) -> None:
        """ram_bytes: all guest RAM; cpu_count: processors present at power-on; max_cpus: APIC ids in use."""
        self._memory = memory
        self._lock = threading.Lock()
        self._items = {
            KEY_SIGNATURE: SIGNATURE,
            KEY_ID: struct.pack("<I", ID_TRADITIONAL | ID_DMA),
            KEY_RAM_SIZE: struct.pack("<Q", ram_bytes),
            KEY_CPU_COUNT: struct.pack("<H", cpu_count),
            KEY_MAX_CPUS: struct.pack("<H", max_cpus),
            KEY_FILE_DIRECTORY: struct.pack(">I", 0),
        }
        self._files: list[tuple[str, int]] = []  # (name, key) in order of their keys
        self._data = b""  # the selected item
        self._offset = 0  # into _data, at most its length
        self.reset()

    def add_item(self, key: int, data: bytes) -> None:
        """Put `data` under the number `key`, for instance one of QEMU's fixed keys.

        Errors: ValueError when the key is taken, belongs to the files or cannot be selected.
        """
        if key in self._items or (key >= KEY_FIRST_FILE and not key & _KEY_OF_ARCHITECTURE):
            raise ValueError(f"fw_cfg key {key:#x} is taken or kept for files; use a free key below 0x20")
        if not 0 <= key <= 0xFFFF or key & _KEY_WRITE_CHANNEL:
            raise ValueError(f"fw_cfg key {key:#x} cannot be selected; use a free key below 0x20")
        with self._lock:
            self._items[key] = bytes(data)

    def add_file(self, name: str, data: bytes) -> None:
        """Put `data` into the file directory as `name` ("etc/..." for the firmware, "opt/..." for users).

        Errors: ValueError when the name is empty, too long, not ASCII or taken, or the directory is full.
        """
        if not name or not name.isascii() or len(name) >= FILE_NAME_BYTES or "\0" in name:
            raise ValueError(
                f"fw_cfg file name {name!r}: expected 1 to {FILE_NAME_BYTES - 1} ASCII characters"
            )
        if any(name == taken for taken, _ in self._files):
            raise ValueError(f"fw_cfg file {name!r} is there already; use another name")
        if len(self._files) == MAX_FILES:
            raise ValueError(f"fw_cfg file {name!r}: the directory holds no more than {MAX_FILES} files")
        with self._lock:
            key = KEY_FIRST_FILE + len(self._files)
            self._files.append((name, key))
            self._items[key] = bytes(data)
            entries = [
                struct.pack(f">IHH{FILE_NAME_BYTES}s", len(self._items[key]), key, 0, name.encode("ascii"))
                for name, key in self._files
            ]
            self._items[KEY_FILE_DIRECTORY] = struct.pack(">I", len(entries)) + b"".join(entries)

    def reset(self) -> None:
        """Select the signature. The items stay."""
        with self._lock:
            self._select(KEY_SIGNATURE)

    def read(self, offset: int, size: int) -> int:
        """The selected item's next byte (a byte read of 0x511); all ones for any other access."""
        if offset != 1 or size != 1:
            return (1 << (8 * size)) - 1
        with self._lock:
            position = self._offset
            if position >= len(self._data):
                return 0
            self._offset = position + 1
            return self._data[position]

    def write(self, offset: int, size: int, value: int) -> None:
        """Select the item `value` (a 2-byte write of 0x510); writes of item data are ignored."""
        if offset == 0 and size == 2:
            with self._lock:
                self._select(value)

    def _select(self, key: int) -> None:
        self._data = self._items.get(key & ~_KEY_WRITE_CHANNEL, b"")
        self._offset = 0

    def transfer(self, descriptor_gpa: int) -> None:
        """Carry out the FWCfgDmaAccess structure at `descriptor_gpa` and store the outcome in its control."""
        with self._lock:
            try:
                control, length, gpa = _DMA_ACCESS.unpack(self._memory.read(descriptor_gpa, _DMA_ACCESS.size))
                self._memory.write(descriptor_gpa, struct.pack(">I", self._carry_out(control, length, gpa)))
            except GuestMemoryError:
                return  # no descriptor, so nowhere to tell the guest

    def _carry_out(self, control: int, length: int, gpa: int) -> int:
        """The control word to give back: 0, or the error bit."""
        if control & _DMA_SELECT:
            self._select(control >> 16)
        if not length or not control & (_DMA_READ | _DMA_SKIP | _DMA_WRITE):
            return 0
        data = self._data[self._offset : self._offset + length]
        if control & _DMA_READ:
            # `length` is the guest's and may be 4 GiB: only the item's bytes are copied, the rest is filled
            # in place, and a range that is not RAM ends in an error.
            try:
                self._memory.write(gpa, data)
                if length > len(data):
                    self._memory.fill(gpa + len(data), length - len(data))
            except GuestMemoryError:
                return _DMA_ERROR
        elif control & _DMA_WRITE:
            return _DMA_ERROR
        self._offset += len(data)
        return 0


class FwCfgDma:
    """Ports 0x514..0x51b: the 64-bit big-endian address of a FWCfgDmaAccess structure; reads "QEMU CFG".

    A 4-byte write of 0x518 starts the transfer, as does an 8-byte write of 0x514. Other sizes are ignored.
    """

    name = "fw-cfg-dma"

    def __init__(self, fw_cfg: FwCfg) -> None:
        self._fw_cfg = fw_cfg
        self._high_half = 0

    def reset(self) -> None:
        """Forget the high half of the address."""
        self._high_half = 0

    def read(self, offset: int, size: int) -> int:
        """The signature's bytes at `offset`, zeros behind them."""
        return int.from_bytes(DMA_SIGNATURE[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Store a half of the address; the low one starts the transfer."""
        big_endian = int.from_bytes(value.to_bytes(size, "little"), "big")
        if offset == 0 and size == 4:
            self._high_half = big_endian
        elif offset == 4 and size == 4:
            descriptor_gpa = self._high_half << 32 | big_endian
            self._high_half = 0
            self._fw_cfg.transfer(descriptor_gpa)
        elif offset == 0 and size == 8:
            self._fw_cfg.transfer(big_endian)
