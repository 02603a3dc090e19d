# SPDX-License-Identifier: Apache-2.0
"""Two VPs of one VTL on threads of their own, which both want to be alone, while a third thread freezes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kvmapi import Kvm, Vcpu
from tests.host.protection.world import DATA, STACK, World
from vmm.backend import kick
from vmm.backend.outcome import Outcome
from vmm.backend.protection.alone import Alone
from vmm.backend.protection.mapping_faults import MappingFaults
from vmm.backend.protection.stepping import Stepper
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.vsm.rights import READ, WRITE

pytestmark = pytest.mark.host

ROUNDS = 150
COUNT = DATA + 0x40
DONE_PORT = 0xE8
# ROUNDS times: lock add [COUNT], 1, and an unlocked increment of a counter of its own at RSI
PROGRAM = (
    b"\xf0\x48\x83\x07\x01"  # lock add qword [rdi], 1
    b"\x48\xff\x06"  # inc qword [rsi]
    b"\xff\xc9"  # dec ecx
    b"\x75\xf4"  # jnz
    b"\xe6\xe8"  # out DONE_PORT, al
    b"\xeb\xfe"
)  # fmt: skip
LIMIT_SECONDS = 60


class TwoProcessors(World):
    """A world with a second vCPU, both run by threads."""

    def __post_init__(self) -> None:
        kick.install()
        super().__post_init__()
        self.done = threading.Semaphore(0)
        second = self.vm.create_vcpu(1)
        second.set_cpuid2(self.kvm.supported_cpuid())
        self.vcpus: list[Vcpu] = [self.vcpu, second]
        self.processors = [
            VirtualProcessor(index, vcpu, self._ports(), MmioBus(), self._end_run)
            for index, vcpu in enumerate(self.vcpus)
        ]
        alone = Alone(self.processors)
        for processor, vcpu in zip(self.processors, self.vcpus, strict=True):
            stepper = Stepper(processor, vcpu, self.view, self.rightful, alone, hardware=self.hardware)
            MappingFaults(
                processor, vcpu, 0, self.view, self.rightful, self, self, stepper, hardware=self.hardware
            ).attach(processor.handlers)

    def _ports(self) -> PortBus:
        ports = PortBus()
        ports.add(DONE_PORT, 1, self, "done")  # type: ignore[arg-type]
        return ports

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.done.release()

    def _end_run(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.done.release(2)

    def prepare(self, ring: int) -> None:
        first = self.vcpu
        for index, vcpu in enumerate(self.vcpus):
            self.vcpu = vcpu
            self.start(
                PROGRAM, ring, rdi=COUNT, rsi=COUNT + 8 + 8 * index, rcx=ROUNDS, rsp=STACK - 64 * index
            )
        self.vcpu = first
        self.ram.write(COUNT, bytes(24))

    def go(self) -> None:
        for processor in self.processors:
            processor.start()
            processor.thaw()

    def stop(self) -> None:
        for processor in self.processors:
            processor.stop()


@pytest.fixture
def world() -> Iterator[TwoProcessors]:
    with Kvm.open() as kvm, kvm.create_vm() as vm:
        vm.create_irqchip()
        world = TwoProcessors(kvm, vm)
        try:
            yield world
        finally:
            world.stop()
            world.close()


def started(world: TwoProcessors) -> None:
    """The second vCPU does not wait for INIT and SIPI."""
    for vcpu in world.vcpus:
        vcpu.set_mp_state(0)


@pytest.mark.tlfs("VSM-078")
@pytest.mark.parametrize("ring", [0, 3])
def test_both_step_and_are_frozen_now_and_then(world: TwoProcessors, ring: int) -> None:
    """Nothing is lost of LOCKed accesses, nobody waits for ever."""
    world.prepare(ring)
    started(world)
    world.restrict(DATA, READ | WRITE)
    ended = threading.Event()

    def freeze_and_thaw() -> None:
        while not ended.wait(0.01):
            for processor in world.processors:
                processor.freeze()
            for processor in world.processors:
                processor.wait_frozen()
            assert world.view.lacks(DATA // 4096, READ)
            for processor in world.processors:
                processor.thaw()

    control = threading.Thread(target=freeze_and_thaw)
    world.go()
    control.start()
    try:
        for _ in range(2):
            assert world.done.acquire(timeout=LIMIT_SECONDS), "a VP did not come to its end"
    finally:
        ended.set()
        control.join(LIMIT_SECONDS)

    assert world.outcome is None and not control.is_alive()
    counts = [int.from_bytes(world.ram.read(COUNT + 8 * index, 8), "little") for index in range(3)]
    assert counts == [2 * ROUNDS, ROUNDS, ROUNDS]
    assert world.told == []


@pytest.mark.tlfs("VSM-078")
def test_rights_that_change_while_both_use_them(world: TwoProcessors) -> None:
    """From RW to none: told once at least, and never after it was given back."""
    world.prepare(0)
    started(world)
    world.restrict(DATA, READ | WRITE)
    world.go()
    deadline = time.monotonic() + LIMIT_SECONDS
    left = 2
    while left and time.monotonic() < deadline:
        world.restrict(DATA, 0)
        time.sleep(0.002)
        world.restrict(DATA, READ | WRITE)
        left -= world.done.acquire(blocking=False)

    assert not left and world.outcome is None
    counts = [int.from_bytes(world.ram.read(COUNT + 8 * index, 8), "little") for index in range(3)]
    assert counts == [2 * ROUNDS, ROUNDS, ROUNDS]
