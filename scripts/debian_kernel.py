#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian's stock cloud kernel as a guest: bzImage, the vmlinux inside it, and a small initramfs.

    scripts/debian_kernel.py            makes build/debian-kernel/{vmlinuz,vmlinux,initrd.img}, once

What its init does, `scripts/guest_initramfs.py` says.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.guest_initramfs import busybox, initramfs_entries, keep
from scripts.lab_vm.bzimage import extract_vmlinux
from scripts.lab_vm.errors import LabError, missing_packages
from scripts.lab_vm.initramfs import make_initramfs
from scripts.lab_vm.places import BUILD

PACKAGE = "linux-image-cloud-amd64"


@dataclass(frozen=True)
class DebianKernel:
    vmlinuz: Path
    vmlinux: Path
    initrd: Path


def ensure_debian_kernel(directory: Path = BUILD / "debian-kernel") -> DebianKernel:
    """The three files, made when one of them is missing or the initramfs changed. LabError says what to install."""
    kernel = DebianKernel(directory / "vmlinuz", directory / "vmlinux", directory / "initrd.img")
    directory.mkdir(parents=True, exist_ok=True)
    if not kernel.vmlinuz.exists():
        keep(kernel.vmlinuz, _download(directory))
    if not kernel.vmlinux.exists():
        keep(kernel.vmlinux, extract_vmlinux(kernel.vmlinuz.read_bytes()))
    keep(kernel.initrd, make_initramfs(initramfs_entries(busybox())))
    return kernel


def _download(directory: Path) -> bytes:
    """The bzImage of the kernel that the meta package stands for today."""
    for tool, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(tool) is None:
            raise missing_packages(f"no {tool} to get Debian's kernel", [package])
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        try:
            name = _fetch_package(Path(scratch))
        except LabError:
            # The lists of packages may be missing or older than what the archive still has.
            if os.geteuid() != 0:
                raise
            _command(["apt-get", "update"], Path(scratch))
            name = _fetch_package(Path(scratch))
        for archive in Path(scratch).glob("*.deb"):
            _command(["dpkg-deb", "-x", str(archive), "files"], Path(scratch))
        images = [*Path(scratch).glob("files/boot/vmlinuz-*")]
        if len(images) != 1:
            raise LabError(f"package {name} has {len(images)} files boot/vmlinuz-*, expected 1")
        return images[0].read_bytes()


def _fetch_package(directory: Path) -> str:
    name = _versioned_package()
    _command(["apt-get", "-o", "APT::Sandbox::User=root", "download", name], directory)
    return name


def _versioned_package() -> str:
    listing = _command(["apt-cache", "depends", PACKAGE], Path("/"))
    for line in listing.splitlines():
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise LabError(f"apt knows no kernel behind {PACKAGE}; run apt-get update")


def _command(command: list[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(
            f"`{' '.join(command)}` failed with status {done.returncode}: {done.stderr.strip()}. "
            "Is the network there, and has apt-get update run?"
        )
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Get Debian's stock cloud kernel and make an initramfs for it.", epilog=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--directory", type=Path, default=BUILD / "debian-kernel", help="where to put them")
    arguments = parser.parse_args()
    try:
        kernel = ensure_debian_kernel(arguments.directory)
    except LabError as error:
        print(f"debian_kernel: {error}", file=sys.stderr)
        return 2
    print(kernel.vmlinuz, kernel.vmlinux, kernel.initrd, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
