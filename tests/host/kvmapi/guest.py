# SPDX-License-Identifier: Apache-2.0
"""Real-mode guests of a few bytes for the tests beside this file."""

from __future__ import annotations

import ctypes
import errno
import mmap
import signal
import threading
from types import TracebackType

from kvmapi import Exit, Vcpu, Vm, decode
from tests.patience import patient

CODE = 0x1000
RAM_SIZE = 0x10000
# No test guest needs a hundredth of this.
WATCHDOG_SECONDS = patient(20)
KICK = signal.SIGUSR1


class Guest:
    """64 KiB of RAM at 0 with `code` at 0x1000, and one vCPU about to run it in real mode with flat segments."""

    def __init__(self, vm: Vm, code: str, flags: int = 0) -> None:
        self.ram = mmap.mmap(-1, RAM_SIZE)
        self._pin = ctypes.c_char.from_buffer(self.ram)
        text = bytes.fromhex(code)
        self.ram[CODE : CODE + len(text)] = text
        vm.set_user_memory_region(0, 0, RAM_SIZE, ctypes.addressof(self._pin), flags)
        self.vm = vm
        self.vcpu: Vcpu = vm.create_vcpu(0)
        self.start(CODE)

    def start(self, rip: int) -> None:
        sregs = self.vcpu.get_sregs()
        for segment in (sregs.cs, sregs.ds, sregs.es, sregs.ss):
            segment.base = segment.selector = 0
        self.vcpu.set_sregs(sregs)
        regs = self.vcpu.get_regs()
        regs.rip, regs.rsp, regs.rflags = rip, 0x8000, 2
        self.vcpu.set_regs(regs)

    def run(self) -> Exit:
        """One KVM_RUN to its end; EINTR is repeated. A guest that does not exit fails the test."""
        overdue = threading.Event()
        thread = threading.get_ident()

        def stop() -> None:
            overdue.set()
            self.vcpu.run.immediate_exit = True
            signal.pthread_kill(thread, KICK)

        timer = threading.Timer(WATCHDOG_SECONDS, stop)
        timer.start()
        try:
            while (result := self.vcpu.run_once()) == errno.EINTR:
                if overdue.is_set():
                    raise AssertionError(f"the guest ran for {WATCHDOG_SECONDS} s without an exit")
            assert result == 0, f"KVM_RUN returned {errno.errorcode.get(result, result)}"
            return decode(self.vcpu.run)
        finally:
            timer.cancel()
            timer.join()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vm.close()
        del self._pin
        self.ram.close()
