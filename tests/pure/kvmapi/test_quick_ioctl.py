# SPDX-License-Identifier: Apache-2.0
"""Ioctls that are prepared once and done often (`quick_ioctl`, `prepared_ioctl`), with the errors that others have."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmapi import Kvm, KvmClosedError, KvmError
from kvmapi.fake import FakeKvm
from kvmapi.seam import KERNEL
from kvmapi.uapi import x86
from kvmapi.uapi.kvm_ioctl import KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS

KINDS = ("quick_ioctl", "prepared_ioctl")
FIONREAD = 0x541B  # asm-generic/ioctls.h: how many bytes can be read


@pytest.mark.parametrize("kind", KINDS)
def test_it_fills_the_same_argument_each_time(kind: str) -> None:
    with Kvm.open(seam=FakeKvm()) as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        registers = x86.kvm_debugregs()
        get = getattr(vcpu, kind)(KVM_GET_DEBUGREGS, registers)
        put = getattr(vcpu, kind)(KVM_SET_DEBUGREGS, registers)

        registers.dr7 = 0x401
        put()
        registers.dr7 = 0
        get()

        assert registers.dr7 == 0x401


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_names_the_ioctl_its_operands_and_the_object(kind: str) -> None:
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        get = getattr(vcpu, kind)(KVM_GET_DEBUGREGS, x86.kvm_debugregs(), why="a test")
        fake.fail("KVM_GET_DEBUGREGS", errno.EINVAL)

        with pytest.raises(KvmError, match=r"KVM_GET_DEBUGREGS.*a test") as caught:
            get()

        assert caught.value.errno == errno.EINVAL
        get()  # and it may be called again


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_made_for_a_closed_object(kind: str) -> None:
    with Kvm.open(seam=FakeKvm()) as kvm, kvm.create_vm() as vm:
        vcpu = vm.create_vcpu(0)
        vcpu.close()

        with pytest.raises(KvmClosedError):
            getattr(vcpu, kind)(KVM_GET_DEBUGREGS, x86.kvm_debugregs())


@pytest.mark.parametrize("call", [KERNEL.quick_call, KERNEL.prepared_call])
def test_the_kernels_answer_and_errno(tmp_path: Path, call: Callable[..., Callable[[], object]]) -> None:
    path = tmp_path / "five"
    path.write_bytes(b"12345")
    count = ctypes.c_int()
    numbers: list[int] = []

    def failed(number: int) -> OSError:
        numbers.append(number)
        return OSError(number, os.strerror(number))

    with path.open("rb") as file:
        call(file.fileno(), FIONREAD, count, failed)()
        assert count.value == 5
        with pytest.raises(OSError, match="ioctl"):
            call(file.fileno(), KVM_GET_DEBUGREGS, x86.kvm_debugregs(), failed)()
    assert numbers == [errno.ENOTTY]
