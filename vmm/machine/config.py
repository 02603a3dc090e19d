# SPDX-License-Identifier: Apache-2.0
"""What a machine is to be: the options of `vmm run` as one value, checked where it is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MEMORY_BYTES = 128 << 20  # as QEMU; every kvm-unit-test but a few runs in it
MAXIMUM_CPUS = 1024  # what the MADT's area and the APIC ids of this board are made for
MAXIMUM_VTLS = 16  # VTL numbers have four bits

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([bkmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)


class ConfigError(ValueError):
    """An option that makes no machine: one line that says what was given and what is possible."""


@dataclass(frozen=True)
class MachineConfig:
    """One machine. Sizes in bytes.

    cpu: QEMU's `-cpu` syntax. irqchip: "kernel" or "split" (only the local APICs in the kernel).
    cpu_pm: HLT, PAUSE and MWAIT do not leave the guest: each VP takes a host processor for itself.
    testdev: kvm-unit-tests' pc-testdev and pci-testdev, and the isa-debug-exit port; hyperv-testdev with the Hyper-V
    interface. hyperv: the Hyper-V interface, all of it and instead of KVM's own (True), none of it (False), or what
    `cpu` says (None).
    vsm: Virtual Trust Levels, with the whole Hyper-V interface. vtls: how many a guest may have, VTL0 included.
    vtl_wait: how VTLs that do not run are watched: "kernel", "tick", or "auto", the first one that the host has.
    vsm_profile: "hyperv" or "kvm-v1", what counts where sources on them disagree. protection: what enforces a VTL's
    rights to memory: "attributes" of a patched kernel, a "mapping" for each VTL, or "auto", the better one that the
    host has.
    reboot: a reset starts the guest anew instead of ending the run.
    raw_address: load the kernel there as it is, instead of recognising its format.
    pin: the host CPU that each VP's thread is bound to, by VP index; none: the host's scheduler decides.
    """

    kernel: Path
    initrd: Path | None = None
    cmdline: str = ""
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    huge_pages: bool = False
    cpus: int = 1
    cpu: str = "max"
    irqchip: str = "kernel"
    pit: bool = True
    cpu_pm: bool = False
    testdev: bool = True
    hyperv: bool | None = None
    vsm: bool = False
    vtls: int = 2
    vtl_wait: str = "auto"
    vsm_profile: str = "hyperv"
    protection: str = "auto"
    reboot: bool = True
    raw_address: int | None = None
    pin: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.cpus <= MAXIMUM_CPUS:
            raise ConfigError(f"{self.cpus} processors: a machine has 1 to {MAXIMUM_CPUS}")
        if self.vsm and self.hyperv is False:
            raise ConfigError(
                "Virtual Trust Levels are a part of the Hyper-V interface: leave out hyperv=off or vsm=on"
            )
        if self.pin and len(self.pin) != self.cpus:
            raise ConfigError(
                f"{len(self.pin)} host CPUs to bind to for {self.cpus} processors: one for each"
            )
        if not 2 <= self.vtls <= MAXIMUM_VTLS:
            raise ConfigError(f"{self.vtls} VTLs: a machine with vsm=on has 2 to {MAXIMUM_VTLS}")
        if self.vtl_wait not in ("auto", "kernel", "tick"):
            raise ConfigError(f"vtl-wait {self.vtl_wait!r}: expected 'auto', 'kernel' or 'tick'")
        if self.irqchip not in ("kernel", "split"):
            raise ConfigError(f"irqchip {self.irqchip!r}: expected 'kernel' or 'split'")


def parse_size(text: str, default_unit: str = "m") -> int:
    """Bytes of a size as users write it: `128`, `128M`, `1.5G`, `64KiB`. A bare number counts `default_unit`s.

    Errors: `ConfigError`.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"size {text!r}: expected a number and a unit, such as 128M or 2G")
    number, unit = match.groups()
    size = float(number) * _UNITS[(unit or default_unit).lower()]
    if size != int(size):
        raise ConfigError(f"size {text!r} is not a whole number of bytes")
    return int(size)
