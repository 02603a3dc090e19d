# SPDX-License-Identifier: Apache-2.0
"""Building the C sides, running either side, and the error that every benchmark reports in one line."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "build" / "bench"
SOURCES = ROOT / "bench" / "c"

_TURNS = 200_000
_TURNS_S = (
    0.01  # what they take on a processor of 2023, idle; ten times that under software emulation and more
)
MOST_PATIENCE = 40.0


class BenchError(Exception):
    """Something the benchmark needs is missing or failed: one line, what and what to do."""


def c_program(name: str) -> Path:
    """`bench/c/NAME.c` as an executable in `build/bench/`, built when it is older than its source or a header.

    Where that cannot be written, as in the lab, it is built in a directory for temporary files.
    """
    source = SOURCES / f"{name}.c"
    target = BUILT / name
    if not _is_newer(target, source):
        target = _writable_directory() / name
    if not _is_newer(target, source):
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(target), str(source)]
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise BenchError("gcc is missing: install the Debian package gcc") from None
        if result.returncode:
            raise BenchError(f"{source.name} does not compile: {result.stderr.strip()}")
    return target


def _is_newer(target: Path, source: Path) -> bool:
    """Than its source, and than each header."""
    newest = max(file.stat().st_mtime for file in (source, *source.parent.glob("*.h")))
    return target.exists() and target.stat().st_mtime >= newest


def _writable_directory() -> Path:
    try:
        BUILT.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(_temporary_directory().name)
    return BUILT if os.access(BUILT, os.W_OK) else Path(_temporary_directory().name)


@functools.cache
def _temporary_directory() -> tempfile.TemporaryDirectory[str]:
    """Gone when Python ends."""
    return tempfile.TemporaryDirectory(prefix="vmm-bench-")


def guest(name: str) -> Path:
    """`firmware/build/NAME`. Errors: `BenchError` when it is not built."""
    path = ROOT / "firmware" / "build" / name
    if not path.exists():
        raise BenchError(f"{path.relative_to(ROOT)} is not built: run 'make firmware'")
    return path


@functools.cache
def patience() -> float:
    """The factor for time limits: how much slower than usual this machine is, 1 to `MOST_PATIENCE`."""
    begin = time.perf_counter()
    for _ in range(_TURNS):
        pass
    return min(max((time.perf_counter() - begin) / _TURNS_S, 1.0), MOST_PATIENCE)


def time_limit_s(seconds: float) -> float:
    """A watchdog for what takes far less than `seconds` on an ordinary machine, with this one's patience."""
    return seconds * patience()


def run_program(
    command: list[str], limit_s: float, *, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run to the end, output captured. Errors: `BenchError` when it does not end in time."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, cwd=cwd
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(command)} did not end within {limit_s:g} s") from None
