# SPDX-License-Identifier: Apache-2.0
"""How `vmm run` and QEMU are called, and what their end means."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from vmm.guesttest.guests import Guest, Selection, find_guests
from vmm.guesttest.targets import QemuTarget, VmmTarget
from vmm.guesttest.verdict import DEBUG_EXIT, HOST_ERROR, Ending

RESULT = Path("result.json")


@pytest.fixture
def entry(tmp_path: Path) -> Guest:
    path = tmp_path / "unittests.cfg"
    path.write_text("[a]\nfile = a.flat\nsmp = 2\ntest_args = '-x'\nqemu_params = -cpu max\n")
    (guest,) = find_guests([path], Selection())
    return guest


def vmm_ending(tmp_path: Path, returncode: int, record: object, errors: bytes = b"") -> Ending:
    result = tmp_path / "result.json"
    if record is not None:
        result.write_text(record if isinstance(record, str) else json.dumps(record))
    return VmmTarget().ending(returncode, errors, result)


def test_entry_becomes_options_of_vmm_run_and_the_users_come_last(entry: Guest) -> None:
    argv = VmmTarget(["--cpu", "host"], command=["vmm"]).command(entry, RESULT, 90.0)
    assert argv[:3] == ["vmm", "run", str(entry.image)]
    assert argv[3:] == [
        *["--no-reboot", "--memory", "128M", "--cpus", "2", "--cpu", "max", "--append=-x"],
        *["--cpu", "host", "--time-limit=90", "--result=result.json"],
    ]


def test_plain_file_gets_only_the_users_options() -> None:
    argv = VmmTarget(["--cpus", "4"], command=["vmm"]).command(Guest("b", Path("b.flat")), RESULT, 0.0)
    assert argv == ["vmm", "run", "b.flat", "--no-reboot", "--cpus", "4", "--result=result.json"]


def test_file_name_with_a_dash_is_no_option() -> None:
    assert VmmTarget(command=["vmm"]).command(Guest("x", Path("-x.flat")), RESULT, 0.0)[2] == "./-x.flat"


@pytest.mark.parametrize(("status", "code"), [(1, 0), (3, 1), (77, 38), (127, 63), (255, 127), (1, 128)])
def test_the_result_carries_the_whole_code(tmp_path: Path, status: int, code: int) -> None:
    """Code 128 ends with status 1, like a pass: only the result tells them apart."""
    record = {"outcome": "debug-exit", "status": status, "code": code, "detail": ""}
    ending = vmm_ending(tmp_path, status, record)
    assert (ending.outcome, ending.code) == (DEBUG_EXIT, code)


def test_other_outcomes_are_handed_on(tmp_path: Path) -> None:
    record = {"outcome": "emulation-failure", "status": 2, "detail": "0f 05"}
    assert vmm_ending(tmp_path, 2, record) == Ending("emulation-failure", None, "0f 05")


@pytest.mark.parametrize(
    ("returncode", "record", "errors", "detail"),
    [
        (1, None, b"", "ended with status 1, no result"),
        (2, None, b"a\nvmm: no /dev/kvm\n", "vmm: no /dev/kvm"),
        (1, "{", b"", "no result"),
        (1, [1], b"", "no result"),
        (1, {"outcome": "debug-exit"}, b"", "no result"),
        (0, {"outcome": "debug-exit", "status": 1, "detail": ""}, b"", "status 0, its result says 1"),
        (2, {"outcome": "debug-exit", "status": 2, "detail": ""}, b"", "without its code"),
        (-signal.SIGSEGV, None, b"", "killed by SIGSEGV"),
    ],
)
def test_end_without_a_sound_result_is_a_host_error(
    tmp_path: Path, returncode: int, record: object, errors: bytes, detail: str
) -> None:
    ending = vmm_ending(tmp_path, returncode, record, errors)
    assert (ending.outcome, ending.code) == (HOST_ERROR, None)
    assert detail in ending.detail


def test_qemu_is_called_as_upstreams_runner_calls_it(entry: Guest) -> None:
    argv = QemuTarget("qemu", "tcg").command(entry, RESULT, 90.0)
    assert argv[0] == "qemu"
    assert "--no-reboot -nodefaults -global kvm-pit.lost_tick_policy=discard -device pc-testdev" in " ".join(
        argv
    )
    assert argv[argv.index("-machine") :] == [
        *["-machine", "accel=tcg", "-kernel", str(entry.image)],
        *["-smp", "2", "-append", "-x", "-cpu", "max"],
    ]


def test_qemu_cpu_suffix_goes_to_host_and_max_only(entry: Guest) -> None:
    assert QemuTarget(cpu_suffix="pmu=off").command(entry, RESULT, 1.0)[-1] == "max,pmu=off"
    plain = Guest("b", Path("b.flat"))
    assert QemuTarget(cpu_suffix="pmu=off").command(plain, RESULT, 1.0)[-1] == "b.flat"


@pytest.mark.parametrize(
    ("returncode", "errors", "outcome", "code"),
    [
        (1, b"", DEBUG_EXIT, 0),
        (1, b"qemu: warning: no feature x\n", DEBUG_EXIT, 0),
        (1, b"qemu: Property 'max-x86_64-cpu.vmx-mbec' not found\n", HOST_ERROR, None),
        (3, b"qemu: warning: x\n", DEBUG_EXIT, 1),
        (77, b"", DEBUG_EXIT, 38),
        (0, b"", "reset", None),
        (2, b"oops", HOST_ERROR, None),
        (-signal.SIGABRT, b"", HOST_ERROR, None),
        (-signal.SIGTERM, b"KVM internal error. Suberror: 1\nemulation failure\n", "internal-error", None),
    ],
)
def test_ends_of_qemu(returncode: int, errors: bytes, outcome: str, code: int | None) -> None:
    ending = QemuTarget().ending(returncode, errors, RESULT)
    assert (ending.outcome, ending.code) == (outcome, code)


def test_qemu_that_waits_after_a_kvm_error_is_stuck() -> None:
    assert QemuTarget().is_stuck(b"KVM internal error. Suberror: 1\n")
    assert not QemuTarget().is_stuck(b"qemu: warning\n")
