# SPDX-License-Identifier: Apache-2.0
"""What KVM_EXIT_MMIO says of an access, and its answer (`struct kvm_run`, mmio); whether rights may be its reason."""

from __future__ import annotations

from typing import Final, NamedTuple

from kvmapi.run import KvmRun
from vmm.backend.protection.view import PAGE_SHIFT, ProtectedView
from vmm.vsm.rights import WRITE

# mmio.phys_addr u64 @32, data u8[8] @40, len u32 @48, is_write u8 @52
_GPA_U64: Final = 32 // 8
_DATA: Final = 40
_LENGTH_U32: Final = 48 // 4
_IS_WRITE: Final = 52


class MmioExit(NamedTuple):
    """data: what is written; empty for a read."""

    gpa: int
    size: int
    is_write: bool
    data: bytes


def told(run: KvmRun) -> MmioExit:
    """Of the exit that the vCPU has just made."""
    gpa, size, is_write = run.u64[_GPA_U64], run.u32[_LENGTH_U32], bool(run.u8[_IS_WRITE])
    return MmioExit(gpa, size, is_write, bytes(run.u8[_DATA : _DATA + size]) if is_write else b"")


def answer(run: KvmRun, data: bytes) -> None:
    """What is read."""
    run.u8[_DATA : _DATA + len(data)] = data


def put_write(run: KvmRun, gpa: int, data: bytes) -> None:
    """As if KVM told of this write now."""
    run.u64[_GPA_U64], run.u32[_LENGTH_U32], run.u8[_IS_WRITE] = gpa, len(data), 1
    run.u8[_DATA : _DATA + len(data)] = data


def is_elsewhere(view: ProtectedView, gpa: int, ram_gpa: int, *, is_write: bool) -> bool:
    """Whether rights have nothing to do with an access: a device's memory, an overlay, an alias of the ROM; or a
    write that they allow, to a higher VTL's overlay, which does not."""
    page = ram_gpa >> PAGE_SHIFT
    if not view.is_ram(page) or view.covered(page) or (is_write and ram_gpa != gpa):
        return True
    return is_write and view.read_only(page) and bool(view.rights(page) & WRITE)
