# SPDX-License-Identifier: Apache-2.0
"""The options that make a machine: shared by `vmm run`, which makes it, and `vmm test`, which hands them on."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from vmm.machine.config import DEFAULT_MEMORY_BYTES, ConfigError, MachineConfig, parse_size

_MACHINE_KEYS = (
    "irqchip=kernel|split, pit=on|off, hugepages=on|off, cpu-pm=on|off, hyperv=on|off, vsm=on|off, vtls=N, "
    "vtl-wait=auto|kernel|tick"
)
_WHOLE_NUMBER = re.compile("[+-]?[0-9]{1,9}")
_SWITCH = {"on": True, "off": False}


class _CpuOption(argparse.Action):
    """`--cpu`: keeps the text, except that `help` prints what may be said and ends."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        if values == "help":
            from vmm.machine.cpu.describe import describe

            print(describe())
            parser.exit()
        setattr(namespace, self.dest, values)


def whole_number(text: str) -> int:
    """An option's decimal number, in ASCII digits. Errors: `argparse.ArgumentTypeError`."""
    if not _WHOLE_NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options. Each is absent (None) unless given, so that `machine_argv` hands on just what the user said."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "-m",
        "--memory",
        metavar="SIZE",
        help="guest memory with a unit, such as 512M or 2G; a bare number is MiB (default: 128M)",
    )
    group.add_argument(
        "-c", "--cpus", metavar="N", type=whole_number, help="number of processors (default: 1)"
    )
    group.add_argument(
        "--cpu",
        metavar="MODEL[,+F][,-F][,K=V]",
        action=_CpuOption,
        help="processor model as QEMU names it: max, host, qemu64, ...; '+x2apic' adds and '-vmx' takes away "
        "a feature, hv-* offer parts of the Hyper-V interface; 'help' lists all (default: max, all that KVM offers "
        "here)",
    )
    group.add_argument(
        "--machine",
        metavar="K=V[,K=V]",
        action="append",
        help=f"parts of the board: {_MACHINE_KEYS} (hyperv: the whole Hyper-V interface in KVM's place; "
        "vsm: that with Virtual Trust Levels; vtls: how many, VTL0 included, by default 2; vtl-wait: "
        "how those that do not run are watched)",
    )
    group.add_argument(
        "--vsm-profile",
        choices=("hyperv", "kvm-v1"),
        help="what counts where documents and implementations of VTLs disagree: Microsoft's current documents and "
        "headers (default), or what the KVM series of 2024 and its tests expect",
    )
    group.add_argument(
        "--protection",
        choices=("auto", "attributes", "mapping"),
        help="what enforces the rights to memory that a VTL gives to lower ones: memory attributes of a patched "
        "kernel, a mapping of memory for each VTL (any kernel, slower), or the better one that this host has "
        "(default); 'vmm doctor' says what that is",
    )
    group.add_argument(
        "--no-reboot", action="store_true", default=None, help="end the run when the guest resets"
    )
    group.add_argument(
        "--no-testdev",
        action="store_true",
        default=None,
        help="leave out isa-debug-exit (port 0xf4) and kvm-unit-tests' pc-testdev, pci-testdev and "
        "hyperv-testdev; port 0xe9, which pc-testdev covers, is a debug console on standard error then",
    )


def machine_argv(args: argparse.Namespace) -> list[str]:
    """The given machine options as arguments for `vmm run`."""
    argv: list[str] = []
    for name in ("memory", "cpus", "cpu"):
        value = getattr(args, name)
        if value is not None:
            argv += [f"--{name}", str(value)]
    for name in ("vsm_profile", "protection"):
        value = getattr(args, name)
        if value is not None:
            argv += [f"--{name.replace('_', '-')}", value]
    for value in args.machine or []:
        argv += ["--machine", value]
    argv += [flag for flag in ("--no-reboot", "--no-testdev") if getattr(args, flag[2:].replace("-", "_"))]
    return argv


def machine_config(
    args: argparse.Namespace, kernel: Path, *, initrd: Path | None, cmdline: str, raw_address: int | None
) -> MachineConfig:
    """The machine that the options describe. Errors: `ConfigError`."""
    keys = _machine_keys(args.machine or [])
    return MachineConfig(
        kernel=kernel,
        initrd=initrd,
        cmdline=cmdline,
        memory_bytes=DEFAULT_MEMORY_BYTES if args.memory is None else parse_size(args.memory),
        huge_pages=_switch(keys, "hugepages", default=False),
        cpus=1 if args.cpus is None else args.cpus,
        cpu="max" if args.cpu is None else args.cpu,
        irqchip=keys.get("irqchip", "kernel"),
        pit=_switch(keys, "pit", default=True),
        cpu_pm=_switch(keys, "cpu-pm", default=False),
        testdev=not args.no_testdev,
        hyperv=_switch(keys, "hyperv", default=False) if "hyperv" in keys else None,
        vsm=_switch(keys, "vsm", default=False),
        vtls=_vtls(keys),
        vtl_wait=keys.get("vtl-wait", "auto"),
        vsm_profile="hyperv" if args.vsm_profile is None else args.vsm_profile,
        protection="auto" if args.protection is None else args.protection,
        reboot=not args.no_reboot,
        raw_address=raw_address,
    )


def _machine_keys(values: list[str]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for item in (item for value in values for item in value.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in (
            "irqchip",
            "pit",
            "hugepages",
            "cpu-pm",
            "hyperv",
            "vsm",
            "vtls",
            "vtl-wait",
        ):
            raise ConfigError(f"--machine {item!r}: expected {_MACHINE_KEYS}")
        keys[key] = value
    return keys


def _vtls(keys: dict[str, str]) -> int:
    value = keys.get("vtls")
    if value is None:
        return 2
    if keys.get("vsm") != "on":
        raise ConfigError(f"--machine vtls={value}: expected vsm=on with it, else there is VTL0 alone")
    if not re.fullmatch("[0-9]{1,2}", value, re.ASCII):
        raise ConfigError(f"--machine vtls={value}: expected a number of VTLs, such as vtls=3")
    return int(value)


def _switch(keys: dict[str, str], key: str, *, default: bool) -> bool:
    value = keys.get(key)
    if value is None:
        return default
    if value not in _SWITCH:
        raise ConfigError(f"--machine {key}={value}: expected {key}=on or {key}=off")
    return _SWITCH[value]
