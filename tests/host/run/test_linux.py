# SPDX-License-Identifier: Apache-2.0
"""A Linux as a guest of this host's KVM, whether that runs ring 0 or emulates it."""

from __future__ import annotations

import re

import pytest

from scripts.guest_initramfs import STATUS_MARKER, UP_MARKER
from tests.host.run.launch import ROOT, vmm_run
from tests.patience import patient

pytestmark = [pytest.mark.host, pytest.mark.timeout(patient(400))]

VMLINUX, INITRD = (ROOT / "build" / "guest-kernel" / name for name in ("vmlinux", "initrd.cpio"))
LIMIT_S = 300


def test_a_small_linux_boots_to_a_shell() -> None:
    assert VMLINUX.exists() and INITRD.exists(), "expected a guest kernel, found none: `make guest-kernel`"
    # The shell's arithmetic shows that it is one; taskset, that both processors run programs.
    script = "for cpu in 0 1; do taskset -c $cpu echo ran on $cpu; done; exit $((6 * 7))"

    result = vmm_run(
        str(VMLINUX), "--initrd", str(INITRD), "--cpus", "2", "--no-reboot", "--time-limit", str(LIMIT_S),
        "--append", f'console=ttyS0 panic=-1 guest_run="{script}"', watchdog=patient(LIMIT_S + 30),
    )  # fmt: skip

    console = result.stdout
    assert result.returncode == 0, result.stderr + console[-3000:]
    assert f"{UP_MARKER} cpus=2" in console
    assert re.findall(r"^ran on (\d)\r?$", console, re.MULTILINE) == ["0", "1"]
    assert f"{STATUS_MARKER} 42" in console
    assert "Call Trace" not in console
    assert "Power down" in console
