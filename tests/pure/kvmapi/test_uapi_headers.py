# SPDX-License-Identifier: Apache-2.0
"""The header script, on small tarballs made here."""

from __future__ import annotations

import io
import tarfile
import threading
from pathlib import Path

import pytest

from scripts.uapi_headers import HeadersError, for_programs, prepare

FILES = {
    "linux-6.12/Makefile": "VERSION = 6\n",
    "linux-6.12/include/uapi/linux/kvm.h": "#include <linux/compiler.h>\nstruct a { void __user *p; };\n",
    "linux-6.12/include/uapi/asm-generic/Kbuild": "mandatory-y += types.h\nmandatory-y += kvm.h\n",
    "linux-6.12/include/uapi/asm-generic/types.h": "typedef int generic;\n",
    "linux-6.12/arch/x86/include/uapi/asm/kvm.h": "struct x86;\n",
    "linux-6.12/arch/arm64/include/uapi/asm/kvm.h": "struct arm;\n",
}


def tarball(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tarball(tmp_path / "linux.tar.xz", FILES)


def test_headers_are_laid_out_for_gcc(source: Path, tmp_path: Path) -> None:
    out = prepare(source, tmp_path / "out")

    files = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*.h")}
    assert files == {
        "linux/kvm.h": "\nstruct a { void *p; };\n",
        "asm-generic/types.h": "typedef int generic;\n",
        "asm/kvm.h": "struct x86;\n",  # not replaced by the generic one
        "asm/types.h": "#include <asm-generic/types.h>\n",
    }


def test_second_call_reuses_the_first(source: Path, tmp_path: Path) -> None:
    first = prepare(source, tmp_path / "out")
    (first / "mark").touch()

    second = prepare(source, tmp_path / "out")

    assert second == first
    assert (second / "mark").exists()


def test_other_content_gets_another_place(source: Path, tmp_path: Path) -> None:
    first = prepare(source, tmp_path / "out")
    tarball(source, FILES | {"linux-6.12/include/uapi/linux/new.h": "\n"})

    second = prepare(source, tmp_path / "out")

    assert second != first
    assert (second / "linux/new.h").exists()


def test_parallel_calls_agree_and_leave_nothing_behind(source: Path, tmp_path: Path) -> None:
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(prepare(source, tmp_path / "out"))) for _ in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(results) == 8
    assert list((tmp_path / "out").iterdir()) == [results[0]]


def test_missing_tarball_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(HeadersError, match=r"apt-get install linux-source-6\.12"):
        prepare(tmp_path / "nothing.tar.xz", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not a tarball at all", b"\xfd7zXZ\0damaged"])
def test_broken_tarball_leaves_nothing_behind(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "linux.tar.xz"
    broken.write_bytes(content)

    with pytest.raises(HeadersError, match="cannot be read as a kernel source tarball"):
        prepare(broken, tmp_path / "out")

    assert list((tmp_path / "out").iterdir()) == []


def test_tarball_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tarball(tmp_path / "other.tar.xz", {"thing/include/uapi/linux/a.h": "\n"})

    with pytest.raises(HeadersError, match=r"no linux/kvm\.h"):
        prepare(other, tmp_path / "out")

    assert list((tmp_path / "out").iterdir()) == []


def test_marks_and_the_kernels_own_includes_go() -> None:
    text = '#include <linux/compiler_types.h>\n#warning "Attempt to use kernel headers"\nint __user *a; __forced b;\n'

    assert for_programs(text) == "\n\nint *a; __forced b;\n"
