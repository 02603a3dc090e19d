# SPDX-License-Identifier: Apache-2.0
"""Statistics files laid out by hand as api.rst 4.133 has them."""

from __future__ import annotations

import errno
from struct import pack

import pytest

from kvmapi import Kvm, KvmClosedError, KvmError
from kvmapi.fake import FakeKvm

NAME_SIZE = 16


def desc(flags: int, exponent: int, count: int, offset: int, bucket: int, name: bytes) -> bytes:
    return pack("<IhHII", flags, exponent, count, offset, bucket) + name.ljust(NAME_SIZE, b"\0")


# Header of 24 bytes, id at 24, three descriptors at 40, values at 136.
EXITS = desc(0x000, 0, 1, 0, 0, b"exits")
POLL = desc(0x021, -9, 1, 8, 0, b"halt_poll_ns")
SIZES = desc(0x113, 4, 3, 16, 5, b"sizes")
FILE = (
    pack("<6I", 0, NAME_SIZE, 3, 24, 40, 136)
    + b"kvm-7/vcpu-0".ljust(NAME_SIZE, b"\0")
    + EXITS
    + POLL
    + SIZES
    + pack("<5Q", 1000, 2000, 1, 2, 3)
)


@pytest.fixture
def fake() -> FakeKvm:
    fake = FakeKvm()
    fake.stats_file = FILE
    return fake


def test_names_and_values(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm, vm.stats() as stats:
        assert stats.identity == "kvm-7/vcpu-0"
        assert stats.read() == {"exits": (1000,), "halt_poll_ns": (2000,), "sizes": (1, 2, 3)}


def test_meanings(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm, vm.stats() as stats:
        exits, poll, sizes = stats.statistics

    assert (exits.kind, exits.unit, exits.factor) == ("cumulative", "", 1)
    assert (poll.kind, poll.unit, poll.factor) == ("instant", "seconds", 1e-9)
    assert (sizes.kind, sizes.unit, sizes.factor, sizes.bucket_size) == ("linear histogram", "bytes", 16, 5)


def test_a_failed_read_names_the_statistics(fake: FakeKvm) -> None:
    fake.fail("read", errno.EIO)

    with (
        Kvm.open(seam=fake) as kvm,
        kvm.create_vm() as vm,
        vm.stats() as stats,
        pytest.raises(KvmError, match=r"read\(offset=0, size=0x18\) on Stats of Vm fd 1001 failed: EIO"),
    ):
        stats.read()


def test_closed(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm:
        stats = vm.stats()

    with pytest.raises(KvmClosedError):
        stats.read()
