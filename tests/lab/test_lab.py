# SPDX-License-Identifier: Apache-2.0
"""The lab with a real kernel. Nothing here needs /dev/kvm on the outside."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from scripts.lab_vm import Lab, LabResult, Outcome
from scripts.lab_vm.guest_program import build_guest_program
from scripts.lab_vm.lab import Capture
from scripts.lab_vm.machine import SPARE_CPUS
from scripts.lab_vm.places import CHECKOUT

# The first run builds the kernel: 10 minutes of one processor, shared with whatever else the machine does.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

COMMAND_LIMIT = 240.0
"""Seconds for the commands below, which take under 5 on an idle machine."""


@pytest.fixture(scope="module")
def lab() -> Lab:
    lab = Lab("upstream", time_limit=COMMAND_LIMIT)
    lab.image()
    return lab


def shell(lab: Lab, script: str) -> LabResult:
    return lab.run(["sh", "-c", script])


def test_output_and_exit_status_come_back_unchanged(lab: Lab) -> None:
    # Carriage returns, NULs and bytes that are no text: nothing between the command and us is a terminal.
    result = shell(lab, r"printf 'a\r\n\000\377'; printf err >&2; exit 7")

    assert result.outcome is Outcome.EXITED, result.report
    assert (result.exit_status, result.stdout, result.stderr) == (7, b"a\r\n\0\xff", b"err")


def test_a_kernel_with_a_working_kvm_boots_without_complaint(lab: Lab) -> None:
    exits = 2000
    result = lab.run([str(build_guest_program("kvm_probe")), str(exits)])

    assert result.exit_status == 0, result.report or result.stderr
    figures = json.loads(result.stdout)
    assert (figures["api_version"], figures["exits"], figures["hyperv"]) == (12, exits, 1)
    assert result.warnings == ()
    assert "Nested Paging enabled" in result.log.read_text()


def test_the_kernel_keeps_its_time_stamp_counter_as_clock(lab: Lab) -> None:
    # Without a TSC frequency KVM never enters a guest; a kernel left to itself loses it on a loaded host.
    result = shell(lab, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource")

    assert result.stdout.strip() in (b"tsc", b"tsc-early")


def test_a_signal_that_ends_the_command_is_its_status(lab: Lab) -> None:
    assert shell(lab, "kill -SEGV $$").exit_status == 128 + 11


@pytest.mark.parametrize(("command", "status"), [("/no/such/program", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_run_has_a_shell_s_status(lab: Lab, command: str, status: int) -> None:
    result = lab.run([command])

    assert result.exit_status == status
    assert f"cannot run {command}".encode() in result.stderr


def test_much_output_arrives_whole_and_apart(lab: Lab) -> None:
    size = 3_000_000  # a hundred frames
    result = shell(lab, f"head -c {size} /dev/zero & head -c {size} /dev/zero | tr '\\0' e >&2; wait")

    assert (len(result.stdout), set(result.stdout)) == (size, {0})
    assert (len(result.stderr), set(result.stderr)) == (size, {ord("e")})


def test_checkout_and_virtual_environment_are_there_and_cannot_be_written(lab: Lab) -> None:
    script = f"pwd; {shlex.quote(sys.executable)} -c 'import kvmapi; print(kvmapi.__file__)'; touch nowhere"
    result = lab.run(["sh", "-c", script], directory=CHECKOUT)

    assert result.exit_status != 0
    assert result.stdout.decode().splitlines() == [str(CHECKOUT), str(CHECKOUT / "kvmapi" / "__init__.py")]
    assert b"Read-only file system" in result.stderr
    assert not (CHECKOUT / "nowhere").exists()


def test_scratch_directories_are_empty_and_writable(lab: Lab, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")

    result = shell(
        lab, f"for d in /tmp /run /var/tmp /dev/shm; do echo 1 > $d/f || exit 1; done; test -e {outside}"
    )

    assert (result.exit_status, result.stderr) == (1, b"")
    assert outside.read_text() == "x"


def test_results_come_back(tmp_path: Path) -> None:
    results = tmp_path / "results"
    script = 'cd "$LAB_RESULTS" && head -c 3145728 /dev/zero > big && mkdir d && id > d/id'

    result = Lab("upstream", time_limit=COMMAND_LIMIT, results=results).run(["sh", "-c", script])

    assert result.exit_status == 0, result.report or result.stderr
    assert (results / "big").stat().st_size == 3 << 20
    assert "uid=0" in (results / "d" / "id").read_text()


def test_processors_and_memory_are_as_asked() -> None:
    lab = Lab("upstream", time_limit=COMMAND_LIMIT, cpus=3, memory="1G")
    result = shell(lab, "nproc; grep MemTotal /proc/meminfo")

    words = result.stdout.split()
    # 1 GiB is 1048576 KiB; the kernel keeps some for itself.
    assert int(words[0]) == 3
    assert 900_000 < int(words[2]) < 1_048_576


class EndsTheTime(Capture):
    """Output that, when some comes, has the lab's time run out: sooner or later, as the machine is quick or slow."""

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self._lab = lab

    def stdout(self, data: bytes) -> None:
        super().stdout(data)
        self._lab.time_limit = 0.0


def test_the_time_limit_ends_the_lab() -> None:
    lab = Lab("upstream", time_limit=COMMAND_LIMIT)
    output = EndsTheTime(lab)
    result = lab.run(["sh", "-c", "echo before; sleep 1000"], output=output)

    assert (result.outcome, result.exit_status) == (Outcome.TIME_LIMIT, 124)
    assert output.out == b"before\n"
    assert "the command had not ended" in result.report


def test_a_crash_is_reported_with_its_call_trace(lab: Lab) -> None:
    result = shell(lab, "echo before; sleep 0.2; echo c > /proc/sysrq-trigger")

    assert (result.outcome, result.exit_status) == (Outcome.PANIC, 125)
    assert result.stdout == b"before\n"
    assert "the kernel crashed: sysrq triggered crash" in result.report
    assert "sysrq_handle_crash" in result.report


# Sends every processor into an endless loop with interrupts off, at its next system call.
STOP_PROCESSORS = """
import os, struct, sys
lstar, address = 0xC0000082, struct.pack("<Q", int(sys.argv[1], 16))
for cpu in reversed(range(os.cpu_count())):
    os.sched_setaffinity(0, {0})
    fd = os.open(f"/dev/cpu/{cpu}/msr", os.O_WRONLY)
    os.pwrite(fd, address, lstar)
"""
ENDLESS_LOOP = bytes.fromhex("f390ebfc")  # again: pause; jmp again


def endless_loop(vmlinux: Path) -> int:
    """The address of an endless loop of the kernel's own, in the part that stays after the boot."""
    with vmlinux.open("rb") as file:
        text = ELFFile(file).get_section_by_name(".text")
        assert text is not None
        at = text.data().find(ENDLESS_LOOP)
        assert at >= 0, f"{vmlinux} has no such loop"
        return int(text["sh_addr"]) + at


def test_a_hang_is_reported_with_where_the_processors_stand(lab: Lab) -> None:
    hanging = Lab("upstream", time_limit=COMMAND_LIMIT, silence_seconds=10.0)
    address = f"{endless_loop(lab.image().boot):x}"

    result = hanging.run(["python3", "-c", STOP_PROCESSORS, address])

    assert (result.outcome, result.exit_status) == (Outcome.HANG, 125)
    assert "process 1 has been silent for 10.0 s" in result.report
    assert result.report.count("processor ") == hanging.cpus + SPARE_CPUS
    assert f"processor 0 at 0x{address[:-1]}" in result.report


def test_labs_run_side_by_side(lab: Lab) -> None:
    results: dict[int, LabResult] = {}

    def one(number: int) -> None:
        results[number] = shell(lab, f"sleep 1; echo {number}; exit {number}")

    threads = [threading.Thread(target=one, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {number: (r.exit_status, r.stdout) for number, r in results.items()} == {
        1: (1, b"1\n"),
        2: (2, b"2\n"),
    }
    assert results[1].log != results[2].log
