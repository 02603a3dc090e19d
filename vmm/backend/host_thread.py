# SPDX-License-Identifier: Apache-2.0
"""What a thread is to the host: its name in `/proc/PID/task/TID/comm` (`top -H`), and the CPU it is bound to."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Final

PR_SET_NAME: Final = 15  # linux/prctl.h
COMM_BYTES: Final = 15  # TASK_COMM_LEN of linux/sched.h, without the NUL
_TOPOLOGY: Final = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class PinError(RuntimeError):
    """A thread cannot be bound to a CPU: one line, which one and why."""


def tell_name() -> None:
    """Give the kernel the calling thread's Python name, cut to `COMM_BYTES`. Before 3.14 Python does not."""
    name = threading.current_thread().name.encode(errors="replace")[:COMM_BYTES]
    ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)  # without it only the name is missing


def pin(cpu: int) -> None:
    """Bind the calling thread to one CPU. Errors: `PinError`."""
    import psutil  # most machines are not pinned

    try:
        psutil.Process(threading.get_native_id()).cpu_affinity([cpu])
    except (psutil.Error, OSError, ValueError) as error:  # ValueError: no such CPU
        why = getattr(error, "strerror", None) or getattr(error, "msg", None) or error
        raise PinError(f"{threading.current_thread().name} cannot be bound to CPU {cpu}: {why}") from error


def available_cpus() -> list[int]:
    """The CPUs that this process may run on, ascending."""
    import psutil

    return sorted(psutil.Process().cpu_affinity())


def core_of(cpu: int) -> str:
    """What hardware threads of one core have in common; the CPU's own number where the host does not tell."""
    try:
        return Path(_TOPOLOGY.format(cpu)).read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)
