# SPDX-License-Identifier: Apache-2.0
"""Port-write exits per second: our whole machine against a minimal C loop (`bench/c/exit_loop.c`).

Both run the same three bytes of guest code on the same `/dev/kvm`, in turns, with KVM's local APIC, IOAPIC and PIT.
Our side is the machine as `vmm run` makes it, with its interpreter settings; each write goes through the port bus to a
device method that counts it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from bench.build import BenchError, c_program, run_program, time_limit_s
from bench.figure import Figure, Side
from kvmapi import Kvm, KvmError
from kvmapi.uapi import kvm as k
from vmm.cli.run import SWITCH_INTERVAL_S
from vmm.machine.board import BoardEnds
from vmm.machine.config import MachineConfig
from vmm.machine.entry_registers import put_real_mode
from vmm.machine.machine import Machine

CODE = bytes.fromhex("ee ebfd")  # 1: out %al, %dx; jmp 1b
CODE_GPA = 0x7C00
FIRST_PORT = 0x5000
EXITS = 100_000  # per vCPU and sample: about a second where an exit takes 9 us
WATCHDOG_S = 120


class CountingPort:
    """Counts writes; tells the time at the first and at the last one."""

    def __init__(self, machine: Machine, others: list[CountingPort]) -> None:
        self.count = 0
        self.begin = self.end = 0.0
        self._next_event = 1
        self._machine = machine
        self._others = others

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        count = self.count = self.count + 1
        if count == self._next_event:
            self._take_time()

    def _take_time(self) -> None:
        if not self.begin:
            self.begin = time.perf_counter()
            self._next_event = EXITS + 1
        else:
            self.end = time.perf_counter()
            if all(port.end for port in self._others):
                self._machine.control.power_off()

    @property
    def per_second(self) -> float:
        return EXITS / (self.end - self.begin)


def ours(cpus: int) -> float:
    """Exits per second of all vCPUs of one of our machines."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with tempfile.TemporaryDirectory() as directory, Kvm.open() as kvm:
        code = Path(directory, "code.bin")
        code.write_bytes(CODE)
        config = MachineConfig(kernel=code, raw_address=CODE_GPA, cpus=cpus, memory_bytes=16 << 20)
        with Machine(config, BoardEnds(serial=lambda _: None, debug=lambda _: None), kvm) as machine:
            counters: list[CountingPort] = []
            for vp in machine.vps:
                counter = CountingPort(machine, counters)
                counters.append(counter)
                machine.ports.add(FIRST_PORT + vp.index, 1, counter, "counter")
                vp.vcpu.set_mp_state(k.KVM_MP_STATE_RUNNABLE)
                put_real_mode(vp.vcpu, CODE_GPA)
                regs = vp.vcpu.get_regs()
                regs.rdx = FIRST_PORT + vp.index
                vp.vcpu.set_regs(regs)
            outcome = machine.run(time_limit_s(WATCHDOG_S))
    if not all(counter.end for counter in counters):
        raise BenchError(f"the exit loop ended early: {outcome.detail}")
    return sum(counter.per_second for counter in counters)


def reference(cpus: int) -> float:
    """Exits per second of the C loop."""
    command = [str(c_program("exit_loop")), str(cpus), str(EXITS)]
    result = run_program(command, time_limit_s(WATCHDOG_S))
    if result.returncode:
        raise BenchError(f"the C loop failed: {result.stderr.decode(errors='replace').strip()}")
    return float(result.stdout)


def run(runs: int) -> list[Figure]:
    """Figures for 1 and 2 vCPUs."""
    figures = []
    try:
        for cpus in (1, 2):
            samples = [(ours(cpus), reference(cpus)) for _ in range(runs)]
            figures.append(
                Figure(
                    name=f"exits-{cpus}-vcpu",
                    unit="exits/s",
                    better="higher",
                    ours=Side("vmm", [pair[0] for pair in samples]),
                    reference=Side("c-loop", [pair[1] for pair in samples]),
                )
            )
    except KvmError as error:
        raise BenchError(str(error)) from error
    return figures
