# SPDX-License-Identifier: Apache-2.0
"""Crash MSRs: five parameters, and a control register that reports them (TLFS 4.3).

Reading the control register gives the actions on offer, writing it carries them out. With CrashMessage, P3 is the
GPA of a text and P4 its length. One set for the partition, shared by VPs and VTLs.

Implements: MISC-002
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmm.hv.msr_bits import HV_CRASH_CTL_REG_CONTENTS
from vmm.outside import GuestMemory, GuestMemoryError

PARAMETERS: Final = 5
MESSAGE_BYTES: Final = 4096
"""A text's longest length (TLFS 4.3); a longer one is cut."""
REPORTS: Final = 16
"""Reports passed on until the partition is reset. A guest that crashes in a loop must not fill the user's terminal."""

OFFERED: Final = int(HV_CRASH_CTL_REG_CONTENTS.make(CrashNotify=1, CrashMessage=1))
_MESSAGE_GPA, _MESSAGE_LENGTH = 3, 4  # which parameters say where the text is


@dataclass(frozen=True, slots=True)
class CrashReport:
    """What a guest said when it crashed."""

    vp: int
    vtl: int
    control: HV_CRASH_CTL_REG_CONTENTS
    parameters: tuple[int, ...]
    """P0 to P4. For Windows P0 is the bug check code, the others its parameters; Linux: error, RIP, RAX, RSP ..."""
    message: bytes | None
    """The text, None when there is none."""
    message_error: str | None = None
    """Why an announced text could not be read."""

    def __str__(self) -> str:
        parameters = " ".join(f"P{number}={value:#x}" for number, value in enumerate(self.parameters))
        return f"the guest reports a crash (VP {self.vp}, VTL {self.vtl}): {parameters}"


class CrashRegisters:
    """HV_X64_MSR_CRASH_P0 to P4 and CTL. Thread-safe; the report goes out without the lock."""

    def __init__(self, memory: GuestMemory, report: Callable[[CrashReport], None]) -> None:
        self._lock = threading.Lock()
        self._memory = memory
        self._report = report
        self._parameters = [0] * PARAMETERS
        self._reports_left = REPORTS

    def reset(self) -> None:
        """All parameters zero; reports are passed on again."""
        with self._lock:
            self._parameters = [0] * PARAMETERS
            self._reports_left = REPORTS

    def read_parameter(self, number: int) -> int:
        """HV_X64_MSR_CRASH_P0 + `number`."""
        return self._parameters[number]

    def write_parameter(self, number: int, value: int) -> bool:
        """Keep it."""
        self._parameters[number] = value
        return True

    def read_control(self) -> int:
        """The actions on offer."""
        return OFFERED

    def write_control(self, vp: int, vtl: int, value: int) -> bool:
        """With CrashNotify: report. Other bits alone do nothing."""
        control = HV_CRASH_CTL_REG_CONTENTS(value)
        if not control.CrashNotify:
            return True
        with self._lock:
            if not self._reports_left:
                return True
            self._reports_left -= 1
            parameters = tuple(self._parameters)
        message, error = None, None
        if control.CrashMessage:
            gpa, length = parameters[_MESSAGE_GPA], min(parameters[_MESSAGE_LENGTH], MESSAGE_BYTES)
            try:
                message = self._memory.read(gpa, length)
            except GuestMemoryError as failure:
                error = f"the crash message cannot be read: {failure}"
        self._report(CrashReport(vp, vtl, control, parameters, message, error))
        return True
