# SPDX-License-Identifier: Apache-2.0
"""The programs that can run a guest: `vmm run`, and QEMU to compare with.

Each says how it is called for a guest and how its process's end is to be understood; the verdict is made from
that by one rule for both (`verdict`).
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vmm.guesttest.guests import Guest
from vmm.guesttest.verdict import DEBUG_EXIT, HOST_ERROR, Ending

VMM_COMMAND = (sys.executable, "-m", "vmm")
MAX_RESULT_BYTES = 1 << 20  # of the file that `vmm run --result` writes
KVM_GAVE_UP = b"KVM internal error"  # QEMU's message; it then stops the guest and waits for its user


class Target(Protocol):
    """A program that runs guests.

    own_time_limit: it ends runs itself when their time is over, so the runner gives it some seconds more.
    """

    name: str
    own_time_limit: bool

    def command(self, guest: Guest, result: Path, limit_s: float) -> list[str]:
        """The argv that runs `guest`. limit_s: 0 for none. Errors: `ConfigError`, `UnsupportedError`."""

    def ending(self, returncode: int, errors: bytes, result: Path) -> Ending:
        """How the run ended, from the process's end (`subprocess`'s returncode) and its standard error."""

    def is_stuck(self, errors: bytes) -> bool:
        """Whether the standard error says that the guest has ended although the process goes on."""


class VmmTarget:
    """`vmm run`.

    options: machine options of the user; they come last and so win over an entry's. command: how `vmm` is
    called, `VMM_COMMAND` if None.
    """

    name = "vmm"
    own_time_limit = True

    def __init__(self, options: Sequence[str] = (), command: Sequence[str] | None = None) -> None:
        self._options = list(options)
        self._command = list(VMM_COMMAND if command is None else command)

    def command(self, guest: Guest, result: Path, limit_s: float) -> list[str]:
        needs = guest.needs()
        arguments = needs.run_arguments() if needs is not None else ["--no-reboot"]
        limit = [f"--time-limit={limit_s:g}"] if limit_s else []
        argv = [*self._command, "run", _as_operand(guest.image), *arguments, *self._options]
        return [*argv, *limit, f"--result={result}"]

    def ending(self, returncode: int, errors: bytes, result: Path) -> Ending:
        if returncode < 0:
            return Ending(HOST_ERROR, detail=f"`vmm run` was killed by {_signal_name(-returncode)}")
        try:
            with result.open("rb") as stream:
                record = json.loads(stream.read(MAX_RESULT_BYTES))
            outcome, status, detail = str(record["outcome"]), int(record["status"]), str(record["detail"])
        except (OSError, ValueError, KeyError, TypeError):
            return Ending(
                HOST_ERROR,
                detail=_last_line(errors) or f"`vmm run` ended with status {returncode}, no result",
            )
        if status != returncode:
            return Ending(
                HOST_ERROR, detail=f"`vmm run` ended with status {returncode}, its result says {status}"
            )
        if outcome == DEBUG_EXIT:
            code = record.get("code")
            if not isinstance(code, int):
                return Ending(HOST_ERROR, detail=f"debug exit without its code in the result: found {code!r}")
            # The status holds 7 bits of the code: 128 would look like 0.
            return Ending(DEBUG_EXIT, code, f"debug exit with code {code}")
        return Ending(outcome, detail=detail)

    def is_stuck(self, errors: bytes) -> bool:
        return False


class QemuTarget:
    """QEMU, called as kvm-unit-tests' x86/run calls it.

    cpu_suffix: appended to the model of `-cpu host` and `-cpu max` (a host whose KVM refuses
    IA32_ARCH_CAPABILITIES needs "arch-capabilities=off").
    """

    own_time_limit = False

    def __init__(
        self, program: str = "qemu-system-x86_64", accelerator: str = "kvm", cpu_suffix: str = ""
    ) -> None:
        self.name = f"{program} {accelerator}"
        self._cpu_suffix = cpu_suffix
        fixed = "--no-reboot -nodefaults -global kvm-pit.lost_tick_policy=discard -device pc-testdev"
        fixed += (
            " -device isa-debug-exit,iobase=0xf4,iosize=0x4 -display none -serial stdio -device pci-testdev"
        )
        self._command = [program, *fixed.split(), "-machine", f"accel={accelerator}", "-kernel"]

    def command(self, guest: Guest, result: Path, limit_s: float) -> list[str]:
        words = guest.qemu_words()
        for index in range(1, len(words)):
            model = words[index].split(",")[0]
            if words[index - 1] == "-cpu" and model in ("host", "max") and self._cpu_suffix:
                words[index] += f",{self._cpu_suffix}"
        return [*self._command, str(guest.image), *words]

    def ending(self, returncode: int, errors: bytes, result: Path) -> Ending:
        if KVM_GAVE_UP in errors:
            return Ending("internal-error", detail=_line_with(errors, KVM_GAVE_UP))
        if returncode < 0:
            return Ending(HOST_ERROR, detail=f"QEMU was killed by {_signal_name(-returncode)}")
        # Status 1 is debug exit with code 0 and also what QEMU ends with when it cannot start; then it
        # says why. Warnings do not count (scripts/vmm.bash decides in the same way).
        complaints = [line for line in errors.splitlines() if line.strip() and b"warning" not in line.lower()]
        if returncode == 1 and complaints:
            return Ending(HOST_ERROR, detail=_last_line(b"\n".join(complaints)))
        if returncode % 2:
            return _debug_exit(returncode)
        if returncode == 0:
            return Ending("reset", detail="QEMU ended without debug exit: reset, triple fault or power-off")
        return Ending(HOST_ERROR, detail=_last_line(errors) or f"QEMU ended with status {returncode}")

    def is_stuck(self, errors: bytes) -> bool:
        return KVM_GAVE_UP in errors


def _as_operand(path: Path) -> str:
    """`path` so that no option parser takes it for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _debug_exit(status: int) -> Ending:
    if status % 2 == 0:
        return Ending(HOST_ERROR, detail=f"debug exit gives an odd status, found {status}")
    return Ending(DEBUG_EXIT, status >> 1, f"debug exit with code {status >> 1}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _line_with(errors: bytes, text: bytes) -> str:
    return next(line for line in errors.splitlines() if text in line).decode(errors="replace").strip()
