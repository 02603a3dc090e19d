# SPDX-License-Identifier: Apache-2.0
"""Bring a source tree to a patch series, changing no file that need not change.

The series is applied to copies of the files it names; then only files whose content differs are replaced. So a small
change in one patch makes `make` compile little, and files shared with the pristine tree by hard links stay intact.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.lab_vm.errors import LabError, missing_packages

MANIFEST = ".lab-series.json"
"""In the tree's root: the files in which the tree differs, or may differ, from the pristine source."""

FILE_LINES = re.compile(
    r"^(?:--- a/|\+\+\+ b/|rename from |rename to |diff --git a/\S+ b/)(?P<path>[^\t\n]+)", re.MULTILINE
)


def touched_files(patch: str) -> set[str]:
    """Paths, relative to the tree, that a patch in git's format changes, makes, removes or renames."""
    return {match["path"].strip() for match in FILE_LINES.finditer(patch)}


def apply_series(pristine: Path, tree: Path, patches: Sequence[Path]) -> list[str]:
    """Make `tree` equal to `pristine` plus `patches`; returns the files that were changed.

    Raises LabError when a patch does not apply; the tree is then unchanged.
    """
    touched: set[str] = set()
    for patch in patches:
        touched |= touched_files(patch.read_text(errors="surrogateescape"))
    manifest = tree / MANIFEST
    before = set(json.loads(manifest.read_text())) if manifest.exists() else set()
    with tempfile.TemporaryDirectory(prefix="series-", dir=tree.parent) as scratch_name:
        scratch = Path(scratch_name)
        for name in touched:
            if (pristine / name).exists():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(pristine / name, scratch / name)
        for patch in patches:
            _apply(patch, scratch)
        # An interrupted run leaves a manifest that names too much, never too little.
        _write_manifest(manifest, before | touched)
        changed = [
            name
            for name in sorted(before | touched)
            if _replace((scratch if name in touched else pristine) / name, tree / name)
        ]
    _write_manifest(manifest, touched)
    return changed


def _apply(patch: Path, directory: Path) -> None:
    program = shutil.which("patch")
    if program is None:
        raise missing_packages("no `patch` to apply the kernel series", ["patch"])
    done = subprocess.run(
        [
            program,
            "-p1",
            "--fuzz=0",
            "--no-backup-if-mismatch",
            "--batch",
            "--forward",
            "-i",
            str(patch.resolve()),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(
            f"{patch} does not apply to the kernel source; rebase the series on it.\n"
            f"{done.stdout.strip()}\n{done.stderr.strip()}".rstrip()
        )


def _replace(wanted: Path, target: Path) -> bool:
    """Give `target` the content of `wanted`, or remove it when there is none. False when it was so already."""
    content = wanted.read_bytes() if wanted.exists() else None
    present = target.read_bytes() if target.exists() else None
    if content == present:
        return False
    if content is None:
        target.unlink()
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    # A new file, so that the pristine one behind the same inode keeps its content and `make` sees a new time.
    unfinished = target.with_name(target.name + ".lab-new")
    unfinished.write_bytes(content)
    if wanted.stat().st_mode & 0o111:
        unfinished.chmod(0o755)
    unfinished.replace(target)
    return True


def _write_manifest(manifest: Path, names: set[str]) -> None:
    unfinished = manifest.with_suffix(".new")
    unfinished.write_text(json.dumps(sorted(names)))
    unfinished.replace(manifest)
