# SPDX-License-Identifier: Apache-2.0
"""`DeviceMemory`: guest RAM for what acts with the rights of VTL0 and cannot be intercepted.

Devices are VTL0's, and so is their DMA (VSM-084); the text of a crash report lies where VTL0 says. Where VTL0 lacks a
right there is no memory for them: the error is theirs to report. It is made with the board, before there are VTLs.

Implements: VSM-084
"""

from __future__ import annotations

import threading
from typing import Protocol

from vmm.hypercall.outside import AccessInterceptedError
from vmm.outside import Buffer, GuestMemory, GuestMemoryError


class Filled(Protocol):
    """Guest memory with the rights of a VTL: `vmm.vsm.memory.VtlMemory` is one."""

    def read(self, gpa: int, size: int) -> bytes: ...

    def write(self, gpa: int, data: Buffer) -> None: ...

    def fill(self, gpa: int, size: int, value: int = 0) -> None: ...


class DeviceMemory:
    """See the module. A `vmm.outside.GuestMemory`. Thread-safe."""

    def __init__(self, ram: GuestMemory) -> None:
        self._lock = threading.Lock()  # a memory with rights is for one at a time
        self._memory: Filled = ram
        self.ranges = ram.ranges

    def obey(self, vtl0: Filled) -> None:
        """Read and write this memory, which knows VTL0's rights, from now on. Before the guest runs."""
        self._memory = vtl0

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of `size` bytes at `gpa`."""
        try:
            with self._lock:
                return self._memory.read(gpa, size)
        except AccessInterceptedError as error:
            raise _no_memory(error) from error

    def write(self, gpa: int, data: Buffer) -> None:
        """Store `data` at `gpa`."""
        try:
            with self._lock:
                self._memory.write(gpa, data)
        except AccessInterceptedError as error:
            raise _no_memory(error) from error

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        """Set `size` bytes at `gpa` to the byte `value`."""
        try:
            with self._lock:
                self._memory.fill(gpa, size, value)
        except AccessInterceptedError as error:
            raise _no_memory(error) from error


def _no_memory(error: AccessInterceptedError) -> GuestMemoryError:
    return GuestMemoryError(f"a higher VTL has taken it from VTL0: {error}")
