# SPDX-License-Identifier: Apache-2.0
"""Debian's stock cloud kernel finds Hyper-V in our VMM, and uses what it finds."""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.debian_kernel import ensure_debian_kernel
from scripts.guest_initramfs import STATUS_MARKER
from scripts.lab_vm import Lab
from scripts.lab_vm.guest_program import build_guest_program
from scripts.lab_vm.initramfs import make_initramfs, program
from scripts.lab_vm.places import BUILD
from tests.lab import emulation

# The first run builds the lab's kernel and fetches Debian's.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

BOOT_LIMIT = 400.0
"""Seconds for a guest's boot, 15 on an idle machine, and for Python's start, both emulated."""
CPUS = 2
FLUSHES = 20

# A kernel has its functions traced to see that it does not fall back: hyperv_* events tell of every IPI and remote
# flush that goes Hyper-V's way first, the functions of the local APIC's drivers that send IPIs all have send_IPI
# in their name, and TLB shootdowns in /proc/interrupts count remote flushes by IPI.
SCRIPT = "; ".join(
    (
        "mount -t tracefs tracefs /sys/kernel/tracing",
        "cd /sys/kernel/tracing",
        "echo *send_IPI* > set_ftrace_filter",
        "echo function > current_tracer",
        "echo 1 > events/hyperv/enable",
        # A process is woken on one processor by the other; threads of one that share memory have its TLB flushed.
        "for i in 1 2 3 4; do taskset -p 1 $$; (:); taskset -p 2 $$; (:); done > /dev/null",
        "taskset -p 3 $$ > /dev/null",
        f"remote_flush {FLUSHES}",
        "echo 0 > tracing_on",
        "echo ipis $(grep -c hyperv_send_ipi trace)",
        "echo native-ipis $(grep -c send_IPI trace)",
        "echo flushes $(grep -c hyperv_mmu_flush_tlb_multi trace)",
        "cd /sys/devices/system",
        "echo clocksource $(cat clocksource/clocksource0/current_clocksource)",
        "echo clockevents $(cat clockevents/clockevent?/current_device)",
        "grep -e LOC: -e TLB: -e HVS: -e RES: /proc/interrupts",
        "echo complaints",
        "dmesg -r | grep ^.[0-4]",
        "echo complaints end",
        "exit $((6 * 7))",
    )
)

NOT_OURS = (
    "fail to add MMCONFIG information",  # the board has PCI, not PCI Express
    "i8042: PNP: PS/2 appears to have AUX port disabled",  # it has no mouse
    "hrtimer: interrupt took",  # software emulation on a loaded host
)


@dataclass(frozen=True)
class Boot:
    """What the guest told."""

    console: str

    def word(self, name: str) -> str:
        """What stands behind `name` on a line of its own."""
        found = re.search(rf"^{name} (.*)$", self.console, re.MULTILINE)
        assert found is not None, f"no line '{name} ...' in\n{self.console[-6000:]}"
        return found[1].strip()

    def interrupts(self, name: str) -> list[int]:
        """A line of /proc/interrupts, by processor."""
        return [int(count) for count in self.word(rf" *{name}:").split()[:CPUS]]


@pytest.fixture(scope="module")
def boot() -> Boot:
    debian = ensure_debian_kernel()
    flusher = program("bin/remote_flush", build_guest_program("remote_flush").read_bytes())
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:  # the lab has a /tmp of its own
        initrd = Path(directory, "initrd.img")
        # A kernel unpacks archives one after the other.
        initrd.write_bytes(debian.initrd.read_bytes() + make_initramfs([flusher]))
        return boot_with(debian.vmlinuz, initrd)


def boot_with(kernel: Path, initrd: Path) -> Boot:
    machine = [
        "--memory",
        "512M",
        "--cpus",
        str(CPUS),
        "--machine",
        "hyperv=on",
        "--initrd",
        str(initrd),
    ]
    append = f'console=ttyS0 guest_run="{SCRIPT}"'
    result = emulation.run(
        Lab("upstream", time_limit=BOOT_LIMIT),
        [sys.executable, "-m", "vmm", "run", str(kernel), *machine, "--append", append],
    )
    console = result.stdout.decode(errors="replace").replace("\r", "")
    assert result.exit_status == 0, result.report or result.stderr.decode() + console[-3000:]
    assert f"{STATUS_MARKER} 42" in console, console[-6000:]
    return Boot(console)


@pytest.mark.tlfs("LNX-001", "DISC-001", "DISC-002", "DISC-003")
def test_it_detects_hyper_v_with_our_privileges(boot: Boot) -> None:
    assert "Hypervisor detected: Microsoft Hyper-V" in boot.console
    found = re.search(r"Hyper-V: privilege flags low (0x[0-9a-f]+), high (0x[0-9a-f]+)", boot.console)
    assert found is not None
    low, high = (int(word, 16) for word in found.groups())
    # Hypercall MSRs and VP index, without which Linux leaves Hyper-V alone; reference counter, SynIC, timers, TSC page.
    assert low & 0x26E == 0x26E
    assert high & 0x30 == 0x30  # PostMessages, SignalEvents


@pytest.mark.tlfs("LNX-002", "TMR-002")
def test_its_clock_is_the_reference_tsc_page(boot: Boot) -> None:
    assert boot.word("clocksource") == "hyperv_clocksource_tsc_page"


@pytest.mark.tlfs("LNX-002")
def test_its_timers_are_synthetic(boot: Boot) -> None:
    assert boot.word("clockevents") == " ".join(["Hyper-V clockevent"] * CPUS)
    assert all(count > 100 for count in boot.interrupts("HVS"))
    assert boot.interrupts("LOC") == [0] * CPUS


@pytest.mark.tlfs("LNX-004")
def test_its_interprocessor_interrupts_are_hypercalls(boot: Boot) -> None:
    assert "Hyper-V: Using IPI hypercalls" in boot.console
    assert int(boot.word("ipis")) > 0
    assert int(boot.word("native-ipis")) == 0
    assert any(boot.interrupts("RES"))


@pytest.mark.tlfs("LNX-004")
def test_its_remote_tlb_flushes_are_hypercalls(boot: Boot) -> None:
    assert "Hyper-V: Using hypercall for remote TLB flush" in boot.console
    assert int(boot.word("flushes")) > 0, f"of {FLUSHES} pages that another processor may have had in its TLB"
    assert boot.interrupts("TLB") == [0] * CPUS


def test_it_complains_of_nothing(boot: Boot) -> None:
    lines = boot.console.split("\ncomplaints\n")[1].split("complaints end\n")[0].splitlines()

    assert [line for line in lines if not any(known in line for known in NOT_OURS)] == []
    assert "Call Trace" not in boot.console
