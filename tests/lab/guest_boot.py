# SPDX-License-Identifier: Apache-2.0
"""A guest with several processors inside the lab, whose own processors are emulated.

Now and then a VP of Debian's kernel with four VPs ends in a triple fault, early in the kernel and each time somewhere
else: once in 57 boots that were counted, and twice on other machines, once VP 0. The cause is not known; 24 of those
boots, on a lab kernel that records a vCPU's last exits, had none. That QEMU's nested SVM now and then delivers an
interrupt that is held back (`emulation`) would explain it. Until it is known, such a boot, and no other failure, is
made again, with a warning.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from scripts.lab_vm import Lab, LabResult
from tests.lab import emulation

BOOTS = 8
"""On one day every second boot with four VPs was lost."""
_TRIPLE_FAULT = re.compile(rb"^vmm: VP [0-9]+: triple fault", re.MULTILINE)


def boot(lab: Lab, command: Sequence[str]) -> LabResult:
    """Run a `vmm run` in the lab."""
    for _ in range(BOOTS):
        result = emulation.run(lab, command)
        if result.exit_status != 2 or not _TRIPLE_FAULT.search(result.stderr):
            break
        warnings.warn(
            f"to be booted again: {result.stderr.decode(errors='replace').splitlines()[0]}", stacklevel=2
        )
    return result
