# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.lab.in_turn JSON`: runs of `vmm run`, one after the other, for `tests.lab.guests`.

JSON is a list of argument lists. Each run has a process of its own, forked from one that has imported the VMM: in the
lab, where Python is some 25 times slower, that takes longer than most guests. The tests of Debian's kernel start `vmm`
as a user does.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys

import vmm
from vmm.cli.main import main

BEGINS, ENDS = "=== begins:", "=== ends:"
_NOT_FOR_RUN = ("vmm.guesttest", "vmm.pytest", "vmm.cli.test", "vmm.cli.doctor", "vmm.__main__")


_LATER = ("elftools.elf.structs", "elftools.common.utils", "capstone")
"""What the VMM imports when it first needs it."""


def import_the_vmm() -> None:
    """What `vmm run` may import."""
    for name in _LATER:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(vmm.__path__, "vmm."):
        if not module.name.startswith(_NOT_FOR_RUN):
            importlib.import_module(module.name)


def run_in_turn(runs: list[list[str]]) -> int:
    """Fork a process for each run and tell its status; in that process, the run's status."""
    for number, arguments in enumerate(runs):
        print(f"\n{BEGINS} {number}", flush=True)
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(1, 2)
            return main(["run", *arguments])
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(f"\n{ENDS} {status}", flush=True)
    return 0


if __name__ == "__main__":
    import_the_vmm()
    sys.exit(run_in_turn(json.loads(sys.argv[1])))
