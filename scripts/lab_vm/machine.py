# SPDX-License-Identifier: Apache-2.0
"""The lab's machine: QEMU's command line and the kernel's."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.lab_vm.channel import PORT_NAME
from scripts.lab_vm.errors import LabError, missing_packages
from scripts.lab_vm.guest_program import build_guest_program

QEMU = "qemu-system-x86_64"
SPARE_CPUS = 1
"""Processors on top of those that the command gets: it is kept off processor 0, which in QEMU's emulation cannot run
guests of its own (guest/init.c says why)."""
CPUS_MAX = 64 - SPARE_CPUS
"""CONFIG_NR_CPUS of kernel/config is 64."""

MEMORY = re.compile(r"(?P<number>[1-9]\d*)(?P<unit>[MG])")
MEMORY_MIN_MIB = 256

CPU_MODEL = "max,-xsave,-avx,-avx2,-fma,-f16c,-vaes,-mpx"
"""All that emulation has, but XSAVE and what needs it: QEMU 7.2 does not intercept a nested guest's XSETBV, so KVM
does not learn the guest's XCR0 and puts its own idea back at the next entry. A Linux guest then finds an "XSAVE
consistency problem"."""

ROOT_OPTIONS = "trans=virtio,version=9p2000.L,msize=512000,cache=loose"
"""cache=loose: the host's files do not change under the lab, so nothing is looked up twice."""

KERNEL_ARGUMENTS = (
    "root=root",
    "rootfstype=9p",
    f"rootflags={ROOT_OPTIONS}",
    "ro",
    "console=ttyS0",
    "earlyprintk=ttyS0",
    # A crash ends the machine at once, since QEMU runs with -no-reboot; an oops counts as a crash.
    "panic=-1",
    "oops=panic",
    # The debugger's NMI makes a hung kernel print where it stands.
    "unknown_nmi_panic",
    # Reset by triple fault: needs no ACPI, no keyboard controller.
    "reboot=t",
    # QEMU's TSC is the host's, but no CPUID bit says that it is constant. Its frequency comes with the machine.
    "tsc=reliable",
    # Checks of hardware that a loaded host makes fail.
    "no_timer_check",
    "nokaslr",
    "mitigations=off",
    "8250.nr_uarts=1",
)


def memory_mib(text: str) -> int:
    """`512M` or `4G` in MiB; LabError otherwise."""
    match = MEMORY.fullmatch(text.upper())
    if match is None:
        raise LabError(f"memory {text!r}: expected a number with M or G, for example 4G")
    size = int(match["number"]) * (1024 if match["unit"] == "G" else 1)
    if size < MEMORY_MIN_MIB:
        raise LabError(f"memory {text}: the lab needs at least {MEMORY_MIN_MIB}M")
    return size


def find_qemu() -> str:
    program = shutil.which(QEMU)
    if program is None:
        raise missing_packages(f"no {QEMU} in PATH", ["qemu-system-x86"])
    return program


def firmware_options() -> list[str]:
    """qboot when QEMU brings it: it starts the kernel a quarter of a second sooner than SeaBIOS."""
    folders = [Path("/usr/share/qemu"), Path("/usr/local/share/qemu")]
    return ["-bios", "qboot.rom"] if any((folder / "qboot.rom").exists() for folder in folders) else []


@functools.cache
def host_tsc_khz() -> int:
    """The host's TSC frequency, which is the lab's: QEMU without KVM hands the host's counter through.

    The kernel is told, since its own calibration fails when the host is loaded; it then has no TSC, and with a KVM
    that believes in 0 kHz KVM_RUN never enters the guest.
    """
    return int(subprocess.run([build_guest_program("tsc_khz")], capture_output=True, check=True).stdout)


@dataclass(frozen=True)
class Machine:
    """A machine to boot. `cpus` are those for the command, `tsc_khz` is the host's; `channel_fd` and `monitor_fd` are
    sockets that QEMU inherits."""

    kernel: Path
    init: Path
    cpus: int
    memory_mib: int
    log: Path
    channel_fd: int
    monitor_fd: int
    tsc_khz: int
    cpu_model: str = CPU_MODEL
    results: Path | None = None
    kernel_arguments: Sequence[str] = ()
    qemu_arguments: Sequence[str] = ()

    def command(self, qemu: str = QEMU, firmware: Sequence[str] = ()) -> list[str]:
        """QEMU's argument vector. Pure: looks at no file."""
        for path in (self.init, self.log, self.results):
            # QEMU's option lists and the kernel's command line both have characters of their own.
            if path is not None and re.search(r"[\s,\"]", str(path)):
                raise LabError(f"the path {path} contains a space, comma or quote, which QEMU cannot take")
        append = " ".join(
            [*KERNEL_ARGUMENTS, f"tsc_early_khz={self.tsc_khz}", f"init={self.init}", *self.kernel_arguments]
        )
        options = [
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-accel", "tcg,thread=multi", "-machine", "pc,usb=off,vmport=off", "-cpu", self.cpu_model),
            *("-smp", str(self.cpus + SPARE_CPUS), "-m", f"{self.memory_mib}M"),
            *firmware,
            *("-kernel", str(self.kernel), "-append", append),
            *("-chardev", f"file,id=console,path={self.log}", "-serial", "chardev:console"),
            *self._root(),
            *self._channel(),
            *self._monitor(),
        ]
        if self.results is not None:
            options += self._results(self.results)
        return [qemu, *options, *self.qemu_arguments]

    @staticmethod
    def _root() -> list[str]:
        # multidevs=remap: below / lie several file systems with clashing inode numbers.
        export = "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
        return ["-fsdev", export, "-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]

    @staticmethod
    def _results(directory: Path) -> list[str]:
        export = f"local,id=results,path={directory},security_model=none,multidevs=remap"
        return ["-fsdev", export, "-device", "virtio-9p-pci,fsdev=results,mount_tag=results"]

    def _channel(self) -> list[str]:
        return [
            *("-chardev", f"socket,id=channel,fd={self.channel_fd}"),
            *("-device", "virtio-serial-pci,max_ports=2"),
            *("-device", f"virtserialport,chardev=channel,name={PORT_NAME}"),
        ]

    def _monitor(self) -> list[str]:
        return ["-chardev", f"socket,id=monitor,fd={self.monitor_fd}", "-mon", "chardev=monitor,mode=control"]


def check_cpus(count: int) -> int:
    if not 1 <= count <= CPUS_MAX:
        raise LabError(f"{count} processors: the lab has 1 to {CPUS_MAX} (this host has {os.cpu_count()})")
    return count
