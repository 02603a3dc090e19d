# SPDX-License-Identifier: Apache-2.0
"""How many files a machine keeps open, and the limit of this process on them.

Shells start programs with a soft limit of 1024 (an old `select` cannot take more), far below the hard one.
"""

from __future__ import annotations

import os
import resource

from vmm.machine.config import ConfigError

FILES_PER_PROCESSOR = 2  # the vCPU, and the copy of its descriptor that Python keeps for the mapped kvm_run
OTHER_FILES = (
    64  # KVM, the VM, guest memory, kernel, initrd, the console's end, eventfds, modules being imported
)


def files_for(processors: int) -> int:
    """Files that a machine with so many processors keeps open, with some room."""
    return processors * FILES_PER_PROCESSOR + OTHER_FILES


def processors_for(files: int) -> int:
    """Processors of a machine that may keep so many files open; 0 if there is no room for one."""
    return max((files - OTHER_FILES) // FILES_PER_PROCESSOR, 0)


def allow(processors: int) -> None:
    """Raise this process's soft limit to the hard one if a machine with so many processors needs it.

    Errors: `ConfigError` if the hard limit is too low as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = len(os.listdir("/proc/self/fd"))
    needed = others + files_for(processors)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ConfigError(
            f"{processors} processors need {needed} open files, this process may have {hard} (hard limit): raise "
            f"it, such as with 'ulimit -n {needed}' as root, or ask for {processors_for(hard - others)} processors "
            "at most"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
