# SPDX-License-Identifier: Apache-2.0
"""The C programs of `guest/`: compiled statically, cached by their content."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from scripts.lab_vm.errors import LabError, missing_packages
from scripts.lab_vm.places import GUEST_SOURCES, LAB_BUILD

FLAGS = ["-std=gnu11", "-static", "-O2", "-Wall", "-Wextra", "-Werror"]


def build_guest_program(name: str, directory: Path = LAB_BUILD) -> Path:
    """The executable of `guest/<name>.c` and what is in `guest/<name>/`, compiled when a source or the flags are new.

    Two builds at once are harmless: each writes a file of its own and renames it.
    """
    source = GUEST_SOURCES / f"{name}.c"
    parts = sorted((GUEST_SOURCES / name).glob("*.[ch]"))
    texts = [file.name.encode() + b"\0" + file.read_bytes() for file in (source, *parts)]
    key = hashlib.sha256(b"\0".join([*texts, *(flag.encode() for flag in FLAGS)])).hexdigest()[:12]
    program = directory / f"{name}-{key}"
    if program.exists():
        return program
    compiler = shutil.which("gcc")
    if compiler is None:
        raise missing_packages(f"no gcc to compile {source}", ["gcc", "libc6-dev"])
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / f"{name}-{key}.{os.getpid()}"
    sources = [source, *(part for part in parts if part.suffix == ".c")]
    built = subprocess.run(
        [compiler, *FLAGS, "-o", str(unfinished), *map(str, sources)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        raise LabError(f"gcc cannot compile {source}:\n{built.stderr.strip()}")
    unfinished.rename(program)
    return program
