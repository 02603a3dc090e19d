# SPDX-License-Identifier: Apache-2.0
"""Debian's stock cloud kernel as our VMM's guest, on the lab's KVM."""

from __future__ import annotations

import re
import sys

import pytest

from scripts.debian_kernel import DebianKernel, ensure_debian_kernel
from scripts.guest_initramfs import STATUS_MARKER, UP_MARKER
from scripts.lab_vm import Lab
from tests.lab import emulation

# The first run builds the lab's kernel and fetches Debian's.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

BOOT_LIMIT = 400.0
"""Seconds for a guest's boot, 15 on an idle machine, and for Python's start, both emulated."""


@pytest.fixture(scope="module")
def debian() -> DebianKernel:
    return ensure_debian_kernel()


@pytest.mark.parametrize("cpus", [1, 4])
@pytest.mark.parametrize("protocol", ["bzImage", "PVH"])
def test_debian_s_kernel_boots_to_a_shell(debian: DebianKernel, protocol: str, cpus: int) -> None:
    kernel = debian.vmlinuz if protocol == "bzImage" else debian.vmlinux
    machine = ["--memory", "512M", "--cpus", str(cpus), "--initrd", str(debian.initrd)]
    # Every processor has to run a task; the shell's arithmetic shows that it is one.
    script = (
        "for cpu in $(seq 0 $(($(nproc) - 1))); do taskset -c $cpu echo ran on $cpu; done; exit $((6 * 7))"
    )
    append = f'console=ttyS0 guest_run="{script}"'

    result = emulation.run(
        Lab("upstream", time_limit=BOOT_LIMIT),
        [sys.executable, "-m", "vmm", "run", str(kernel), *machine, "--append", append],
    )

    console = result.stdout.decode(errors="replace")
    assert result.exit_status == 0, result.report or result.stderr.decode() + console[-3000:]
    assert re.search(rf"{UP_MARKER} cpus={cpus} release=6\.", console)
    assert re.findall(r"^ran on (\d+)\r?$", console, re.MULTILINE) == [str(cpu) for cpu in range(cpus)]
    assert f"{STATUS_MARKER} 42" in console
    assert "Call Trace" not in console
    assert result.warnings == ()
