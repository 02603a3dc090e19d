# SPDX-License-Identifier: Apache-2.0
"""A run in the lab in which QEMU ended itself: no kernel and no guest can have done that, and it tells nothing of them.

One assertion of QEMU 7.2's is known, of a guest that writes CR8 (kernel/lab avoids what leads there). Such a run is
made once more, with a warning. Every other failure counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from scripts.lab_vm import Lab, LabResult
from scripts.lab_vm.lab import Outcome
from scripts.lab_vm.places import CHECKOUT

_ASSERTION = "tcg_handle_interrupt: assertion failed"


def is_spoilt(result: LabResult) -> bool:
    """Whether QEMU has ended itself by the assertion that is known."""
    return result.outcome is Outcome.MACHINE and _ASSERTION in result.report


def run(lab: Lab, command: Sequence[str]) -> LabResult:
    """Run a command in the lab, and once more if QEMU ended itself meanwhile."""
    result = lab.run(command, directory=CHECKOUT)
    if is_spoilt(result):
        warnings.warn("run again in the lab: QEMU ended itself (tcg_handle_interrupt)", stacklevel=2)
        result = lab.run(command, directory=CHECKOUT)
    return result
