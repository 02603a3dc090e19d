# SPDX-License-Identifier: Apache-2.0
"""Two VPs of one VTL on threads of their own, which both want to be alone, while a third thread freezes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kvmapi import Kvm, Vcpu
from tests.host.protection.world import DATA, PAGE, STACK, Port, World
from vmm.backend import kick
from vmm.backend.outcome import Outcome
from vmm.backend.protection.alone import Alone
from vmm.backend.protection.mapping_faults import MappingFaults
from vmm.backend.protection.stepping import Stepper
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.rights import NONE, READ, WRITE

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
        self.changed = threading.Condition()
        self.left = 2
        """VPs that have not come to their end."""
        self.heard: list[tuple[int, MemoryAccess]] = []
        """What VTL1 was told of: `(VP, access)`."""
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
        ports.add(DONE_PORT, 1, Port(lambda value: self._is_done(1)), "done")
        return ports

    def _is_done(self, processors: int) -> None:
        with self.changed:
            self.left -= processors
            self.changed.notify_all()

    def _end_run(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._is_done(2)

    def memory(self, vp: int, vtl: int, owner: int, access: MemoryAccess) -> None:
        """Rights stay as they are: the access is made again, and told again, until the test gives them back."""
        with self.changed:
            self.heard.append((vp, access))
            self.changed.notify_all()

    def wait_for(self, what: Callable[[], bool]) -> bool:
        """Whether it comes true before a VP must have come to its end."""
        with self.changed:
            return self.changed.wait_for(what, LIMIT_SECONDS)

    def counts(self) -> list[int]:
        """What both have added together, and each by itself."""
        return [int.from_bytes(self.ram.read(COUNT + 8 * index, 8), "little") for index in range(3)]

    def take_away(self) -> bool:
        """No rights to DATA until VTL1 is told of an access, or a VP has come to its end. Whether it was told."""
        heard, left = len(self.heard), self.left
        self.restrict(DATA, NONE)
        assert self.wait_for(lambda: len(self.heard) > heard or self.left < left), "nobody is told"
        self.restrict(DATA, READ | WRITE)
        return len(self.heard) > heard

    def wait_for_progress(self) -> None:
        """Until each VP has gone round its loop, or come to its end."""
        wanted = [min(count + 2, ROUNDS) for count in self.counts()[1:]]
        deadline = time.monotonic() + LIMIT_SECONDS
        while any(count < least for count, least in zip(self.counts()[1:], wanted, strict=True)):
            assert time.monotonic() < deadline, "a VP does not go on"
            time.sleep(0.001)

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
            assert world.view.lacks(DATA // PAGE, READ)
            for processor in world.processors:
                processor.thaw()

    control = threading.Thread(target=freeze_and_thaw)
    world.go()
    control.start()
    try:
        assert world.wait_for(lambda: world.left <= 0), "a VP did not come to its end"
    finally:
        ended.set()
        control.join(LIMIT_SECONDS)

    assert world.outcome is None and not control.is_alive()
    assert world.counts() == [2 * ROUNDS, ROUNDS, ROUNDS]
    assert world.heard == []


@pytest.mark.tlfs("VSM-078")
def test_rights_that_change_while_both_use_them(world: TwoProcessors) -> None:
    """From RW to none and back: told of whoever has none, and of nobody from then on that the rights are back."""
    world.prepare(0)
    started(world)
    world.restrict(DATA, READ | WRITE)
    world.go()
    turns = 0
    while world.left > 0:
        turns += world.take_away()
        world.wait_for_progress()  # whoever was about to tell has done so
        heard = len(world.heard)
        world.wait_for_progress()
        assert len(world.heard) == heard, "told of an access that is allowed"

    assert world.outcome is None and turns > 0
    assert world.counts() == [2 * ROUNDS, ROUNDS, ROUNDS]
    assert {access.wanted for _, access in world.heard} == {WRITE}
    assert all(access.gpa // PAGE == DATA // PAGE for _, access in world.heard)
