# SPDX-License-Identifier: Apache-2.0
"""Runs in the lab that the lab's emulation has spoilt, QEMU 7.2's of nested SVM, and not what runs in it.

Two of its defects are known, both rare and both about interrupts, and both show beyond doubt:

| what is seen | why no kernel can have done it |
|---|---|
| QEMU ends: tcg_handle_interrupt, assertion failed | a guest may do whatever it likes |
| the kernel was interrupted with RFLAGS.IF clear, and hangs or crashes of it | a processor holds them back then |

Such a run is made once more, with a warning. Every other failure counts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from scripts.lab_vm import Lab, LabResult
from scripts.lab_vm.lab import Outcome
from scripts.lab_vm.places import CHECKOUT

_ASSERTION = "tcg_handle_interrupt: assertion failed"
_INTERRUPTED = re.compile(
    r"\basm_(?:sysvec|common_interrupt)\w*\+[^\n]*\n[^\n]*\bRIP: [^\n]*\n(?:[^\n]*\n)??[^\n]*\bEFLAGS: ([0-9a-f]{8})"
)
_IF = 1 << 9


def interrupted_with_interrupts_off(log: str) -> bool:
    """Whether a kernel's call trace says that an interrupt came where RFLAGS.IF was clear."""
    return any(not int(flags, 16) & _IF for flags in _INTERRUPTED.findall(log))


def spoilt_by(result: LabResult) -> str | None:
    """What the emulation has done to a run, None if nothing that is known."""
    if result.outcome is Outcome.MACHINE and _ASSERTION in result.report:
        return "QEMU ended itself (an assertion in tcg_handle_interrupt)"
    if result.outcome in (Outcome.PANIC, Outcome.HANG):
        log = result.log.read_text(errors="replace")
        if interrupted_with_interrupts_off(log):
            return "QEMU interrupted the lab's kernel while it had interrupts off"
    return None


def run(lab: Lab, command: Sequence[str]) -> LabResult:
    """Run a command in the lab, and once more if the emulation has spoilt that."""
    result = lab.run(command, directory=CHECKOUT)
    if why := spoilt_by(result):
        warnings.warn(f"run again in the lab: {why}", stacklevel=2)
        result = lab.run(command, directory=CHECKOUT)
    return result
