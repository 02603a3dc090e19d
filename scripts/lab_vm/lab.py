# SPDX-License-Identifier: Apache-2.0
"""One lab: boot a kernel, run one command in it, bring back its output and exit status."""

from __future__ import annotations

import itertools
import os
import selectors
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from scripts.lab_vm import machine as machines
from scripts.lab_vm.channel import FrameReader, FrameType, Job, JobFlag, encode_frame, exit_status
from scripts.lab_vm.debugger import Monitor, examine
from scripts.lab_vm.errors import LabError
from scripts.lab_vm.guest_program import build_guest_program
from scripts.lab_vm.kernel_build import KernelImage, ensure_kernel, own_file
from scripts.lab_vm.kernel_log import Trouble, failure_report, find_trouble, panic_headline
from scripts.lab_vm.places import CHECKOUT, LAB_BUILD
from scripts.lab_vm.progress import Progress, duration
from scripts.lab_vm.recipe import LAB_VARIANTS
from scripts.lab_vm.surroundings import kept_directories, lab_environment

STATUS_TIME_LIMIT = 124
"""As timeout(1)."""
STATUS_LAB_FAILED = 125
"""The lab itself failed: panic, hang, no QEMU. The command's status is not known."""

BOOT_SECONDS = 120.0
"""From power on to process 1: about 1.5 s on an idle machine."""
SILENCE_SECONDS = 60.0
"""Process 1 sends a frame every second; a loaded host may delay it, never this long."""

POLL_SECONDS = 0.2
STOP_SECONDS = 3.0
KEPT_LOGS = 60

_log_numbers = itertools.count(1)


class Outcome(Enum):
    EXITED = "the command ended"
    TIME_LIMIT = "the time limit was reached"
    PANIC = "the kernel crashed"
    HANG = "the kernel stopped answering"
    MACHINE = "QEMU ended or could not start"
    REFUSED = "the lab could not start the command"
    INTERRUPTED = "the user stopped the lab"


class Output(Protocol):
    """Where the command's output goes, as it comes."""

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...


class Console(Protocol):
    """A terminal on the host, for an interactive command."""

    def fileno(self) -> int:
        """A descriptor that is readable when there is input."""

    def read(self) -> bytes:
        """Input for the command; empty at the end of input."""

    def window(self) -> tuple[int, int]:
        """Rows and columns."""


@dataclass
class Capture:
    """An `Output` that keeps everything."""

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)

    def stdout(self, data: bytes) -> None:
        self.out += data

    def stderr(self, data: bytes) -> None:
        self.err += data


@dataclass(frozen=True)
class LabResult:
    """How a run ended.

    `exit_status` is the command's, as a shell sees it (128 plus the signal's number), or one of the `STATUS_...`
    values. `report` says what happened when the outcome is not EXITED. `warnings` are the kernel's complaints, if
    the command ended all the same. Output is here only when `run` was given no `output`.
    """

    outcome: Outcome
    exit_status: int
    log: Path
    boot_seconds: float | None = None
    run_seconds: float | None = None
    report: str = ""
    warnings: tuple[Trouble, ...] = ()
    stdout: bytes = b""
    stderr: bytes = b""


class Lab:
    """A kernel to run commands in. Every `run` boots a machine of its own; any number may run at once.

    `kernel`: `upstream` or `patched` (built when needed), or a file: a bzImage, or a vmlinux with a PVH entry.
    `time_limit`: seconds from power on. `results`: a host directory that is writable inside, at the same path.
    `log`: the kernel's log; by default a new file under `build/lab/`.
    """

    def __init__(
        self,
        kernel: str | Path = "upstream",
        *,
        cpus: int = 2,
        memory: str = "4G",
        cpu_model: str = machines.CPU_MODEL,
        time_limit: float = 900.0,
        results: Path | None = None,
        log: Path | None = None,
        kernel_arguments: Sequence[str] = (),
        qemu_arguments: Sequence[str] = (),
        silence_seconds: float = SILENCE_SECONDS,
        progress: Progress | None = None,
    ) -> None:
        self.kernel = str(kernel)
        self.cpus = machines.check_cpus(cpus)
        self.memory_mib = machines.memory_mib(memory)
        self.cpu_model = cpu_model
        self.time_limit = time_limit
        self.results = results.resolve() if results is not None else None
        self.log = log.resolve() if log is not None else None
        self.kernel_arguments = kernel_arguments
        self.qemu_arguments = qemu_arguments
        self.silence_seconds = silence_seconds
        self.progress = progress if progress is not None else Progress(quiet=True)

    def image(self) -> KernelImage:
        """The kernel's files, built when needed. LabError says what is missing."""
        if self.kernel in LAB_VARIANTS:
            return ensure_kernel(self.kernel, self.progress)
        return own_file(Path(self.kernel).resolve())

    def run(
        self,
        command: Sequence[str],
        *,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: Output | None = None,
        console: Console | None = None,
    ) -> LabResult:
        """Boot, run `command` in `directory` (default: the current one), end the machine.

        Raises LabError for what can be known before the machine runs. With `console` the command gets a terminal.
        """
        return self.start(
            command, directory=directory, environment=environment, output=output, console=console
        ).finish()

    def start(
        self,
        command: Sequence[str],
        *,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: Output | None = None,
        console: Console | None = None,
    ) -> Run:
        """As `run`, but hands out the run, so that it can be signalled; its `finish` has to be called."""
        if not command:
            raise LabError("no command for the lab to run")
        image = self.image()
        directory = (directory if directory is not None else Path.cwd()).resolve()
        flags = JobFlag.TERMINAL if console is not None else JobFlag.NONE
        if self.results is not None:
            self.results.mkdir(parents=True, exist_ok=True)
            flags |= JobFlag.RESULTS
        job = Job(
            arguments=command,
            directory=str(directory),
            environment=lab_environment(os.environ, image.name, self.results, environment or {}),
            flags=flags,
            results=str(self.results or ""),
            keep=kept_directories([CHECKOUT, directory]),
        )
        try:
            payload = job.encode()
        except ValueError as error:
            raise LabError(str(error)) from error
        return Run(self, image, payload, output, console)


class Run:
    """A machine that runs one command. Used by one thread; only `signal` may be called from a signal handler."""

    def __init__(
        self, lab: Lab, image: KernelImage, job: bytes, output: Output | None, console: Console | None
    ) -> None:
        self._lab = lab
        self._image = image
        self._job = job
        self._captured = Capture()
        self._output = output if output is not None else self._captured
        self._console = console
        self._window = (0, 0)
        self._signals: list[int] = []
        self._stop_requested = False
        self._log = lab.log if lab.log is not None else _new_log()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")
        self._boot_seconds: float | None = None
        self._frames = FrameReader()
        self._started = self._heard = time.monotonic()
        self._power_on()

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group; a second one ends the machine."""
        self._stop_requested = bool(self._signals) or self._boot_seconds is None
        self._signals.append(number)

    def finish(self) -> LabResult:
        """Serve the machine until the command or the machine ends, then stop it."""
        progress = self._lab.progress
        progress.stage(f"booting {self._image.name}")
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._channel, selectors.EVENT_READ)
                if self._console is not None:
                    selector.register(self._console.fileno(), selectors.EVENT_READ)
                result = None
                while result is None:
                    result = self._serve(selector)
        finally:
            progress.clear()
            self._stop()
        return result

    def _power_on(self) -> None:
        qemu = machines.find_qemu()
        self._channel, channel_end = socket.socketpair()
        self._monitor_socket, monitor_end = socket.socketpair()
        with ExitStack() as opened, channel_end, monitor_end:
            opened.enter_context(self._channel)
            opened.enter_context(self._monitor_socket)
            self._qemu_words = opened.enter_context(tempfile.TemporaryFile())
            machine = machines.Machine(
                kernel=self._image.boot,
                init=build_guest_program("init"),
                cpus=self._lab.cpus,
                memory_mib=self._lab.memory_mib,
                log=self._log,
                channel_fd=channel_end.fileno(),
                monitor_fd=monitor_end.fileno(),
                tsc_khz=machines.host_tsc_khz(),
                cpu_model=self._lab.cpu_model,
                results=self._lab.results,
                kernel_arguments=self._lab.kernel_arguments,
                qemu_arguments=self._lab.qemu_arguments,
            )
            self._qemu = subprocess.Popen(
                machine.command(qemu, machines.firmware_options()),
                stdin=subprocess.DEVNULL,
                stdout=self._qemu_words,
                stderr=self._qemu_words,
                pass_fds=(machine.channel_fd, machine.monitor_fd),
                # The terminal's Ctrl-C is for the command inside, not for QEMU.
                start_new_session=True,
            )
            self._opened = opened.pop_all()
        self._channel.settimeout(self._lab.silence_seconds)
        self._monitor = Monitor(self._monitor_socket)

    def _stop(self) -> None:
        if self._qemu.poll() is None:
            self._qemu.terminate()
            try:
                self._qemu.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._qemu.kill()
                self._qemu.wait()
        self._opened.close()

    def _serve(self, selector: selectors.BaseSelector) -> LabResult | None:
        """One turn: pass on what came in, then look at the clocks. A result ends the run."""
        ready = {key.fd for key, _ in selector.select(POLL_SECONDS)}
        result = None
        if self._console is not None and self._console.fileno() in ready:
            self._read_console(selector)
        if self._channel.fileno() in ready:
            result = self._receive()
        if result is None and self._boot_seconds is not None:
            self._send_signals()
        if self._boot_seconds is None:
            self._lab.progress.update()
        return result or self._overdue()

    def _receive(self) -> LabResult | None:
        try:
            data = self._channel.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            return self._machine_ended()
        try:
            for kind, payload in self._frames.feed(data):
                result = self._handle(kind, payload)
                if result is not None:
                    return result
        except ValueError as error:
            return self._failed(Outcome.MACHINE, f"the lab's process 1 talks nonsense: {error}")
        self._heard = time.monotonic()
        return None

    def _handle(self, kind: int, payload: bytes) -> LabResult | None:
        if kind == FrameType.STDOUT:
            self._output.stdout(payload)
        elif kind == FrameType.STDERR:
            self._output.stderr(payload)
        elif kind == FrameType.READY:
            self._boot_seconds = time.monotonic() - self._started
            self._lab.progress.done(f"{self._image.name} (Linux {payload.decode(errors='replace')}) is up")
            self._send(FrameType.JOB, self._job)
        elif kind == FrameType.EXIT:
            return self._exited(struct.unpack("<i", payload)[0])
        elif kind == FrameType.FAILED:
            return self._failed(Outcome.REFUSED, "the lab could not start the command")
        elif kind != FrameType.ALIVE:
            raise ValueError(f"unknown frame 0x{kind:02x}")
        return None

    def _send(self, kind: FrameType, payload: bytes) -> None:
        try:
            self._channel.sendall(encode_frame(kind, payload))
        except OSError:
            # The machine has gone or stands still: reading the channel, or the clock, will tell.
            self._lab.progress.update("not answering")

    def _send_signals(self) -> None:
        while self._signals and self._signals[0]:
            self._send(FrameType.SIGNAL, struct.pack("<I", self._signals[0]))
            self._signals[0] = 0
        if self._console is not None and self._window != self._console.window():
            self._window = self._console.window()
            self._send(FrameType.WINDOW, struct.pack("<2H", *self._window))

    def _read_console(self, selector: selectors.BaseSelector) -> None:
        assert self._console is not None
        data = self._console.read()
        if not data:
            selector.unregister(self._console.fileno())
        elif self._boot_seconds is not None:
            self._send(FrameType.STDIN, data)

    def _overdue(self) -> LabResult | None:
        now = time.monotonic()
        if self._stop_requested:
            return self._failed(Outcome.INTERRUPTED, "stopped by a signal", status=130)
        if now - self._started > self._lab.time_limit:
            doing = "the command" if self._boot_seconds is not None else "the boot"
            what = f"time limit of {duration(self._lab.time_limit)} reached, {doing} had not ended"
            return self._failed(Outcome.TIME_LIMIT, what, status=STATUS_TIME_LIMIT)
        if self._boot_seconds is None and now - self._started > BOOT_SECONDS:
            return self._hung(f"the kernel did not reach process 1 in {duration(BOOT_SECONDS)}")
        if self._boot_seconds is not None and now - self._heard > self._lab.silence_seconds:
            return self._hung(f"process 1 has been silent for {duration(self._lab.silence_seconds)}")
        return None

    def _exited(self, wait_status: int) -> LabResult:
        assert self._boot_seconds is not None
        return LabResult(
            Outcome.EXITED,
            exit_status(wait_status),
            self._log,
            self._boot_seconds,
            time.monotonic() - self._started - self._boot_seconds,
            warnings=tuple(find_trouble(self._read_log())),
            stdout=bytes(self._captured.out),
            stderr=bytes(self._captured.err),
        )

    def _hung(self, what: str) -> LabResult:
        return self._failed(Outcome.HANG, what, examine(self._monitor, self._image.system_map, self._log))

    def _machine_ended(self) -> LabResult:
        try:
            status = self._qemu.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        why = panic_headline(self._read_log())
        if why is not None:
            return self._failed(Outcome.PANIC, f"the kernel crashed: {why}")
        self._qemu_words.seek(0)
        words = self._qemu_words.read().decode(errors="replace").strip()
        what = f"QEMU ended with status {status}" if status else "the machine stopped without a word"
        return self._failed(Outcome.MACHINE, what, words.splitlines()[:20])

    def _failed(
        self, outcome: Outcome, what: str, details: Sequence[str] = (), status: int = STATUS_LAB_FAILED
    ) -> LabResult:
        report = failure_report(what, self._read_log(), details)
        run_seconds = time.monotonic() - self._started - (self._boot_seconds or 0.0)
        return LabResult(
            outcome,
            status,
            self._log,
            self._boot_seconds,
            run_seconds if self._boot_seconds is not None else None,
            report=f"{report}\nthe kernel's whole log: {self._log}",
            stdout=bytes(self._captured.out),
            stderr=bytes(self._captured.err),
        )

    def _read_log(self) -> str:
        return self._log.read_text(errors="replace")


def _new_log() -> Path:
    LAB_BUILD.mkdir(parents=True, exist_ok=True)
    # By name, which begins with the time: another lab may be removing them.
    logs = sorted(LAB_BUILD.glob("*.log"))
    for old in logs[: max(0, len(logs) - KEPT_LOGS)]:
        old.unlink(missing_ok=True)
    return LAB_BUILD / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{next(_log_numbers)}.log"
