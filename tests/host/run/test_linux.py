# SPDX-License-Identifier: Apache-2.0
"""A Linux as a guest of this host's KVM: to a program's end where programs can call their kernel, else to the first."""

from __future__ import annotations

import re

import pytest

from kvmapi import Kvm
from scripts.guest_initramfs import STATUS_MARKER, UP_MARKER
from tests.host.run.launch import ROOT, vmm_run
from tests.patience import patient
from vmm.backend.ring3 import system_call_reaches_ring_0

pytestmark = [pytest.mark.host, pytest.mark.timeout(patient(180))]

VMLINUX, INITRD = (ROOT / "build" / "guest-kernel" / name for name in ("vmlinux", "initrd.cpio"))
LIMIT_S = 120


def test_a_small_linux_gets_as_far_as_this_kvm_lets_it() -> None:
    assert VMLINUX.exists() and INITRD.exists(), "expected a guest kernel, found none: `make guest-kernel`"
    with Kvm.open() as kvm:
        programs_run = system_call_reaches_ring_0(kvm)

    result = vmm_run(
        str(VMLINUX), "--initrd", str(INITRD), "--cpus", "2", "--no-reboot", "--time-limit", str(LIMIT_S),
        "--append", 'console=ttyS0 panic=-1 guest_run="exit $((6 * 7))"', watchdog=patient(LIMIT_S + 30),
    )  # fmt: skip

    console = result.stdout
    assert result.returncode == 0, result.stderr + console[-3000:]
    assert re.search(r"smp: Brought up 1 node, 2 CPUs", console)
    assert "Run /init as init process" in console
    if programs_run:
        assert f"{UP_MARKER} cpus=2" in console
        assert f"{STATUS_MARKER} 42" in console
        assert "Call Trace" not in console
    else:
        # SYSCALL went to the kernel's entry point and left it in ring 3, which may not execute there.
        assert re.search(r"init\[1\]: segfault at (ffffffff8\w+) ip \1 .* error 15", console)
