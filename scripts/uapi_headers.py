# SPDX-License-Identifier: Apache-2.0
"""Make the user-space headers of a kernel source tarball usable by gcc: the part of `make headers` we need.

    scripts/uapi_headers.py [--tarball FILE] [--out DIRECTORY]

prints the directory to give to `gcc -I`. It holds linux/, asm/ (x86) and asm-generic/, and
KVM's api.rst. The result is kept under DIRECTORY by the tarball's content, so the second call costs a
checksum; parallel calls do not disturb each other, because each works in a directory of its own and renames
it when done.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

TARBALL = Path("/usr/src/linux-source-6.12.tar.xz")
OUT = Path(__file__).resolve().parent.parent / "build" / "uapi-headers"

# Where the kernel keeps them (below its top directory) -> where gcc looks for them.
TREES = {
    "include/uapi/linux/": "linux/",
    "include/uapi/asm-generic/": "asm-generic/",
    "arch/x86/include/uapi/asm/": "asm/",
}
GENERIC_LIST = "include/uapi/asm-generic/Kbuild"
# Kept beside the headers, for the test that looks up every section that kvmapi cites.
DOCUMENT = "Documentation/virt/kvm/api.rst"
# Part of the result's name: raise it when the same tarball shall give something else.
FORM = 2

# A header of the kernel is not yet one for programs: it includes the kernel's compiler definitions, marks
# pointers into user space, and warns whoever includes it.
_KERNEL_ONLY = re.compile(
    r'^[ \t]*#[ \t]*(include[ \t]+<linux/compiler(_types)?\.h>|warning "Attempt to use).*$', re.M
)
_MARKS = re.compile(r"\b(__user|__force|__iomem)\b[ \t]*")
_MANDATORY = re.compile(r"^mandatory-y[ \t]*\+=[ \t]*(\S+\.h)", re.M)


class HeadersError(Exception):
    """The headers cannot be made; the message says what to install."""


def prepare(tarball: Path = TARBALL, out: Path = OUT) -> Path:
    """The include directory made from `tarball`, from an earlier call if there was one.

    Raises HeadersError when the tarball is missing or is not a kernel's.
    """
    if not tarball.is_file():
        raise HeadersError(
            f"{tarball} is missing: it holds the kernel headers that kvmapi is compared with. "
            "On Debian: apt-get install linux-source-6.12 (from bookworm-backports on Debian 12)"
        )
    target = out / _identity(tarball)
    if target.is_dir():
        return target
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=out))
    try:
        _extract(tarball, work)
        try:
            work.rename(target)
        except OSError:
            # Somebody else finished first: theirs is as good.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _identity(tarball: Path) -> str:
    with tarball.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}-{FORM}"


def _extract(tarball: Path, work: Path) -> None:
    generic = ""
    found = 0
    try:
        with tarfile.open(tarball, "r|*") as archive:
            for member in archive:
                path = member.name.removeprefix("./").partition("/")[2]
                if path == DOCUMENT and (document := archive.extractfile(member)) is not None:
                    (work / "api.rst").write_bytes(document.read())
                    continue
                tree = next((tree for tree in TREES if path.startswith(tree)), None)
                if tree is None or not member.isfile():
                    continue
                file = archive.extractfile(member)
                text = "" if file is None else file.read().decode()
                if path == GENERIC_LIST:
                    generic = text
                if not path.endswith(".h"):
                    continue
                place = work / TREES[tree] / path.removeprefix(tree)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(for_programs(text))
                found += 1
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise HeadersError(f"{tarball} cannot be read as a kernel source tarball: {error}") from error
    if not (work / "linux/kvm.h").is_file() or not (work / "asm/kvm.h").is_file():
        raise HeadersError(
            f"{tarball} has {found} user-space headers but no linux/kvm.h or asm/kvm.h for x86"
        )
    for name in _MANDATORY.findall(generic):
        place = work / "asm" / name
        if not place.exists():
            place.write_text(f"#include <asm-generic/{name}>\n")


def for_programs(text: str) -> str:
    """`text` of a kernel header as a program may include it."""
    return _MARKS.sub("", _KERNEL_ONLY.sub("", text))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Prepare a kernel's user-space headers; print their directory."
    )
    parser.add_argument("--tarball", type=Path, default=TARBALL, help="kernel source (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="where results are kept (default: %(default)s)")
    options = parser.parse_args()
    try:
        print(prepare(options.tarball, options.out))
    except HeadersError as error:
        print(f"uapi_headers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
