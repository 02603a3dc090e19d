# SPDX-License-Identifier: Apache-2.0
"""`vmm run --stats`: what is counted is what the guest did."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.host.run.launch import ROOT, WATCHDOG_S, command, guest, vmm_run

pytestmark = pytest.mark.host

WRITES = 1234
# mov $WRITES, %cx; 1: out %al, $0x80; loop 1b; xor %ax, %ax; mov $0xf4, %dx; out %al, %dx
CODE = b"\xb9" + WRITES.to_bytes(2, "little") + bytes.fromhex("e680 e2fc 31c0 baf400 ee")
CODE_GPA = 0x7C00


def counted(tmp_path: Path, *arguments: str) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """`vmm run --stats json:PATH`: the object and the finished process."""
    path = tmp_path / "stats.json"
    result = vmm_run(*arguments, "--stats", f"json:{path}")
    return json.loads(path.read_text(encoding="utf-8")), result


def raw_guest(tmp_path: Path) -> list[str]:
    """A guest of `WRITES` port writes and the one that ends it."""
    code = tmp_path / "code.bin"
    code.write_bytes(CODE)
    return [str(code), "--raw", hex(CODE_GPA)]


def test_each_port_write_is_one_exit(tmp_path: Path) -> None:
    stats, result = counted(tmp_path, *raw_guest(tmp_path))

    assert (result.returncode, result.stderr) == (1, "")
    (vp,) = stats["vps"]
    (vtl,) = vp["vtls"]
    assert vtl["exits"].pop("IO") == WRITES + 1
    # The end of the run brings the VP out of the guest.
    assert vtl["exits"].keys() <= {"EINTR"}
    assert 0 < vtl["in_guest_s"] <= vtl["in_kvm_run_s"] <= stats["elapsed_s"]
    assert vtl["intercepts"] is None and vp["vtl_switches"] == []


def test_time_in_hlt_is_told_apart(tmp_path: Path) -> None:
    stats, result = counted(tmp_path, guest("sleep"), "--append", "ms=300")

    assert result.returncode == 1
    (vtl,) = stats["vps"][0]["vtls"]
    if vtl["halted_s"] is not None:  # a KVM without KVM_CAP_BINARY_STATS_FD does not tell
        assert 0 < vtl["halted_s"] <= vtl["in_kvm_run_s"]
        assert vtl["interrupts"] >= 1


def test_vtl_switches_are_those_that_the_guest_made(tmp_path: Path) -> None:
    stats, result = counted(
        tmp_path, guest("vtlbench"), "--machine", "vsm=on", "--cpus", "2", "--append", "calls=500 cpus=2"
    )

    assert result.returncode == 1, result.stdout + result.stderr
    made = {int(vp): int(calls) for vp, calls in re.findall(r"VP (\d+): (\d+) calls", result.stdout)}
    assert len(made) == 2 and all(calls >= 500 for calls in made.values())
    for vp in stats["vps"]:
        switches = {(each["from"], each["to"], each["cause"]): each["count"] for each in vp["vtl_switches"]}
        assert switches[0, 1, "VTL call"] == made[vp["vp"]]
        up = sum(count for (source, target, _), count in switches.items() if target > source)
        assert up == switches[1, 0, "VTL return"]  # the guest ends in VTL0
    assert stats["vtl_switches"] == sum(each["count"] for vp in stats["vps"] for each in vp["vtl_switches"])


def test_counts_go_on_over_a_reboot_that_makes_the_vtls_anew(tmp_path: Path) -> None:
    arguments = [guest("worlds"), "--machine", "vsm=on", "--append"]
    once, first = counted(tmp_path, *arguments, "")
    twice, second = counted(tmp_path, *arguments, "reboot")

    assert (first.returncode, second.returncode) == (1, 1), second.stdout
    vtl1_once, vtl1_twice = (stats["vps"][0]["vtls"][1]["exits"]["IO"] for stats in (once, twice))
    assert vtl1_twice > vtl1_once


def test_the_end_is_a_table_and_the_guests_output_is_its_own(tmp_path: Path) -> None:
    result = vmm_run(*raw_guest(tmp_path), "--stats", "end")

    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("vmm: ") for line in lines)
    assert f"IO {WRITES + 1:,}" in lines[2]


def test_live_tables_come_while_the_guest_runs() -> None:
    arguments = [guest("hang"), "--time-limit", "60", "--stats", "live"]
    process = subprocess.Popen(
        command("run", *arguments), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    try:
        heads = 0
        while heads < 2 and (line := process.stderr.readline()):
            heads += line.startswith(" VP VTL ")
        process.terminate()
        rest = process.stderr.read()
        assert process.wait(WATCHDOG_S) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        process.stderr.close()

    assert heads == 2
    assert "vmm:  VP VTL " in rest  # the totals


def test_a_live_table_on_the_guests_terminal_leaves_its_output_whole() -> None:
    leader, terminal = pty.openpty()
    arguments = [guest("echo"), "--stats", "live", "--time-limit", "60"]
    process = subprocess.Popen(
        command("run", *arguments), stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT
    )
    os.close(terminal)
    output = b""
    try:
        output += read_until(leader, b" VP VTL ")
        os.write(leader, b"one\n")
        output += read_until(leader, b"one")
        output += read_until(leader, b" VP VTL ")  # there is room for it again behind the guest's line
        os.write(leader, b"two\n\x04")
        output += read_until(leader, b"")
        assert process.wait(WATCHDOG_S) == 1
    finally:
        process.kill()
        process.wait()
        os.close(leader)

    assert ERASED in output
    text = re.sub(rb"in [0-9][^\x1b]*" + re.escape(b"\x1b[") + rb"[0-9]+A\r\x1b\[J", b"", output)
    guests_own = text.partition(b"vmm: in ")[0].replace(b"\r", b"")
    assert b"one\n" in guests_own and b"two\n" in guests_own
    assert b" VP VTL " not in guests_own


ERASED = b"\x1b[J"


def read_until(leader: int, words: bytes) -> bytes:
    """What the terminal shows up to `words`; all that comes where they are empty."""
    shown = b""
    while not words or words not in shown:
        try:
            data = os.read(leader, 4096)
        except OSError:  # EIO: the last writer closed it
            break
        if not data:
            break
        shown += data
    return shown


@pytest.mark.parametrize("how", ["sometimes", "json:/nonexistent/stats.json"])
def test_what_cannot_be_told_is_one_line(how: str) -> None:
    result = vmm_run(guest("dummy"), "--stats", how)

    assert result.returncode == 2
    assert result.stderr.startswith("vmm: --stats ") and result.stderr.count("\n") == 1
