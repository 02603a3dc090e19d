# SPDX-License-Identifier: Apache-2.0
"""Who closes what, when, and what happens to those who come too late; on the fake kernel."""

from __future__ import annotations

import errno
import gc
import os
import warnings
from collections.abc import Iterator

import pytest

from kvmapi import Kvm, KvmClosedError, KvmError, KvmUnavailableError
from kvmapi.fake import FakeKvm
from kvmapi.fake_exits import hlt
from kvmapi.uapi.kvm import KVM_EXIT_HLT


@pytest.fixture
def fake() -> Iterator[FakeKvm]:
    fake = FakeKvm()
    yield fake
    gc.collect()
    assert fake.leaks() == []


def test_closing_the_parent_closes_the_children_first(fake: FakeKvm, monkeypatch: pytest.MonkeyPatch) -> None:
    kvm = Kvm.open(seam=fake)
    vm = kvm.create_vm()
    vcpu = vm.create_vcpu(0)
    device = vm.create_device(4)
    closed: list[int] = []
    real_close = fake.close

    def close(fd: int) -> None:
        closed.append(fd)
        real_close(fd)

    monkeypatch.setattr(fake, "close", close)
    order = [vcpu.fileno(), vm.fileno(), kvm.fileno()]

    kvm.close()

    assert device is not None
    assert device.closed
    assert [fd for fd in closed if fd in order] == order


def test_close_may_be_repeated(fake: FakeKvm) -> None:
    kvm = Kvm.open(seam=fake)
    vcpu = kvm.create_vm().create_vcpu(0)

    for _ in range(3):
        vcpu.close()
        kvm.close()

    assert vcpu.closed


def test_context_managers_close_after_an_exception(fake: FakeKvm) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        Kvm.open(seam=fake) as kvm,
        kvm.create_vm() as vm,
        vm.create_vcpu(0),
    ):
        raise ZeroDivisionError

    assert fake.leaks() == []


def test_dropping_an_open_object_closes_it_and_warns(fake: FakeKvm) -> None:
    kvm = Kvm.open(seam=fake)
    vm = kvm.create_vm()
    vcpu = vm.create_vcpu(7)

    with pytest.warns(ResourceWarning, match="vCPU 7 was not closed"):
        del vcpu
        gc.collect()

    assert fake.leaks() == [f"system fd {kvm.fileno()}", f"vm fd {vm.fileno()}"]
    kvm.close()


def test_a_child_keeps_its_parents_alive(fake: FakeKvm) -> None:
    vcpu = Kvm.open(seam=fake).create_vm().create_vcpu(0)

    gc.collect()
    vcpu.run.immediate_exit = True

    assert vcpu.run_once() == errno.EINTR
    assert not vcpu.closed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the VM and Kvm are dropped with it, on purpose
        vcpu.close()
        del vcpu
        gc.collect()


@pytest.mark.parametrize(
    ("call", "number"),
    [("KVM_CREATE_VM", errno.ENOMEM), ("KVM_GET_VCPU_MMAP_SIZE", errno.EINVAL)],
)
def test_nothing_is_left_when_making_a_vm_fails(fake: FakeKvm, call: str, number: int) -> None:
    with Kvm.open(seam=fake) as kvm:
        fake.fail(call, number)

        with pytest.raises(KvmError, match=call):
            kvm.create_vm()


def test_nothing_is_left_when_mapping_a_vcpu_fails(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm:
        vm = kvm.create_vm()
        fake.fail("mmap", errno.ENOMEM)

        with pytest.raises(KvmError, match=r"mmap\(size=0x3000\) on vCPU 3 failed: ENOMEM"):
            vm.create_vcpu(3)

        assert [leak for leak in fake.leaks() if leak.startswith("vcpu")] == []


def test_create_vm_is_repeated_after_a_signal(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm:
        fake.fail("KVM_CREATE_VM", errno.EINTR, times=3)

        vm = kvm.create_vm()

        assert not vm.closed
        assert len(fake.called("KVM_CREATE_VM")) == 4


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENODEV])
def test_open_says_what_to_do(fake: FakeKvm, number: int) -> None:
    fake.fail("open", number)

    with pytest.raises(KvmUnavailableError) as caught:
        Kvm.open("/dev/kvm", seam=fake)

    assert caught.value.errno == number
    assert "path=/dev/kvm" in str(caught.value)
    assert caught.value.hint


def test_open_refuses_another_api_version(fake: FakeKvm) -> None:
    fake.api_version = 11

    with pytest.raises(KvmUnavailableError, match="API version 11, expected 12"):
        Kvm.open(seam=fake)


def test_open_refuses_what_is_not_kvm() -> None:
    with pytest.raises(KvmUnavailableError, match="not KVM's device"):
        Kvm.open("/dev/null")


def test_open_reports_a_missing_device() -> None:
    with pytest.raises(KvmUnavailableError, match=r"ENOENT .*modprobe kvm_intel"):
        Kvm.open("/dev/kvm-that-is-not-there")


def test_a_closed_object_says_so(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm:
        vcpu = kvm.create_vm().create_vcpu(5)

    with pytest.raises(KvmClosedError, match=r"KVM_GET_REGS.*vCPU 5 was closed before this call"):
        vcpu.get_regs()
    with pytest.raises(KvmClosedError, match="fileno"):
        vcpu.fileno()
    assert repr(vcpu) == "<vCPU 5, closed>"


@pytest.mark.parametrize(
    "name", ["u8", "u32", "u64", "struct", "regs", "sregs", "events", "exit_reason", "size"]
)
def test_kvm_run_after_close_says_so(fake: FakeKvm, name: str) -> None:
    with Kvm.open(seam=fake) as kvm:
        vcpu = kvm.create_vm().create_vcpu(0)
        run = vcpu.run

    with pytest.raises(KvmClosedError, match="vCPU 0 was closed"):
        getattr(run, name)


def test_kvm_run_has_no_other_attributes(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm:
        vcpu = kvm.create_vm().create_vcpu(0)

        with pytest.raises(AttributeError, match="no attribute 'u128'"):
            _ = vcpu.run.u128


def test_a_view_taken_before_close_raises(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm:
        vcpu = kvm.create_vm().create_vcpu(0)
        u32 = vcpu.run.u32

    with pytest.raises(ValueError, match="released memoryview"):
        _ = u32[2]


def test_a_structure_held_beyond_close_warns_and_stays_readable(fake: FakeKvm) -> None:
    kvm = Kvm.open(seam=fake)
    vcpu = kvm.create_vm().create_vcpu(0)
    fake.script(0, [hlt()])
    vcpu.run_once()
    held = vcpu.run.struct

    with pytest.warns(ResourceWarning, match="a view of kvm_run is still held"):
        kvm.close()

    assert held.exit_reason == KVM_EXIT_HLT
    fake.maps.clear()
    del held


def test_run_call_kept_beyond_close_does_not_reach_another_fd(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm:
        vcpu = kvm.create_vm().create_vcpu(0)

    with pytest.raises(OSError, match="Bad file descriptor"):
        call, fd, request = vcpu.run_call
        call(fd, request)
    with pytest.raises(KvmClosedError, match="KVM_RUN"):
        vcpu.run_once()


def test_run_once_returns_the_normal_errnos_and_raises_the_others(fake: FakeKvm) -> None:
    normal = [errno.EINTR, errno.EAGAIN, errno.EFAULT, 133]
    fake.script(0, [*normal, errno.EINVAL])
    with Kvm.open(seam=fake) as kvm:
        vcpu = kvm.create_vm().create_vcpu(0)

        assert [vcpu.run_once() for _ in normal] == normal
        with pytest.raises(KvmError, match=r"KVM_RUN\(\) on vCPU 0 failed: EINVAL"):
            vcpu.run_once()


def test_adopted_fds_are_owned(fake: FakeKvm) -> None:
    with Kvm.open(seam=fake) as kvm:
        vm = kvm.adopt_vm(fake._new("vm"))
        vcpu = vm.adopt_vcpu(fake._new("vcpu", 3), 3)

        assert vm.run_size == len(vcpu.run.u8) == 3 * 4096

    assert fake.leaks() == []


def test_real_fds_are_closed_on_exec() -> None:
    from kvmapi.seam import KERNEL

    fd = KERNEL.open("/dev/null")

    assert not os.get_inheritable(fd)
    KERNEL.close(fd)
