# SPDX-License-Identifier: Apache-2.0
"""Writes that the kernel counts without leaving the guest for the VMM (api.rst KVM_IOEVENTFD)."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import Final

from kvmapi import KvmError, Vm
from kvmapi.uapi import kvm as k

WRITE: Final = 1 << 1
"""Of a byte of `KvmIoEventFds.watch` (`vmm.vsm.intercept_table`)."""
_WIDEST: Final = 4
"""Bytes of a write to I/O ports."""


class ArmedIoEventFd:
    """An eventfd that KVM adds 1 to at each matching write, unless that is suspended: the write leaves the guest then,
    for the device's own handler."""

    def __init__(
        self,
        vm: Vm,
        address: int,
        size: int,
        *,
        port: bool,
        datamatch: int | None,
        suspended: bool,
        lock: threading.Lock,
    ) -> None:
        """lock: of its maker. Errors: `KvmError`; nothing is left armed then."""
        self._vm = vm
        self._where = (address, size, port, datamatch)
        self._lock = lock
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._told = False
        if suspended:
            return
        try:
            self._tell(True)
        except KvmError:
            os.close(self._fd)
            raise

    def _tell(self, wanted: bool) -> None:
        address, size, port, datamatch = self._where
        try:
            self._vm.ioeventfd(self._fd, address, size, datamatch=datamatch, pio=port, deassign=not wanted)
        except KvmError as error:
            # A kernel that has no memory to take one out drops all that are on its bus (kvm_io_bus_unregister_dev).
            if wanted or error.errno != errno.ENOENT:
                raise
        self._told = wanted

    def suspend(self, wanted: bool) -> None:
        """With the lock held. Where KVM does not take it back it stays suspended. Errors: `KvmError`, suspending it."""
        if self._fd < 0 or wanted is not self._told:
            return
        if wanted:
            self._tell(False)
            return
        with contextlib.suppress(KvmError):
            self._tell(True)

    def ports(self) -> range:
        """Those that a write it catches can reach; none for one in memory."""
        address, size, port, _ = self._where
        return range(address, address + (size or _WIDEST)) if port else range(0)

    @property
    def open(self) -> bool:
        """Whether nobody has removed it."""
        return self._fd >= 0

    def drain(self) -> int:
        """How many writes it took since the last call. Does not block."""
        try:
            return os.eventfd_read(self._fd)
        except BlockingIOError:
            return 0

    def remove(self) -> None:
        """Disarm and close it. Idempotent."""
        with self._lock:
            if self._fd < 0:
                return
            if self._told:
                with contextlib.suppress(KvmError):  # the VM is closed already: nothing is armed any more
                    self._tell(False)
            os.close(self._fd)
            self._fd = -1


class KvmIoEventFds:
    """Makes `ArmedIoEventFd`s on one VM, and closes those that nobody removed. Thread-safe.

    KVM would take writes that a VTL wants to be told of: while a port is watched, nothing is armed there.
    """

    def __init__(self, vm: Vm) -> None:
        self._lock = threading.Lock()
        self._watched: bytes | None = None
        self._vm = vm
        self._any_length = bool(vm.check_extension(k.KVM_CAP_IOEVENTFD_ANY_LENGTH))
        self._armed: list[ArmedIoEventFd] = []

    def add_ioeventfd(
        self, port: bool, address: int, size: int, datamatch: int | None
    ) -> ArmedIoEventFd | None:
        """Catch writes of `size` bytes (0: any) to `address` (a port, or a GPA), `datamatch` only if given.

        None when this host cannot.
        """
        if size == 0 and not self._any_length:
            return None
        with self._lock:
            self._armed = [each for each in self._armed if each.open]
            try:
                armed = ArmedIoEventFd(
                    self._vm,
                    address,
                    size,
                    port=port,
                    datamatch=datamatch,
                    suspended=self._is_watched(range(address, address + (size or _WIDEST))) and port,
                    lock=self._lock,
                )
            except KvmError:
                return None
            self._armed.append(armed)
            return armed

    def watch(self, accesses: bytes | None) -> None:
        """Which ports the VM's VTL is watched at, a byte for each with bit `WRITE` for writes; None: at none.

        When it returns no write to one that is watched is caught any more. Errors: `KvmError`, where KVM keeps one;
        then no write to any other is caught, and the next call tries it again.
        """
        failure: KvmError | None = None
        with self._lock:
            self._watched = accesses
            for armed in self._armed:
                if ports := armed.ports():
                    try:
                        armed.suspend(self._is_watched(ports))
                    except KvmError as error:  # the others all the same
                        failure = failure or error
        if failure is not None:
            raise failure

    def _is_watched(self, ports: range) -> bool:
        watched = self._watched
        return watched is not None and any(watched[port] & WRITE for port in ports if port < len(watched))

    def close(self) -> None:
        """Disarm and close all. Idempotent."""
        for armed in self._armed:
            armed.remove()
        self._armed.clear()
