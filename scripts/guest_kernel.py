#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Linux guest for KVM hosts that emulate ring 0: a kernel of kernel/config-guest, and an initramfs.

    scripts/guest_kernel.py     makes build/guest-kernel/{vmlinux,initrd.cpio} when needed

Neither is compressed: unpacking would be emulated. What its init does, `scripts/guest_initramfs.py` says.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.guest_initramfs import busybox, initramfs_entries, keep
from scripts.lab_vm.errors import LabError
from scripts.lab_vm.initramfs import make_cpio
from scripts.lab_vm.kernel_build import ensure_kernel
from scripts.lab_vm.places import BUILD
from scripts.lab_vm.progress import Progress


@dataclass(frozen=True)
class GuestKernel:
    """`vmlinux` is a link to the newest build."""

    vmlinux: Path
    initrd: Path


def ensure_guest_kernel(
    directory: Path = BUILD / "guest-kernel", progress: Progress | None = None
) -> GuestKernel:
    """The two files, made when they are not there or not what they would be made of. LabError says what to install."""
    image = ensure_kernel("guest", progress if progress is not None else Progress(quiet=True))
    kernel = GuestKernel(directory / "vmlinux", directory / "initrd.cpio")
    directory.mkdir(parents=True, exist_ok=True)
    keep(kernel.initrd, make_cpio(initramfs_entries(busybox())))
    if not kernel.vmlinux.exists() or not kernel.vmlinux.samefile(image.boot):
        unfinished = directory / f"vmlinux.{os.getpid()}"
        unfinished.symlink_to(image.boot)
        unfinished.rename(kernel.vmlinux)
    return kernel


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Build a small Linux guest.",
        epilog=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        kernel = ensure_guest_kernel(progress=Progress())
    except LabError as error:
        print(f"guest_kernel: {error}", file=sys.stderr)
        return 2
    print(kernel.vmlinux, kernel.initrd, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
