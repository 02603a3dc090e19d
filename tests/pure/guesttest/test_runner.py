# SPDX-License-Identifier: Apache-2.0
"""The runner, with a stand-in for `vmm run`: verdicts, time limits, parallelism, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.pure.guesttest.standin_guests import FAILED, PASSED, SKIPPED, STANDIN_COMMAND, MakeGuest
from vmm.guesttest import child as child_module
from vmm.guesttest import runner as runner_module
from vmm.guesttest.guests import Collection, Guest
from vmm.guesttest.runner import GuestResult, Runner, Silent, summary_of
from vmm.guesttest.targets import VmmTarget
from vmm.guesttest.verdict import Verdict

PATIENCE_S = 20.0  # for things that take milliseconds on a free machine
FOREVER = {"sleep": 600}


def run_one(standin: VmmTarget, guest: Guest, timeout_s: float = PATIENCE_S) -> GuestResult:
    (result,) = Runner(standin, timeout_s=timeout_s).run(Collection([guest]))
    return result


def is_gone(pid: int) -> bool:
    """Whether no such process runs (any more); a zombie that its new parent has not reaped yet is gone too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_gone(pid)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # Path.iterdir would hold one more open


@pytest.mark.parametrize(("steps", "verdict"), [(PASSED, "PASS"), (FAILED, "FAIL"), (SKIPPED, "SKIP")])
def test_guest_gets_its_verdict(
    make_guest: MakeGuest, standin: VmmTarget, steps: list[dict[str, object]], verdict: str
) -> None:
    assert run_one(standin, make_guest("a", *steps)).verdict == verdict


def test_console_errors_and_command_are_kept(make_guest: MakeGuest, standin: VmmTarget) -> None:
    result = run_one(standin, make_guest("a", {"print": "hello\r\n"}, {"error": "warning\n"}, *PASSED))
    assert result.console.startswith(b"hello\r\nPASS: a")
    assert result.errors == b"warning\n"
    assert result.command[: len(STANDIN_COMMAND) + 1] == (*STANDIN_COMMAND, "run")


def test_time_limit_is_handed_to_the_program(make_guest: MakeGuest, standin: VmmTarget) -> None:
    result = run_one(standin, make_guest("a", {"arguments": True}, *PASSED), timeout_s=17.5)
    assert "--time-limit=17.5" in json.loads(result.console.splitlines()[0])


@pytest.mark.parametrize(
    ("entry_s", "option_s", "limit_s"),
    [(None, None, 90.0), (30.0, None, 30.0), (30.0, 5.0, 5.0), (0.0, None, 0.0)],
)
def test_time_limit_of_option_entry_and_default(
    standin: VmmTarget,
    monkeypatch: pytest.MonkeyPatch,
    entry_s: float | None,
    option_s: float | None,
    limit_s: float,
) -> None:
    monkeypatch.setattr(Guest, "timeout_s", entry_s)
    assert Runner(standin, timeout_s=option_s).limit_s(Guest("a", Path("a.flat"))) == limit_s


def test_program_that_ignores_its_time_limit_is_ended(
    make_guest: MakeGuest, standin: VmmTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "START_GRACE_S", 0.0)
    result = run_one(standin, make_guest("a", {"print": "PASS: a\n"}, FOREVER), timeout_s=0.5)
    assert result.verdict is Verdict.TIMEOUT
    assert result.judgement.reason.startswith("no end within 0.5 s")


def test_program_that_ignores_sigterm_is_killed(
    make_guest: MakeGuest, standin: VmmTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "START_GRACE_S", 0.0)
    monkeypatch.setattr(child_module, "TERM_GRACE_S", 0.1)
    result = run_one(
        standin, make_guest("a", {"ignore": "SIGTERM"}, {"print": "up\n"}, FOREVER), timeout_s=0.5
    )
    assert result.verdict is Verdict.TIMEOUT
    assert result.seconds < PATIENCE_S


def test_processes_that_the_program_started_end_with_it(make_guest: MakeGuest, standin: VmmTarget) -> None:
    result = run_one(standin, make_guest("a", {"spawn": 600}, *PASSED))
    (pid,) = re.findall(rb"pid (\d+)", result.console)
    assert result.verdict is Verdict.PASS
    assert wait_until_gone(int(pid))


def test_done_line_ends_a_guest_that_then_halts(
    make_guest: MakeGuest, standin: VmmTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "DONE_LINGER_S", 0.05)
    text = "PASS: a\r\nSUMMARY: 1 tests\r\n--- DONE: 0 ---\r\n"
    result = run_one(standin, make_guest("a", {"print": text}, FOREVER), timeout_s=0.0)
    assert result.verdict is Verdict.PASS


def test_guest_that_prints_a_pass_and_stops_is_no_pass(
    make_guest: MakeGuest, standin: VmmTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "START_GRACE_S", 0.0)
    assert (
        run_one(standin, make_guest("a", {"print": "PASS: a\n"}, FOREVER), timeout_s=0.5).verdict
        is Verdict.TIMEOUT
    )
    assert (
        run_one(standin, make_guest("b", {"print": "PASS: a\n"}, {"end": ["power-off", 0, ""]})).verdict
        is Verdict.FAIL
    )


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"die": int(signal.SIGSEGV)}, "killed by SIGSEGV"),
        ({"exit": 1}, "status 1, no result"),
        ({"exit": 0}, "status 0, no result"),
    ],
)
def test_program_that_breaks_is_an_error(
    make_guest: MakeGuest, standin: VmmTarget, step: dict[str, int], reason: str
) -> None:
    result = run_one(standin, make_guest("a", {"print": "PASS: a\nSUMMARY: 1 tests\n"}, step))
    assert result.verdict is Verdict.ERROR
    assert reason in result.judgement.reason


def test_missing_program_is_an_error(make_guest: MakeGuest) -> None:
    result = run_one(VmmTarget(command=["/no/such/program"]), make_guest("a"))
    assert (result.verdict, "No such file" in result.judgement.reason) == (Verdict.ERROR, True)


def test_missing_image_is_an_error(standin: VmmTarget, tmp_path: Path) -> None:
    result = run_one(standin, Guest("a", tmp_path / "a.flat"))
    assert (result.verdict, "no such file (not built?)" in result.judgement.reason) == (Verdict.ERROR, True)


def test_endless_output_is_cut_and_still_judged(make_guest: MakeGuest, standin: VmmTarget) -> None:
    result = run_one(standin, make_guest("a", {"flood": 4_000_000}, *PASSED))
    assert result.verdict is Verdict.PASS
    assert b"bytes left out" in result.console
    assert len(result.console) < 2_000_000


def test_results_are_in_the_collections_order_with_blocked_guests_in_place(
    make_guest: MakeGuest, standin: VmmTarget
) -> None:
    slow, skipped, fast, unsupported = (
        make_guest(name, *steps)
        for name, steps in (("s", [{"sleep": 0.3}, *PASSED]), ("k", PASSED), ("f", FAILED), ("u", PASSED))
    )
    collection = Collection(
        [slow, skipped, fast, unsupported], {}, {skipped: "i386 only"}, {unsupported: "-device edu"}
    )
    results = Runner(standin, jobs=2, timeout_s=PATIENCE_S).run(collection)
    assert [result.verdict for result in results] == ["PASS", "SKIP", "FAIL", "UNSUPPORTED"]
    assert [result.judgement.reason for result in results[1::2]] == ["i386 only", "-device edu"]
    assert summary_of(results) == {Verdict.PASS: 1, Verdict.FAIL: 1, Verdict.SKIP: 1, Verdict.UNSUPPORTED: 1}


class Peak(Silent):
    """Remembers how many CPUs and guests ran at once."""

    def __init__(self, cpus: dict[Guest, int]) -> None:
        self.cpus, self.running = cpus, 0
        self.most_cpus = self.most_guests = self.guests = 0

    def started(self, guest: Guest) -> None:
        self.running += self.cpus[guest]
        self.guests += 1
        self.most_cpus, self.most_guests = (
            max(self.most_cpus, self.running),
            max(self.most_guests, self.guests),
        )

    def finished(self, result: GuestResult) -> None:
        self.running -= self.cpus[result.guest]
        self.guests -= 1


def run_with_peak(make_guest: MakeGuest, standin: VmmTarget, jobs: int | None) -> Peak:
    guests = [make_guest(str(number), {"sleep": 0.1}, *PASSED) for number in range(6)]
    cpus = dict(zip(guests, (1, 2, 1, 8, 1, 1), strict=True))
    peak = Peak(cpus)
    results = Runner(standin, jobs=jobs, timeout_s=PATIENCE_S, observer=peak).run(Collection(guests, cpus))
    assert {result.verdict for result in results} == {Verdict.PASS}
    return peak


def test_by_default_guests_share_the_hosts_processors(
    make_guest: MakeGuest, standin: VmmTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    peak = run_with_peak(make_guest, standin, jobs=None)
    assert peak.most_guests == 2  # two with one CPU each
    assert peak.most_cpus == 8  # the one with more than the host has: it ran, and alone


@pytest.mark.parametrize("jobs", [1, 3])
def test_jobs_is_the_number_of_guests_at_a_time(make_guest: MakeGuest, standin: VmmTarget, jobs: int) -> None:
    assert run_with_peak(make_guest, standin, jobs).most_guests == jobs


class Interrupting(Silent):
    """Sends signals to this process as soon as `count` guests run and have printed something."""

    def __init__(self, count: int, *numbers: signal.Signals) -> None:
        self.count, self.numbers = count, list(numbers)
        self.runner: Runner | None = None

    def tick(self) -> None:
        assert self.runner is not None
        consoles = [running.child.console.log.content() for running in self.runner._running.values()]
        if len([console for console in consoles if console]) == self.count:
            while self.numbers:
                os.kill(os.getpid(), self.numbers.pop(0))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_all_guests_and_the_run(
    make_guest: MakeGuest, standin: VmmTarget, number: signal.Signals
) -> None:
    guests = [make_guest(str(index), {"spawn": 600}, FOREVER) for index in range(3)]
    before = signal.getsignal(number)
    observer = Interrupting(2, number)
    observer.runner = runner = Runner(standin, jobs=2, timeout_s=0.0, observer=observer)
    results = runner.run(Collection(guests))
    assert runner.stopped_by is number
    assert [result.judgement.reason for result in results] == [
        *[f"interrupted by {number.name}"] * 2,
        f"not run: interrupted by {number.name}",
    ]
    pids = [int(pid) for result in results for pid in re.findall(rb"pid (\d+)", result.console)]
    assert len(pids) == 2
    assert all(wait_until_gone(pid) for pid in pids)
    assert signal.getsignal(number) is before


def test_second_signal_does_not_wait_for_the_grace(
    make_guest: MakeGuest, standin: VmmTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "TERM_GRACE_S", 600.0)
    guest = make_guest("a", {"ignore": "SIGTERM"}, {"print": "up"}, FOREVER)
    observer = Interrupting(1, signal.SIGINT, signal.SIGTERM)
    observer.runner = runner = Runner(standin, timeout_s=0.0, observer=observer)
    (result,) = runner.run(Collection([guest]))
    assert result.seconds < PATIENCE_S


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(
    make_guest: MakeGuest, standin: VmmTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes once the program ignores it, however long its start takes."""
    monkeypatch.setattr(child_module, "TERM_GRACE_S", 0.1)
    guest = make_guest("a", {"ignore": "SIGTERM"}, {"print": "up"}, FOREVER)
    observer = Interrupting(1, signal.SIGINT)
    observer.runner = runner = Runner(standin, timeout_s=0.0, observer=observer)
    (result,) = runner.run(Collection([guest]))
    assert (result.console, result.judgement.reason) == (b"up", "interrupted by SIGINT")
    assert result.seconds < PATIENCE_S


class Breaking(Silent):
    """Breaks when something has happened: as when the reader of our output goes away."""

    def tick(self) -> None:
        raise BrokenPipeError


def test_exception_in_the_display_leaves_no_process_and_no_descriptor(
    make_guest: MakeGuest, standin: VmmTarget
) -> None:
    guests = [make_guest(str(index), {"spawn": 600}, FOREVER) for index in range(2)]
    before = open_descriptors()
    runner = Runner(standin, jobs=2, timeout_s=0.0, observer=Breaking())
    with pytest.raises(BrokenPipeError):
        runner.run(Collection(guests))
    assert open_descriptors() == before
    children = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True, check=False
    )
    assert "standin" not in children.stdout


def test_many_guests_leave_no_descriptor_open(make_guest: MakeGuest, standin: VmmTarget) -> None:
    guests = [make_guest(str(index), *PASSED) for index in range(8)]
    before = open_descriptors()
    Runner(standin, jobs=4, timeout_s=PATIENCE_S).run(Collection(guests))
    assert open_descriptors() == before


def test_guests_die_with_a_runner_that_is_killed(make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest("a", {"print": "up\n"}, FOREVER)
    script = (
        "import sys; from pathlib import Path\n"
        "from vmm.guesttest.guests import Collection, Guest\n"
        "from vmm.guesttest.runner import Runner, Silent\n"
        "from vmm.guesttest.targets import VmmTarget\n"
        "class Tell(Silent):\n"
        "    def started(self, guest): print(next(iter(runner._running.values())).child.pid, flush=True)\n"
        f"runner = Runner(VmmTarget(command={STANDIN_COMMAND!r}), timeout_s=0.0, observer=Tell())\n"
        f"runner.run(Collection([Guest('a', Path({str(guest.image)!r}))]))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
    assert wait_until_gone(pid)


def test_runner_works_outside_the_main_thread(make_guest: MakeGuest, standin: VmmTarget) -> None:
    verdicts = []
    thread = threading.Thread(
        target=lambda: verdicts.append(run_one(standin, make_guest("a", *PASSED)).verdict)
    )
    thread.start()
    thread.join(PATIENCE_S)
    assert verdicts == [Verdict.PASS]
