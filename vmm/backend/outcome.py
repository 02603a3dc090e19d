# SPDX-License-Identifier: Apache-2.0
"""How a run ended: one small value, from the VP thread or device that saw it up to the command line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OutcomeKind(StrEnum):
    """The ways a run can end. The values stand in `vmm run --result FILE`."""

    DEBUG_EXIT = "debug-exit"  # the guest wrote the isa-debug-exit port
    POWER_OFF = "power-off"  # ACPI S5
    RESET = "reset"  # a reset, and the user asked for no reboot
    TRIPLE_FAULT = "triple-fault"  # KVM_EXIT_SHUTDOWN
    EMULATION_FAILURE = "emulation-failure"  # KVM met an instruction that it cannot emulate
    INTERNAL_ERROR = "internal-error"  # any other exit that leaves no way to go on
    ENTRY_FAILURE = "entry-failure"  # the processor refused the guest's state
    TIME_LIMIT = "time-limit"  # --time-limit ran out
    INTERRUPTED = "interrupted"  # a signal, or the console's escape sequence
    OUTPUT_CLOSED = "output-closed"  # whoever read the guest's console went away
    ERROR = "error"  # a defect of ours, or a host call that failed


# What the process of `vmm run` ends with where the guest has no say; 128 + n for signal n is added by the caller.
STATUS_BAD_INPUT = 2
STATUS_TIME_LIMIT = 124


@dataclass(frozen=True)
class Outcome:
    """One ended run.

    status: the process status it stands for. detail: one line for the user. report: registers and whatever
    else helps to find the cause, several lines, or empty. code: what was written to the debug-exit port.
    """

    kind: OutcomeKind
    status: int
    detail: str
    report: str = ""
    code: int | None = None


def debug_exit(code: int) -> Outcome:
    """isa-debug-exit: status `(code << 1 | 1) & 0xff`, always odd (QEMU hw/misc/debugexit)."""
    detail = f"the guest ended with debug-exit code {code}"
    return Outcome(OutcomeKind.DEBUG_EXIT, (code << 1 | 1) & 0xFF, detail, code=code)
