# SPDX-License-Identifier: Apache-2.0
"""`quick_ioctl`: an ioctl that is prepared once and done often, with the errors that the others have."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from kvmapi import Kvm, KvmClosedError, KvmError
from kvmapi.fake import FakeKvm
from kvmapi.seam import KERNEL
from kvmapi.uapi import x86
from kvmapi.uapi.kvm_ioctl import KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS

FIONREAD = 0x541B  # asm-generic/ioctls.h: how many bytes can be read


def test_it_fills_the_same_argument_each_time() -> None:
    with Kvm.open(seam=FakeKvm()) as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        registers = x86.kvm_debugregs()
        get = vcpu.quick_ioctl(KVM_GET_DEBUGREGS, registers)
        put = vcpu.quick_ioctl(KVM_SET_DEBUGREGS, registers)

        registers.dr7 = 0x401
        put()
        registers.dr7 = 0
        get()

        assert registers.dr7 == 0x401


def test_an_error_names_the_ioctl_its_operands_and_the_object() -> None:
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        get = vcpu.quick_ioctl(KVM_GET_DEBUGREGS, x86.kvm_debugregs(), why="a test")
        fake.fail("KVM_GET_DEBUGREGS", errno.EINVAL)

        with pytest.raises(KvmError, match=r"KVM_GET_DEBUGREGS.*a test") as caught:
            get()

        assert caught.value.errno == errno.EINVAL
        get()  # and it may be called again


def test_none_is_made_for_a_closed_object() -> None:
    with Kvm.open(seam=FakeKvm()) as kvm, kvm.create_vm() as vm:
        vcpu = vm.create_vcpu(0)
        vcpu.close()

        with pytest.raises(KvmClosedError):
            vcpu.quick_ioctl(KVM_GET_DEBUGREGS, x86.kvm_debugregs())


def test_the_kernels_answer_and_errno(tmp_path: Path) -> None:
    path = tmp_path / "five"
    path.write_bytes(b"12345")
    count = ctypes.c_int()
    numbers: list[int] = []

    def failed(number: int) -> OSError:
        numbers.append(number)
        return OSError(number, os.strerror(number))

    with path.open("rb") as file:
        KERNEL.quick_call(file.fileno(), FIONREAD, count, failed)()
        assert count.value == 5
        with pytest.raises(OSError, match="ioctl"):
            KERNEL.quick_call(file.fileno(), KVM_GET_DEBUGREGS, x86.kvm_debugregs(), failed)()
    assert numbers == [errno.ENOTTY]
