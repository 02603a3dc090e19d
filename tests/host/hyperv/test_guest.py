# SPDX-License-Identifier: Apache-2.0
"""Our own guest finds the Hyper-V interface as it is announced, on every way to switch it on."""

from __future__ import annotations

import pytest

from tests.host.run.launch import guest, vmm_run

pytestmark = pytest.mark.host
LIMIT = ("--time-limit", "50")


@pytest.mark.parametrize(
    "options",
    [
        ["--machine", "hyperv=on", "--cpus", "2"],
        ["--machine", "hyperv=on,irqchip=split", "--cpus", "2"],
        ["--cpu", "max,hv-passthrough", "--cpus", "2"],
        ["--cpu", "qemu64,hv_passthrough,-x2apic", "--cpus", "2"],
    ],
    ids=lambda options: " ".join(options),
)
def test_every_check_passes(options: list[str]) -> None:
    result = vmm_run(guest("hyperv"), *options, *LIMIT)

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert "SKIP" not in result.stdout
    assert result.stdout.count("PASS") >= 54
    assert "internal error" not in result.stderr


@pytest.mark.parametrize("options", [[], ["--cpu", "max,hv-passthrough", "--machine", "hyperv=off"]])
def test_without_the_interface_a_guest_sees_none(options: list[str]) -> None:
    result = vmm_run(guest("hyperv"), *options, *LIMIT)

    assert result.returncode == 77
    assert "SKIP: no Hyper-V interface" in result.stdout


@pytest.mark.parametrize(
    ("cpu", "message"),
    [
        ("max,hv-stimer", "needs synic, time"),
        ("max,hv-nonsense", "expected one of"),
        ("max,hv-spinlocks=lots", "expected a number"),
        ("max,hv-time=perhaps", "expected hv-time=on or hv-time=off"),
    ],
)
def test_flags_that_make_no_interface_are_refused_in_one_line(cpu: str, message: str) -> None:
    result = vmm_run(guest("dummy"), "--cpu", cpu, *LIMIT)

    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.tlfs("MISC-002")
def test_a_crash_report_reaches_the_user() -> None:
    result = vmm_run(guest("hyperv"), "--machine", "hyperv=on", "--append", "crash", *LIMIT)

    assert result.returncode == 1, result.stdout + result.stderr
    assert "the guest reports a crash (VP 0, VTL 0): P0=0xbad P1=0x2" in result.stderr
    assert "vmm:   something broke\n" in result.stderr


@pytest.mark.tlfs("MISC-004")
def test_a_reset_by_msr_starts_anew_with_nothing_left() -> None:
    result = vmm_run(guest("hyperv"), "--machine", "hyperv=on", "--append", "reset", *LIMIT)

    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stdout.count("before the reset") == 1
    assert "PASS: all is as after power-on" in result.stdout


@pytest.mark.tlfs("HC-014")
def test_user_mode_makes_no_hypercall() -> None:
    result = vmm_run(guest("hyperv"), "--machine", "hyperv=on", "--append", "user", *LIMIT)

    assert result.returncode == 1, result.stdout + result.stderr
    assert "PASS: a call from ring 3 is refused" in result.stdout
