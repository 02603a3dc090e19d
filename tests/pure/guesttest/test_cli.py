# SPDX-License-Identifier: Apache-2.0
"""`vmm test` as a user meets it: arguments, output, exit status."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.pure.guesttest.standin_guests import FAILED, PASSED, SKIPPED, STANDIN_COMMAND, MakeGuest
from vmm.backend.ring0 import SLOW_BELOW, Ring0
from vmm.cli import standard_streams
from vmm.cli import test as cli
from vmm.cli.main import main
from vmm.guesttest.targets import VmmTarget


@pytest.fixture(autouse=True)
def standin_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vmm test` runs the stand-in in place of `vmm run`, on a host that runs ring 0 at full speed."""
    monkeypatch.setattr(cli, "VmmTarget", lambda options: VmmTarget(options, STANDIN_COMMAND))
    monkeypatch.setattr(cli, "measure_speed", lambda: Ring0(2e9))


@pytest.fixture
def folder(make_guest: MakeGuest, tmp_path: Path) -> Path:
    """A directory with guests that pass, fail and skip, and a configuration that lists them."""
    for name, steps in (("good", PASSED), ("bad", FAILED), ("none", SKIPPED)):
        make_guest(name, *steps)
    (tmp_path / "unittests.cfg").write_text(
        "[good]\nfile = good.flat\n"
        "[bad]\nfile = bad.flat\ngroups = slow\n"
        "[none]\nfile = none.flat\n"
        "[iommu]\nfile = good.flat\nqemu_params = -M q35\n"
        "[old]\nfile = good.flat\narch = i386\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["good.flat"], 0),
        (["good.flat", "none.flat"], 0),
        (["bad.flat"], 1),
        (["good.flat", "bad.flat"], 1),
        (["none.flat"], 1),  # nothing was tested
        (["unittests.cfg", "-k", "good", "-k", "old"], 0),
        (["unittests.cfg", "-k", "old"], 1),
        (["unittests.cfg", "-k", "good", "-k", "iommu"], 1),
        (["unittests.cfg", "-k", "good", "-k", "iommu", "--allow-unsupported"], 0),
        (["unittests.cfg", "-k", "iommu", "--allow-unsupported"], 1),
        (["."], 1),
    ],
)
def test_exit_status_is_0_only_if_all_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int
) -> None:
    monkeypatch.chdir(folder)
    assert main(["test", *arguments]) == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.flat"], "vmm: no.flat: no such file or directory"),
        (["unittests.cfg", "-k", "nobody"], "none of 5 is selected"),
        (["broken.cfg"], "vmm: broken.cfg:3: unknown key 'smpp'; did you mean 'smp'?"),
        (["good.flat", "--jobs", "0"], "--jobs 0: expected 1 to 1024"),
        (["good.flat", "--timeout", "soon"], "--timeout: expected a duration"),
        (["good.flat", "--memory", "lots"], "size 'lots'"),
        (["good.flat", "--memory", "64K"], "at least 2 MiB"),
        (["good.flat", "--memory", "1000T"], "more than this host's"),
        (["good.flat", "--machine", ",,,"], "--machine ''"),
        (["good.flat", "--cpu", ""], "no CPU model is called ''"),
        (["good.flat", "--jobs", "\u0661"], "expected a whole number"),
        (["good.flat", "--junit", ""], "--junit '': expected the name of a file"),
        (["good.flat", "--junit", "."], "--junit .: Is a directory"),
        (["good.flat", "--cpu", "z80"], "no CPU model is called 'z80'"),
        (["good.flat", "--machine", "pit=maybe"], "pit=maybe"),
        (["good.flat", "--junit", "no/such/dir.xml"], "no/such/dir.xml: No such file or directory"),
        (["good.flat", "--log-dir", "good.flat"], "good.flat: File exists"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "broken.cfg").write_text("[a]\nfile = a.flat\nsmpp = 2\n")
    assert main(["test", "--quiet", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_table_on_standard_output_and_progress_on_standard_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["test", "--jobs", "1", str(folder / "unittests.cfg")])
    output, errors = capsys.readouterr()
    assert [line.split()[:2] for line in output.splitlines()[1:6]] == [
        *[["good", "PASS"], ["bad", "FAIL"], ["none", "SKIP"], ["iommu", "UNSUPPORTED"], ["old", "SKIP"]]
    ]
    assert output.splitlines()[-1] == "5 guests: 1 PASS, 1 FAIL, 2 SKIP, 1 UNSUPPORTED"
    assert len(errors.splitlines()) == 5


@pytest.mark.parametrize(("options", "lines"), [([], 1), (["--quiet"], 0), (["--timeout", "20"], 0)])
def test_longer_limits_on_a_slow_host_are_told_once(
    options: list[str],
    lines: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "measure_speed", lambda: Ring0(SLOW_BELOW / 2))
    main(["test", *options, str(folder / "unittests.cfg")])
    told = [line for line in capsys.readouterr().err.splitlines() if "2.0 times as long" in line]
    assert len(told) == lines


def test_json_is_the_only_thing_on_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["test", "--json", "--log-dir", str(folder / "logs"), str(folder / "unittests.cfg")])
    document = json.loads(capsys.readouterr().out)
    assert (status, document["passed"]) == (1, False)
    assert {guest["name"]: guest["verdict"] for guest in document["guests"]}["iommu"] == "UNSUPPORTED"
    assert Path(document["guests"][0]["log"]).read_bytes().startswith(b"$ ")


def test_junit_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--junit", str(folder / "r.xml"), str(folder / "unittests.cfg")])
    suite = ElementTree.parse(folder / "r.xml").getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"]) == ("5", "1", "1")


@pytest.mark.parametrize("junit", ["no/such/dir.xml", "", "."])
def test_a_junit_file_that_cannot_be_written_is_said_before_a_guest_runs(
    make_guest: MakeGuest, tmp_path: Path, junit: str
) -> None:
    guest = make_guest("a", *PASSED)
    assert main(["test", str(guest.image), "--log-dir", str(tmp_path / "logs"), "--junit", junit]) == 2
    assert not (tmp_path / "logs").exists()


def test_results_are_printed_although_the_junit_file_fails_in_the_end(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "-q", str(folder / "good.flat"), "--junit", "/dev/full"]) == 2
    output, errors = capsys.readouterr()
    assert (output, errors) == (
        "1 guests: 1 PASS\n",
        "vmm: --junit /dev/full: No space left on device\n",
    )


def test_a_standard_output_that_is_full_is_said_before_a_guest_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        monkeypatch.setattr(standard_streams, "give_up_output", lambda: None)
        status = main(["test", "--json", "--log-dir", str(folder / "logs"), str(folder / "good.flat")])
    assert (status, capsys.readouterr().err) == (2, "vmm: standard output: No space left on device\n")
    assert not (folder / "logs").exists()


def test_a_table_goes_to_standard_error_when_standard_output_fails_in_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*results: object) -> str:
        raise standard_streams.OutputError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "json_text", fail)
    monkeypatch.setattr(standard_streams, "give_up_output", lambda: None)
    assert main(["test", "-q", "--json", str(folder)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-2:] == [
        "3 guests: 1 PASS, 1 FAIL, 1 SKIP",
        "vmm: standard output: No space left on device",
    ]


def test_quiet_shows_what_did_not_pass_and_the_sums(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "-q", str(folder)])
    output, errors = capsys.readouterr()
    assert errors == ""
    assert "bad" in output
    assert "good" not in output
    assert output.splitlines()[-1] == "3 guests: 1 PASS, 1 FAIL, 1 SKIP"


def test_list_prints_names_and_runs_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--list", "-g", "slow", str(folder / "unittests.cfg")]) == 0
    assert capsys.readouterr().out == "bad\n"


def test_machine_options_are_handed_on(
    make_guest: MakeGuest, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    guest = make_guest("a", {"arguments": True}, *PASSED)
    options = ["--cpus", "3", "-m", "64M", "--cpu", "host,-x2apic", "--machine", "pit=off"]
    main(["test", str(guest.image), *options, "--log-dir", str(tmp_path / "logs")])
    arguments = json.loads((tmp_path / "logs" / "a.log").read_text().splitlines()[1])
    assert arguments[2:-2] == [
        *["--no-reboot", "--memory", "64M", "--cpus", "3", "--cpu", "host,-x2apic", "--machine", "pit=off"]
    ]


def test_signal_ends_with_its_status_and_a_report(
    make_guest: MakeGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = make_guest("a", {"sleep": 600})
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert main(["test", str(guest.image)]) == 128 + signal.SIGTERM
    assert "interrupted by SIGTERM" in capsys.readouterr().out
