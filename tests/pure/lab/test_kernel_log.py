# SPDX-License-Identifier: Apache-2.0
"""What is read out of kernel logs. The logs in data/ were recorded in the lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.lab_vm.kernel_log import (
    REPORT_LINES,
    advice,
    failure_report,
    find_trouble,
    own_complaint,
    panic_headline,
    strip_timestamps,
    tail,
)

DATA = Path(__file__).parent / "data"


def log(name: str) -> str:
    return (DATA / name).read_text()


def test_a_good_boot_has_no_trouble() -> None:
    assert find_trouble(log("boot.log")) == []
    assert own_complaint(log("boot.log")) is None


def test_a_panic_is_found_with_its_call_trace() -> None:
    (trouble,) = find_trouble(log("sysrq-crash.log"))

    assert trouble.is_panic
    assert trouble.headline == "sysrq triggered crash"
    assert any("sysrq_handle_crash" in line for line in trouble.excerpt)


def test_an_oops_and_the_panic_it_leads_to_are_one_trouble() -> None:
    (trouble,) = find_trouble(log("oops.log"))

    assert trouble.is_panic
    assert trouble.headline == "Oops: double fault: 0000 [#1] SMP"
    assert "Kernel panic - not syncing: Fatal exception in interrupt" in trouble.excerpt


def test_a_warning_is_trouble_but_no_panic() -> None:
    (trouble,) = find_trouble(log("warning.log"))

    assert not trouble.is_panic
    assert trouble.headline.startswith("WARNING: CPU: ")
    assert panic_headline(log("warning.log")) is None


@pytest.mark.parametrize(
    "headline",
    [
        "WARNING: possible circular locking dependency detected",
        "WARNING: suspicious RCU usage",
        "WARNING: inconsistent lock state",
        "WARNING: lock held when returning to user space!",
        "[ BUG: Invalid wait context ]",
        "BUG: KCSAN: data-race in kvm_vcpu_kick / vcpu_enter_guest",
        "BUG: KASAN: slab-use-after-free in kvm_hv_hypercall+0x1/0x2",
    ],
)
def test_what_a_debug_kernel_says_is_trouble(headline: str) -> None:
    """Lockdep's and the sanitizers' words, as the kernel's source has them."""
    text = f"[    1.5] ============================\n[    1.5] {headline}\n[    1.5] 6.12.117-debug\n"

    (trouble,) = find_trouble(text)

    assert trouble.headline == headline


def test_a_kernel_without_the_root_s_drivers_gets_advice() -> None:
    report = failure_report("the kernel crashed", log("no-9p.log"))

    assert "Unable to mount root fs" in report
    assert "advice: the kernel cannot mount the lab's root" in report


def test_process_1_s_own_words_are_quoted() -> None:
    text = "[    1.5] lab: no virtio-serial port named lab.channel after 10 s\r\n[    1.6] reboot: Restarting\r\n"

    assert "process 1 of the lab says: no virtio-serial port" in failure_report("gone", text)


def test_without_trouble_the_report_ends_with_the_last_lines() -> None:
    text = "".join(f"[    {n}.000000] line {n}\n" for n in range(100))

    report = failure_report("time limit reached", text, ["processor 0 at 0x10"]).splitlines()

    assert report[0] == "time limit reached"
    assert report[1] == "processor 0 at 0x10"
    assert report[-1].strip() == "line 99"
    assert len(report) < 20


def test_an_empty_log_is_said_to_be_empty() -> None:
    assert "wrote nothing at all" in failure_report("hang", "")


def test_a_log_full_of_warnings_does_not_flood_the_report() -> None:
    block = "WARNING: CPU: 0 PID: 1 at a.c:1\nCall Trace:\n" + " f+0x1\n" * 300

    report = failure_report("hang", block * 50)

    assert len(report.splitlines()) < REPORT_LINES + 10


@pytest.mark.parametrize(
    ("line", "stripped"),
    [
        ("[    0.000000] Linux\r", "Linux"),
        ("<2>[   12.345678] lab: x", "lab: x"),
        ("no time", "no time"),
        ("[not a time] x", "[not a time] x"),
    ],
)
def test_timestamps_are_taken_off(line: str, stripped: str) -> None:
    assert strip_timestamps(line) == [stripped]


def test_memory_advice() -> None:
    assert "--memory" in advice("Kernel panic - not syncing: System is deadlocked on memory")[0]


def test_the_tail_leaves_out_empty_lines() -> None:
    assert tail("a\n\n\nb\n\n", 2) == ["a", "b"]
