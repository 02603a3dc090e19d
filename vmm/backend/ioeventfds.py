# SPDX-License-Identifier: Apache-2.0
"""Writes that the kernel counts without leaving the guest for the VMM (api.rst KVM_IOEVENTFD)."""

from __future__ import annotations

import contextlib
import os

from kvmapi import KvmError, Vm
from kvmapi.uapi import kvm as k


class ArmedIoEventFd:
    """An eventfd that KVM adds 1 to at each matching write."""

    def __init__(self, vm: Vm, address: int, size: int, *, port: bool, datamatch: int | None) -> None:
        """Errors: `KvmError`; nothing is left armed then."""
        self._vm = vm
        self._where = (address, size, port, datamatch)
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            vm.ioeventfd(self._fd, address, size, datamatch=datamatch, pio=port)
        except KvmError:
            os.close(self._fd)
            raise

    @property
    def port(self) -> int | None:
        """The I/O port; None for one in memory, and behind `remove`."""
        address, _, port, _ = self._where
        return address if port and self._fd >= 0 else None

    def drain(self) -> int:
        """How many writes it took since the last call. Does not block."""
        try:
            return os.eventfd_read(self._fd)
        except BlockingIOError:
            return 0

    def remove(self) -> None:
        """Disarm and close it. Idempotent."""
        if self._fd < 0:
            return
        address, size, port, datamatch = self._where
        with contextlib.suppress(KvmError):  # the VM is closed already: nothing is armed any more
            self._vm.ioeventfd(self._fd, address, size, datamatch=datamatch, pio=port, deassign=True)
        os.close(self._fd)
        self._fd = -1


class KvmIoEventFds:
    """Makes `ArmedIoEventFd`s on one VM, and closes those that nobody removed."""

    def __init__(self, vm: Vm) -> None:
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
        try:
            armed = ArmedIoEventFd(self._vm, address, size, port=port, datamatch=datamatch)
        except KvmError:
            return None
        self._armed.append(armed)
        return armed

    def catches_port(self, port: int) -> bool:
        """Whether writes to an I/O port are counted instead of reaching the VMM."""
        return any(armed.port == port for armed in self._armed)

    def close(self) -> None:
        """Disarm and close all. Idempotent."""
        for armed in self._armed:
            armed.remove()
        self._armed.clear()
