# SPDX-License-Identifier: Apache-2.0
"""A flush is done when no VP can use a stale translation, and not before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from vmm.backend import kick
from vmm.backend.hyperv.tlbs import VpTlbs
from vmm.backend.outcome import Outcome
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.hvcalls.outside import TlbFlush

IMMEDIATE_EXIT = 1
WATCHDOG_S = 10.0


def flush_of(vps: int, space: int = 0x1000) -> TlbFlush:
    return TlbFlush(vtl=0, vps=vps, address_space=space, global_too=True, ranges=None)


class Rig:
    """Three VPs, none of which runs; `carry_out` does what a kicked VP's thread would do."""

    def __init__(self, fake: FakeKvm, kvm: Kvm) -> None:
        self.fake, self.kvm = fake, kvm
        vm = kvm.create_vm()
        self.vps = [
            VirtualProcessor(number, vm.create_vcpu(number), PortBus(), MmioBus(), self.ended)
            for number in range(3)
        ]
        self.tlbs = VpTlbs(self.vps)

    def ended(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)

    def kicked(self) -> list[int]:
        return [vp.index for vp in self.vps if vp.vcpu.run.u8[IMMEDIATE_EXIT]]

    def carry_out(self, vp: int) -> None:
        self.vps[vp].vcpu.run.u8[IMMEDIATE_EXIT] = 0
        self.tlbs.after_kick(vp)

    def flush_while_kicked_come(self, request: TlbFlush, *vps: int) -> bool:
        """VP 0's flush, while these VPs come out of the guest when they are kicked. Whether it was done."""
        over = threading.Event()

        def come(vp: int) -> None:
            while not over.is_set():
                if vp in self.kicked():
                    self.carry_out(vp)
                time.sleep(0.0001)

        for vp in range(len(self.vps)):
            self.vps[vp].vcpu.run.u8[IMMEDIATE_EXIT] = 0
        self.tlbs._patience[0].seconds = 0.2  # they need much less
        threads = [threading.Thread(target=come, args=(vp,)) for vp in vps]
        for thread in threads:
            thread.start()
        try:
            return self.tlbs.flush(0, request)
        finally:
            over.set()
            for thread in threads:
                thread.join(WATCHDOG_S)

    def flushes(self) -> int:
        """TLBs flushed so far: each takes CR4 there and back."""
        sets = len(self.fake.called("KVM_SET_SREGS"))
        assert sets % 2 == 0
        return sets // 2


@contextmanager
def a_rig() -> Iterator[Rig]:
    kick.install()
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm:
        yield Rig(fake, kvm)
    assert fake.leaks() == []


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig() as made:
        yield made


def test_ones_own_tlb_is_flushed_at_once(rig: Rig) -> None:
    cr4_before = rig.vps[0].vcpu.get_sregs().cr4

    assert rig.tlbs.flush(0, flush_of(0b001))

    assert rig.flushes() == 1
    assert rig.kicked() == []
    assert rig.vps[0].vcpu.get_sregs().cr4 == cr4_before


@pytest.mark.tlfs("TLB-003")
def test_another_vps_flush_is_waited_for(rig: Rig) -> None:
    request = flush_of(0b010)

    assert not rig.tlbs.flush(0, request)
    assert rig.kicked() == [1]
    assert rig.flushes() == 0

    assert rig.flush_while_kicked_come(request, 1)
    assert rig.flushes() == 1


@pytest.mark.tlfs("TLB-003")
def test_all_targets_must_be_done(rig: Rig) -> None:
    request = flush_of(0b110)

    assert not rig.flush_while_kicked_come(request, 1)
    assert not rig.flush_while_kicked_come(request, 2)
    assert rig.flush_while_kicked_come(request, 1, 2)


def test_a_flush_that_came_too_late_is_not_that_of_an_equal_call(rig: Rig) -> None:
    """Whose caller has changed a mapping, after VP 1 flushed: the repeated call cannot be known from it."""
    request = flush_of(0b010)
    assert not rig.tlbs.flush(0, request)
    rig.carry_out(1)

    assert not rig.tlbs.flush(0, request)
    rig.carry_out(1)

    assert rig.flushes() == 2


def test_a_vp_that_waits_itself_counts_as_done_and_flushes_before_it_goes_on(rig: Rig) -> None:
    """Two VPs that flush each other's TLB must not wait for each other's patience to end."""
    results = []
    begin = threading.Barrier(2)

    def flush(vp: int) -> None:
        begin.wait()
        while not rig.tlbs.flush(vp, flush_of(0b11)):
            rig.carry_out(vp)
        rig.carry_out(vp)
        results.append(vp)

    threads = [threading.Thread(target=flush, args=(vp,)) for vp in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG_S)

    assert sorted(results) == [0, 1]
    # Each has at least carried out its own request and cannot have skipped the other's.
    assert rig.flushes() >= 2


@pytest.mark.tlfs("TLB-004")
def test_a_vp_in_another_vtl_flushes_the_tlb_of_the_one_that_does_not_run(rig: Rig) -> None:
    with rig.kvm.create_vm() as upper_vm:
        lower, upper = rig.vps[1].vcpu, upper_vm.create_vcpu(1)
        rig.vps[1].add_vcpu(upper)
        rig.vps[1].run_vtl(upper, rig.vps[1].handlers, None, rig.vps[1].ports)
        assert not rig.tlbs.flush(0, flush_of(0b010))

        rig.carry_out(1)

        written = [call.fd for call in rig.fake.called("KVM_SET_SREGS")]
        assert written == [lower.fileno()] * 2 + [upper.fileno()] * 2
        assert rig.flush_while_kicked_come(flush_of(0b010), 1)
        rig.vps[1].remove_vcpu(upper)


@pytest.mark.tlfs("TLB-004", "IMP-009")
def test_nothing_is_flushed_while_a_higher_vtl_holds_a_target(rig: Rig) -> None:
    """The call is made again until it is let go; then all that was asked for is done."""
    asked: list[tuple[int, int]] = []
    held = True

    def blocks(vtl: int, vps: int) -> bool:
        asked.append((vtl, vps))
        return held

    rig.tlbs.held = blocks
    assert not rig.tlbs.flush(0, flush_of(0b011))
    assert (rig.kicked(), rig.flushes(), asked) == ([], 0, [(0, 0b011)])
    held = False

    assert rig.flush_while_kicked_come(flush_of(0b011), 1)
    assert rig.flushes() == 2


def test_after_a_reset_nothing_is_owed(rig: Rig) -> None:
    assert not rig.tlbs.flush(0, flush_of(0b010))

    rig.tlbs.reset()

    rig.carry_out(1)
    assert rig.flushes() == 0
