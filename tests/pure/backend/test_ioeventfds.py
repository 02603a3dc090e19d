# SPDX-License-Identifier: Apache-2.0
"""Writes that KVM counts, and a VTL that wants to be told of them."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from kvmapi import Kvm, KvmError
from kvmapi.fake import FakeKvm
from kvmapi.uapi import kvm as k
from vmm.backend.ioeventfds import KvmIoEventFds
from vmm.vsm.intercept_table import PORTS, READ, WRITE

PORT = 0xD085


class Rig:
    def __init__(self, fake: FakeKvm, kvm: Kvm) -> None:
        self.fake = fake
        self.vm = kvm.create_vm()
        self.events = KvmIoEventFds(self.vm)

    def armed(self) -> set[tuple[int, int]]:
        """`(address, length)` of what KVM catches now."""
        found: set[tuple[int, int]] = set()
        for call in self.fake.called("KVM_IOEVENTFD"):
            event = k.kvm_ioeventfd.from_buffer_copy(call.argument)
            where = (event.addr, event.len)
            if event.flags & k.KVM_IOEVENTFD_FLAG_DEASSIGN:
                found.remove(where)
            else:
                found.add(where)
        return found


def taken_out(rig: Rig) -> list[int]:
    """The address of each call that takes one out, whatever became of it."""
    calls = [k.kvm_ioeventfd.from_buffer_copy(call.argument) for call in rig.fake.called("KVM_IOEVENTFD")]
    return [event.addr for event in calls if event.flags & k.KVM_IOEVENTFD_FLAG_DEASSIGN]


@pytest.fixture
def rig() -> Iterator[Rig]:
    fake = FakeKvm()
    fake.caps[k.KVM_CAP_IOEVENTFD_ANY_LENGTH] = 1
    with Kvm.open(seam=fake) as kvm:
        made = Rig(fake, kvm)
        yield made
        made.events.close()


def watched(*ports: int, accesses: int = WRITE) -> bytes:
    found = bytearray(PORTS)
    for port in ports:
        found[port] = accesses
    return bytes(found)


@pytest.mark.tlfs("VSM-120")
def test_a_port_that_is_watched_later_is_no_longer_caught(rig: Rig) -> None:
    armed = rig.events.add_ioeventfd(True, PORT, 1, 0xFA)
    rig.events.add_ioeventfd(False, 0xFEA0_0800, 0, None)
    assert armed is not None
    assert rig.armed() == {(PORT, 1), (0xFEA0_0800, 0)}

    rig.events.watch(watched(PORT))
    assert rig.armed() == {(0xFEA0_0800, 0)}
    assert armed.drain() == 0

    rig.events.watch(None)
    assert rig.armed() == {(PORT, 1), (0xFEA0_0800, 0)}


@pytest.mark.tlfs("VSM-120")
def test_a_port_that_is_watched_already_is_not_caught(rig: Rig) -> None:
    rig.events.watch(watched(PORT))

    armed = rig.events.add_ioeventfd(True, PORT, 1, None)

    assert armed is not None and rig.armed() == set()
    rig.events.watch(watched(PORT + 1))
    assert rig.armed() == {(PORT, 1)}


@pytest.mark.parametrize(
    ("size", "watch", "caught"),
    [
        (1, watched(PORT + 1), True),
        (2, watched(PORT + 1), False),
        (0, watched(PORT + 3), False),  # of any width
        (1, watched(PORT, accesses=READ), True),
        (1, watched(PORT, accesses=READ | WRITE), False),
    ],
)
def test_what_a_write_can_reach_counts(rig: Rig, size: int, watch: bytes, caught: bool) -> None:
    rig.events.add_ioeventfd(True, PORT, size, None)

    rig.events.watch(watch)

    assert rig.armed() == ({(PORT, size)} if caught else set())


def test_what_was_removed_stays_removed(rig: Rig) -> None:
    armed = rig.events.add_ioeventfd(True, PORT, 1, None)
    assert armed is not None
    rig.events.watch(watched(PORT))

    armed.remove()
    armed.remove()
    rig.events.watch(None)

    assert rig.armed() == set()


@pytest.mark.tlfs("VSM-120")
def test_one_that_kvm_has_lost_is_not_caught_and_is_caught_again_later(rig: Rig) -> None:
    """A kernel without memory drops all ioeventfds of its bus, when it is told to drop one."""
    armed = rig.events.add_ioeventfd(True, PORT, 1, None)
    assert armed is not None
    rig.fake.fail("KVM_IOEVENTFD", errno.ENOENT)

    rig.events.watch(watched(PORT))
    before = len(rig.fake.called("KVM_IOEVENTFD"))
    rig.events.watch(None)

    [call] = rig.fake.called("KVM_IOEVENTFD")[before:]
    assert not k.kvm_ioeventfd.from_buffer_copy(call.argument).flags & k.KVM_IOEVENTFD_FLAG_DEASSIGN


@pytest.mark.tlfs("VSM-120")
def test_one_that_kvm_keeps_is_told_of_and_the_others_are_not_caught(rig: Rig) -> None:
    for port in (PORT, PORT + 1):
        rig.events.add_ioeventfd(True, port, 1, None)
    rig.fake.fail("KVM_IOEVENTFD", errno.ENOMEM)

    with pytest.raises(KvmError):
        rig.events.watch(watched(PORT, PORT + 1))

    assert taken_out(rig)[:2] == [PORT, PORT + 1]
    rig.events.watch(watched(PORT, PORT + 1))  # as its guest would try it
    assert taken_out(rig) == [PORT, PORT + 1, PORT]


def test_a_kvm_that_does_not_take_it_back_leaves_it_to_the_device(rig: Rig) -> None:
    armed = rig.events.add_ioeventfd(True, PORT, 1, None)
    assert armed is not None
    rig.events.watch(watched(PORT))
    rig.fake.fail("KVM_IOEVENTFD", errno.EEXIST)

    rig.events.watch(None)

    assert armed.drain() == 0
    armed.remove()
