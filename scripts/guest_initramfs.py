# SPDX-License-Identifier: Apache-2.0
"""A small initramfs for Linux guests: busybox, and an init that runs a command or a shell.

It prints `guest-init: up cpus=N release=R`, then

    guest_run="CMD; CMD"    on the kernel's command line: runs it, prints `guest-init: status N`, powers off
    guest_end=reboot        resets instead of powering off
    otherwise               a shell on the console; the machine powers off when it ends

The kernel hands words it does not know to init as environment variables, which is how they get there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from scripts.lab_vm.errors import missing_packages
from scripts.lab_vm.initramfs import Entry, character_device, folder, link, program

BUSYBOX = Path("/bin/busybox")
UP_MARKER = "guest-init: up"
STATUS_MARKER = "guest-init: status"

INIT = f"""\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
echo "{UP_MARKER} cpus=$(nproc) release=$(uname -r)"
if [ -n "$guest_run" ]; then
    sh -c "$guest_run"
    echo "{STATUS_MARKER} $?"
else
    echo "the machine powers off when this shell ends"
    setsid cttyhack sh
fi
sync
[ "$guest_end" = reboot ] && reboot -f
poweroff -f
"""


def initramfs_entries(busybox: bytes) -> list[Entry]:
    folders = [folder(name) for name in ("bin", "dev", "proc", "sys", "tmp", "root")]
    return [
        *folders,
        # Before devtmpfs is mounted the kernel gives init this console.
        character_device("dev/console", 5, 1),
        program("bin/busybox", busybox),
        link("bin/sh", "busybox"),
        program("init", INIT.encode()),
    ]


def busybox() -> bytes:
    """The program. LabError says what to install."""
    if not BUSYBOX.exists():
        raise missing_packages(f"no {BUSYBOX} for the guest's initramfs", ["busybox-static"])
    return BUSYBOX.read_bytes()


def keep(target: Path, content: bytes) -> None:
    """Let `target` have `content`, in one rename; untouched if it has."""
    if target.exists() and target.read_bytes() == content:
        return
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as unfinished:
        unfinished.write(content)
    Path(unfinished.name).chmod(0o644)
    Path(unfinished.name).rename(target)
