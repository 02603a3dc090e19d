# SPDX-License-Identifier: Apache-2.0
"""`KvmRun`: the pages a vCPU shares with its user, beginning with `struct kvm_run` (api.rst, section 5)."""

from __future__ import annotations

import ctypes
import mmap
import warnings
from typing import Any

from kvmapi.errors import KvmClosedError
from kvmapi.uapi.kvm_memory import kvm_coalesced_mmio, kvm_coalesced_mmio_ring
from kvmapi.uapi.kvm_run import kvm_run
from kvmapi.uapi.x86_board import KVM_COALESCED_MMIO_PAGE_OFFSET

PAGE_SIZE = 4096

# Byte offsets that a run loop needs; a test compares them with the structure.
EXIT_REASON = 8
EXIT_UNION = 32
VALID_REGS = 288
DIRTY_REGS = 296
SYNC_REGS = 304

_RING = KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE_SIZE


class KvmRun:
    """The mapping of a vCPU fd.

    | attribute | what |
    |---|---|
    | `u8`, `u32`, `u64` | the whole mapping as a memoryview of such items; `u32[2]` is `exit_reason` |
    | `struct` | `kvm_run`, for debugging and rare exits (nested fields cost 60 ns and more) |
    | `regs`, `sregs`, `events` | the registers that KVM_CAP_SYNC_REGS carries |

    After `close()` each of them raises KvmClosedError (a view taken before raises ValueError); none can reach
    unmapped memory, because ctypes views hold the mapping that they look at.
    """

    __slots__ = ("_label", "_map", "events", "regs", "sregs", "struct", "u8", "u32", "u64")

    def __init__(self, mapping: mmap.mmap, label: str) -> None:
        self._label = label
        self._map: mmap.mmap | None = mapping
        self.u8 = memoryview(mapping)
        self.u32 = self.u8.cast("I")
        self.u64 = self.u8.cast("Q")
        self.struct: Any = kvm_run.from_buffer(mapping)
        self.regs: Any = self.struct.s.regs.regs
        self.sregs: Any = self.struct.s.regs.sregs
        self.events: Any = self.struct.s.regs.events

    @property
    def size(self) -> int:
        """Bytes mapped (KVM_GET_VCPU_MMAP_SIZE)."""
        return len(self.u8)

    @property
    def exit_reason(self) -> int:
        """KVM_EXIT_*, why the last KVM_RUN came back."""
        return self.u32[EXIT_REASON // 4]

    @property
    def immediate_exit(self) -> bool:
        """True makes KVM_RUN return EINTR before it enters the guest (KVM_CAP_IMMEDIATE_EXIT).

        Set it before sending the signal that kicks a vCPU out: it closes the window between the thread's
        last look and its entering the kernel. KVM does not clear it.
        """
        return self.u8[1] != 0

    @immediate_exit.setter
    def immediate_exit(self, value: bool) -> None:
        self.u8[1] = 1 if value else 0

    def sync(self, valid: int, dirty: int = 0) -> None:
        """Choose what KVM_RUN copies out (`valid`) and takes in once (`dirty`): KVM_SYNC_X86_* bits."""
        self.u64[VALID_REGS // 8] = valid
        self.u64[DIRTY_REGS // 8] = dirty

    def io_data(self) -> memoryview:
        """The bytes of a KVM_EXIT_IO: `size * count`, to be read (out) or filled (in)."""
        io = self.struct.io
        start = io.data_offset
        return self.u8[start : start + io.size * io.count]

    def coalesced(self) -> list[tuple[int, bytes, bool]]:
        """Take the queued coalesced writes off the ring: `(address, data, is_port)`, oldest first.

        Only with KVM_CAP_COALESCED_MMIO and a zone registered. KVM's ring belongs to the VM, every vCPU maps
        the same one: one thread at a time may take from it.
        """
        writes: list[tuple[int, bytes, bool]] = []
        view = self.u32
        index = _RING // 4
        entry_size = ctypes.sizeof(kvm_coalesced_mmio)
        slots = (PAGE_SIZE - ctypes.sizeof(kvm_coalesced_mmio_ring)) // entry_size
        first, last = view[index], view[index + 1]
        for _ in range(slots):
            if first == last or first >= slots:
                break
            start = _RING + ctypes.sizeof(kvm_coalesced_mmio_ring) + first * entry_size
            entry = kvm_coalesced_mmio.from_buffer_copy(self.u8[start : start + entry_size])
            length = min(entry.len, 8)
            writes.append((entry.phys_addr, bytes(entry.data[:length]), bool(entry.pio)))
            first = (first + 1) % slots
            view[index] = first
        return writes

    def close(self) -> None:
        """Drop the views, then the mapping. May be called again."""
        mapping, self._map = self._map, None
        if mapping is None:
            return
        del self.struct, self.regs, self.sregs, self.events
        views = (self.u32, self.u64, self.u8)
        del self.u8, self.u32, self.u64
        try:
            for view in views:
                view.release()
            mapping.close()
        except BufferError:
            # Somebody keeps a view. Python unmaps when that view goes, so this leaks but cannot crash.
            warnings.warn(
                f"{self._label}: a view of kvm_run is still held, its memory stays mapped until that is dropped",
                ResourceWarning,
                stacklevel=3,
            )

    def __getattr__(self, name: str) -> Any:
        # Reached only for a slot that is empty, i.e. after close().
        if name in KvmRun.__slots__:
            raise KvmClosedError(f"kvm_run.{name}", self._label)
        raise AttributeError(f"KvmRun has no attribute {name!r}")
