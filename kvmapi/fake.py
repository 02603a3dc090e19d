# SPDX-License-Identifier: Apache-2.0
"""`FakeKvm`: a seam that plays KVM, for tests of code above it: scripted exits, faults on demand, leak counts.

It keeps what the SET ioctls are given and hands it back to the GET ioctls; it emulates no processor.

>>> from kvmapi import Kvm, decode
>>> from kvmapi.fake_exits import hlt, io_out
>>> fake = FakeKvm()
>>> fake.script(0, [io_out(0x3F8, b"A"), errno.EINTR, hlt()])
>>> with Kvm.open(seam=fake) as kvm:
...     vcpu = kvm.create_vm().create_vcpu(0)
...     for _ in range(3):
...         print(vcpu.run_once(), decode(vcpu.run))
0 IO: out port 0x3f8, 1 byte: 41
4 INTR
0 HLT
>>> fake.leaks()
[]
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kvmapi.fake_exits import Step, exit_with
from kvmapi.names import IOCTL_NAMES
from kvmapi.run import PAGE_SIZE
from kvmapi.seam import RunCall
from kvmapi.uapi import kvm_run as uapi
from kvmapi.uapi.kvm_ioctl import KVM_API_VERSION, KVM_RUN

RUN_SIZE = 3 * PAGE_SIZE
_FIRST_FD = 1000


@dataclass
class Call:
    """An ioctl that was issued. `argument` is a copy of the bytes as passed in, or the integer."""

    fd: int
    name: str
    argument: Any


@dataclass
class _Fault:
    number: int
    skip: int
    times: int


@dataclass
class _OpenFd:
    kind: str
    vcpu_id: int = 0
    pages: mmap.mmap | None = None
    state: dict[str, bytes] = field(default_factory=dict)
    msrs: dict[int, int] = field(default_factory=dict)


class FakeKvm:
    """See the module. `caps` answers KVM_CHECK_EXTENSION (0 for the rest), `leaves` the CPUID ioctls,
    `msr_list` the MSR lists; MSRs in `refused_msrs` stop KVM_GET_MSRS and KVM_SET_MSRS; a
    statistics fd reads as `stats_file`."""

    def __init__(self) -> None:
        self.caps: dict[int, int] = {}
        self.leaves: list[Any] = []
        self.msr_list: list[int] = []
        self.refused_msrs: set[int] = set()
        self.api_version = KVM_API_VERSION
        self.stats_file = bytes(24)
        self.calls: list[Call] = []
        self.maps: list[mmap.mmap] = []
        self._fds: dict[int, _OpenFd] = {}
        self._next_fd = _FIRST_FD
        self._faults: dict[str, _Fault] = {}
        self._scripts: dict[int, deque[Step | int]] = {}

    # What a test asks for

    def script(self, vcpu_id: int, steps: Iterable[Step | int]) -> None:
        """What the next KVM_RUNs of the vCPUs with this id do; adds to what is there.

        A step is one of `kvmapi.fake_exits`, a function like them, or an errno that KVM_RUN returns.
        """
        self._scripts.setdefault(vcpu_id, deque()).extend(steps)

    def fail(self, call: str, number: int, skip: int = 0, times: int = 1) -> None:
        """Let `call` ("KVM_CREATE_VCPU", "open", "mmap") fail `times` times with errno `number`, after `skip`."""
        self._faults[call] = _Fault(number, skip, times)

    def leaks(self) -> list[str]:
        """fds and mappings still open."""
        fds = [f"{entry.kind} fd {fd}" for fd, entry in self._fds.items()]
        return fds + [f"mapping of {len(entry)} bytes" for entry in self.maps if not entry.closed]

    def called(self, name: str) -> list[Call]:
        """The calls of the ioctl `name`, in order."""
        return [call for call in self.calls if call.name == name]

    # The seam

    def open(self, path: str) -> int:
        self._maybe_fail("open")
        return self._new("system")

    def close(self, fd: int) -> None:
        if self._fds.pop(fd, None) is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def mmap(self, fd: int, size: int, offset: int = 0) -> mmap.mmap:
        entry = self._entry(fd)
        self._maybe_fail("mmap")
        mapping = mmap.mmap(-1, size)
        self.maps.append(mapping)
        if offset == 0:
            entry.pages = mapping
        return mapping

    def quick_call(
        self, fd: int, request: int, argument: Any, failed: Callable[[int], OSError]
    ) -> Callable[[], object]:
        def run() -> None:
            try:
                self.ioctl(fd, request, argument)
            except OSError as error:
                raise failed(error.errno or 0) from error

        return run

    prepared_call = quick_call

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._entry(fd)
        self._maybe_fail("read")
        return self.stats_file[offset : offset + size]

    def run_call(self, fd: int) -> RunCall:
        entry = self._entry(fd)

        def run(fd: int, request: int) -> int:
            if number := step():
                raise OSError(number, os.strerror(number))
            return 0

        def step() -> int:
            if fd not in self._fds or entry.pages is None:
                return errno.EBADF
            # A view of its own per run, because one that lived on would keep the mapping from being closed.
            with memoryview(entry.pages) as view:
                if view[1]:
                    return exit_with(uapi.KVM_EXIT_UNKNOWN, result=errno.EINTR)(view)
                steps = self._scripts.get(entry.vcpu_id)
                if not steps:
                    raise AssertionError(f"FakeKvm: vCPU {entry.vcpu_id} ran beyond the end of its script")
                next_step = steps.popleft()
                if callable(next_step):
                    return next_step(view)
                reason = uapi.KVM_EXIT_INTR if next_step == errno.EINTR else uapi.KVM_EXIT_UNKNOWN
                return exit_with(reason, result=next_step)(view)

        return run, fd, KVM_RUN

    def ioctl(self, fd: int, request: int, argument: Any = None) -> int:
        entry = self._entry(fd)
        name = IOCTL_NAMES.get(request, f"{request:#x}")
        self.calls.append(
            Call(fd, name, argument if argument is None or isinstance(argument, int) else bytes(argument))
        )
        self._maybe_fail(name)
        handler = getattr(self, f"_do_{name.removeprefix('KVM_').lower()}", None)
        if handler is not None:
            return int(handler(entry, argument))
        return self._store(entry, name, argument)

    # How it answers

    def _new(self, kind: str, vcpu_id: int = 0) -> int:
        fd, self._next_fd = self._next_fd, self._next_fd + 1
        self._fds[fd] = _OpenFd(kind, vcpu_id)
        return fd

    def _entry(self, fd: int) -> _OpenFd:
        if fd not in self._fds:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._fds[fd]

    def _maybe_fail(self, call: str) -> None:
        fault = self._faults.get(call)
        if fault is None:
            return
        if fault.skip:
            fault.skip -= 1
            return
        fault.times -= 1
        if not fault.times:
            del self._faults[call]
        raise OSError(fault.number, os.strerror(fault.number))

    def _store(self, entry: _OpenFd, name: str, argument: Any) -> int:
        """KVM_SET_X keeps its argument, KVM_GET_X gives it back; anything else succeeds and does nothing."""
        verb, _, what = name.removeprefix("KVM_").partition("_")
        if verb == "SET" and not isinstance(argument, int) and argument is not None:
            entry.state[what] = bytes(argument)
        elif verb == "GET" and what in entry.state:
            kept = entry.state[what]
            ctypes.memmove(ctypes.addressof(argument), kept, min(len(kept), ctypes.sizeof(argument)))
        return 0

    def _do_get_api_version(self, entry: _OpenFd, argument: Any) -> int:
        return self.api_version

    def _do_get_vcpu_mmap_size(self, entry: _OpenFd, argument: Any) -> int:
        return RUN_SIZE

    def _do_check_extension(self, entry: _OpenFd, cap: int) -> int:
        return self.caps.get(cap, 0)

    def _do_create_vm(self, entry: _OpenFd, argument: Any) -> int:
        return self._new("vm")

    def _do_create_vcpu(self, entry: _OpenFd, vcpu_id: int) -> int:
        return self._new("vcpu", vcpu_id)

    def _do_get_stats_fd(self, entry: _OpenFd, argument: Any) -> int:
        return self._new("stats")

    def _do_create_guest_memfd(self, entry: _OpenFd, argument: Any) -> int:
        return self._new("guest_memfd")

    def _do_create_device(self, entry: _OpenFd, argument: Any) -> int:
        argument.fd = self._new("device")
        return 0

    def _do_get_supported_cpuid(self, entry: _OpenFd, argument: Any) -> int:
        _fill(argument, "nent", "entries", self.leaves)
        return 0

    _do_get_emulated_cpuid = _do_get_supported_hv_cpuid = _do_get_supported_cpuid

    def _do_get_msr_index_list(self, entry: _OpenFd, argument: Any) -> int:
        _fill(argument, "nmsrs", "indices", self.msr_list)
        return 0

    _do_get_msr_feature_index_list = _do_get_msr_index_list

    def _do_get_msrs(self, entry: _OpenFd, argument: Any) -> int:
        for position in range(argument.nmsrs):
            msr = argument.entries[position]
            if msr.index in self.refused_msrs:
                return position
            msr.data = entry.msrs.get(msr.index, 0)
        return int(argument.nmsrs)

    def _do_set_msrs(self, entry: _OpenFd, argument: Any) -> int:
        for position in range(argument.nmsrs):
            msr = argument.entries[position]
            if msr.index in self.refused_msrs:
                return position
            entry.msrs[msr.index] = msr.data
        return int(argument.nmsrs)


def _fill(argument: Any, count: str, array: str, values: list[Any]) -> None:
    room = getattr(argument, count)
    setattr(argument, count, len(values))
    if room < len(values):
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    for position, value in enumerate(values):
        getattr(argument, array)[position] = value
