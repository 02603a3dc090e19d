# SPDX-License-Identifier: Apache-2.0
"""The lab: any kernel with a working /dev/kvm, on any x86-64 machine, in QEMU's software emulation.

`Lab(kernel="upstream").run(["true"])` boots, runs and returns a `LabResult`. The host's own root file system is seen
inside, read-only, so the checkout and its virtual environment are there under the same paths.

What lives here: `lab` (one run), `machine` (QEMU's command line), `channel` and `guest/init.c` (the two ends of the
virtio-serial link), `kernel_log` (what a log says about a crash), `debugger` (where a hung kernel stands),
`recipe` and `kernel_build` (kernels, cached by content), `guest_program` (C programs of `guest/`), `progress`, `cli`.

Standard library only: it runs with Debian's own Python, before a virtual environment exists.
"""

from scripts.lab_vm.errors import LabError
from scripts.lab_vm.lab import Lab, LabResult, Outcome

__all__ = ["Lab", "LabError", "LabResult", "Outcome"]
