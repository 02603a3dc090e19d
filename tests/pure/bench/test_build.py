# SPDX-License-Identifier: Apache-2.0
"""The C sides of benchmarks are built wherever they can be, and watchdogs have the patience that the machine needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import build

NAME = "exit_loop"


def usage_of(program: Path) -> str:
    """What the C program says to no arguments: it needs no KVM for that."""
    result = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    return result.stderr


@pytest.fixture
def no_patience_kept() -> Iterator[None]:
    build.patience.cache_clear()
    yield
    build.patience.cache_clear()


def test_a_program_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path / "new" / "bench")

    first = build.c_program(NAME)
    made = first.stat().st_mtime_ns
    again = build.c_program(NAME)

    assert first == again == tmp_path / "new" / "bench" / NAME
    assert again.stat().st_mtime_ns == made
    assert "usage: exit_loop" in usage_of(first)


def test_a_program_older_than_its_source_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path)
    stale = tmp_path / NAME
    stale.write_text("not a program")
    os.utime(stale, (0, 0))

    assert "usage: exit_loop" in usage_of(build.c_program(NAME))


def test_a_program_older_than_a_header_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "c"
    shutil.copytree(build.SOURCES, sources)
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    program = build.c_program(NAME)
    program.write_text("not a program")
    header = sources / "setup.h"
    later = program.stat().st_mtime + 1
    os.utime(header, (later, later))

    assert "usage: exit_loop" in usage_of(build.c_program(NAME))


def test_a_checkout_that_cannot_be_written_gets_its_programs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(build, "BUILT", file / "bench")  # even root makes no directory in a file

    program = build.c_program(NAME)

    assert "usage: exit_loop" in usage_of(program)
    assert build.c_program(NAME) == program
    assert not program.is_relative_to(tmp_path)


def test_a_program_that_was_built_outside_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the lab, whose file system shows the checkout read-only."""
    monkeypatch.setattr(build, "BUILT", tmp_path)
    program = build.c_program(NAME)
    monkeypatch.setenv("PATH", str(tmp_path))  # no gcc

    assert build.c_program(NAME) == program


def test_without_a_compiler_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(build.BenchError, match="install the Debian package gcc"):
        build.c_program(NAME)


@pytest.mark.parametrize(("seconds", "factor"), [(0.001, 1.0), (0.2, 20.0), (9.0, build.MOST_PATIENCE)])
@pytest.mark.usefixtures("no_patience_kept")
def test_patience_grows_with_the_machines_slowness(
    monkeypatch: pytest.MonkeyPatch, seconds: float, factor: float
) -> None:
    times = iter((100.0, 100.0 + seconds))
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))

    assert build.patience() == pytest.approx(factor)
    assert build.time_limit_s(3.0) == pytest.approx(3.0 * factor)


def test_a_program_that_does_not_end_is_told_of() -> None:
    with pytest.raises(build.BenchError, match=r"sleep 60 did not end within 0\.1 s"):
        build.run_program(["sleep", "60"], 0.1)
