# SPDX-License-Identifier: Apache-2.0
"""Building the C sides, and the error that every benchmark reports in one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class BenchError(Exception):
    """Something the benchmark needs is missing or failed: one line, what and what to do."""


def c_program(name: str) -> Path:
    """`bench/c/NAME.c` as an executable in `build/bench/`, built when it is older than its source."""
    source, target = ROOT / "bench" / "c" / f"{name}.c", ROOT / "build" / "bench" / name
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(target), str(source)]
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise BenchError("gcc is missing: install the Debian package gcc") from None
        if result.returncode:
            raise BenchError(f"{source.name} does not compile: {result.stderr.strip()}")
    return target


def guest(name: str) -> Path:
    """`firmware/build/NAME`. Errors: `BenchError` when it is not built."""
    path = ROOT / "firmware" / "build" / name
    if not path.exists():
        raise BenchError(f"{path.relative_to(ROOT)} is not built: run 'make firmware'")
    return path


def run_program(command: list[str], limit_s: float) -> subprocess.CompletedProcess[bytes]:
    """Run to the end, output captured. Errors: `BenchError` when it does not end in time."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(command)} did not end within {limit_s:g} s") from None
