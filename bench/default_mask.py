# SPDX-License-Identifier: Apache-2.0
"""What a default protection mask takes over much memory: of time and of the VMM's memory, 64 GiB against 4 GiB.

The table of rights and this host's way of enforcing them, over sparse memory: more than the host has, of which no
page is ever used. A whole guest with more memory than its host is refused.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
import tracemalloc
from collections.abc import Callable

from kvmapi import Kvm, Vm
from kvmapi.vsm_support import vsm_support
from vmm.backend.protection.attributes import Attributes
from vmm.backend.protection.choose import AUTO, Way, choose
from vmm.backend.protection.mapping import Mapping
from vmm.backend.protection.view import ProtectedView
from vmm.hv.register_bits import HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.status import HvStatus
from vmm.outside import GuestMemoryError
from vmm.vsm.outside import Enforcement
from vmm.vsm.protections import MemoryProtections

GIB = 1 << 30
SMALL, LARGE = 4 * GIB, 64 * GIB
_READ_WRITE = 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class SparseMemory:
    """RAM from address 0 on that nobody uses: `vmm.backend.protection.view.RamPages`, and the memory behind it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._fd = os.memfd_create("sparse")
        os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._pin: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self._address = ctypes.addressof(self._pin)

    def close(self) -> None:
        """Unmap."""
        self._pin = None
        self._map.close()
        os.close(self._fd)

    def ranges(self) -> list[tuple[int, int]]:
        return [(0, self.size)]

    def offset_of(self, gpa: int, size: int) -> int:
        if gpa + size > self.size:
            raise GuestMemoryError(f"{gpa:#x} is no memory")
        return gpa

    def protect(self, offset: int, size: int, protection: int) -> None:
        if _libc.mprotect(self._address + offset, size, protection):
            number = ctypes.get_errno()
            raise OSError(number, f"mprotect: {os.strerror(number)}")

    def put_over(
        self, offset: int, fd: int, fd_offset: int, *, writable: bool, readable: bool = True
    ) -> None:
        raise OSError("no overlays")

    def put_from_above(self, offset: int, fd: int, fd_offset: int) -> None:
        raise OSError("no overlays")

    def put_back(self, offset: int, protection: int = 0) -> None:
        raise OSError("no overlays")

    def shown(self, offset: int, size: int) -> bytes:
        return self.read(offset, size)

    def read(self, gpa: int, size: int) -> bytes:
        return self._map[gpa : gpa + size]

    def write(self, gpa: int, data: object) -> None:
        raise GuestMemoryError("not used")

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        raise GuestMemoryError("not used")


def measure(kvm: Kvm, size: int) -> tuple[float, int]:
    """(seconds, bytes of Python's memory) for EnableVtlProtection with a default mask of read and write."""
    old = HV_REGISTER_VSM_PARTITION_CONFIG(0)
    new = old.replace(EnableVtlProtection=1, DefaultVtlProtectionMask=_READ_WRITE)
    memory = SparseMemory(size)
    try:
        with kvm.create_vm() as vm:
            protections = MemoryProtections(memory.ranges(), _enforcement(kvm, memory, vm))
            seconds = _timed(lambda: protections.configure(1, old, new))
            other = MemoryProtections(memory.ranges(), _enforcement(kvm, memory, vm))
            tracemalloc.start()
            _timed(lambda: other.configure(1, old, new))
            kept, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return seconds, kept
    finally:
        memory.close()


def _enforcement(kvm: Kvm, memory: SparseMemory, vm: Vm) -> Enforcement:
    if choose(AUTO, vsm_support(kvm), huge_pages=False) is Way.ATTRIBUTES:
        attributes = Attributes(())
        attributes.adopt(0, vm, ())
        return attributes
    mapping = Mapping()
    mapping.add(0, ProtectedView(memory, memory, [(0, memory.size, 0)]))
    return mapping


def _timed(work: Callable[[], int]) -> float:
    begin = time.perf_counter()
    status = work()
    seconds = time.perf_counter() - begin
    if status != HvStatus.SUCCESS:
        raise RuntimeError(f"the default mask was refused: {status!r}")
    return seconds
