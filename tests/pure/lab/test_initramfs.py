# SPDX-License-Identifier: Apache-2.0
"""The guest's initramfs."""

from __future__ import annotations

import gzip
import shutil
import stat
import subprocess
from pathlib import Path

from scripts.guest_initramfs import INIT, initramfs_entries
from scripts.lab_vm.initramfs import character_device, folder, link, make_cpio, make_initramfs, program

ENTRIES = [folder("d"), program("d/odd", b"12345"), link("l", "d/odd"), character_device("c", 5, 1)]


def parse(archive: bytes) -> dict[str, tuple[int, bytes, int, int]]:
    """`path: (mode, content, major, minor)`, read by the format's description."""
    found: dict[str, tuple[int, bytes, int, int]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        start = (at + 110 + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], archive[start : start + fields[6]], fields[9], fields[10])
        at = (start + fields[6] + 3) // 4 * 4


def test_entries_come_back() -> None:
    found = parse(make_cpio(ENTRIES))

    assert list(found) == ["d", "d/odd", "l", "c"]
    assert found["d/odd"] == (stat.S_IFREG | 0o755, b"12345", 0, 0)
    assert found["l"][1] == b"d/odd"
    assert (stat.S_IFMT(found["c"][0]), *found["c"][2:]) == (stat.S_IFCHR, 5, 1)


def test_equal_entries_give_equal_bytes() -> None:
    assert make_initramfs(ENTRIES) == make_initramfs(ENTRIES)


def test_it_is_gzip_of_a_cpio() -> None:
    assert gzip.decompress(make_initramfs(ENTRIES)) == make_cpio(ENTRIES)


def test_the_guest_s_init_is_a_valid_script(tmp_path: Path) -> None:
    script = tmp_path / "init"
    script.write_text(INIT)

    done = subprocess.run(
        [shutil.which("sh") or "sh", "-n", str(script)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_guest_s_init_finds_its_interpreter_and_folders() -> None:
    found = parse(make_cpio(initramfs_entries(b"busybox")))

    assert INIT.startswith("#!/bin/busybox")
    assert {"bin/busybox", "bin/sh", "init", "dev/console", "proc", "sys", "dev"} <= set(found)
