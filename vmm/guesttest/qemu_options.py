# SPDX-License-Identifier: Apache-2.0
"""An entry's QEMU options, translated to options of `vmm run`.

`unittests.cfg` describes a guest's machine in QEMU's command line language. What `vmm run` has under another
name is translated; what it does anyway is dropped; everything else makes the entry unsupported, with a reason
that names the option: a guest is never run on a machine that lacks what its author asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# kvm-unit-tests' runner starts every x86 guest with qemu64 (QEMU's default), 128 MiB and --no-reboot.
DEFAULT_CPU = "qemu64"
DEFAULT_MEMORY = "128M"
NUMBER = re.compile(r"[0-9]{1,12}")
MAX_CPUS = 1 << 16  # more is a mistake in the file; `vmm run` knows its real limit

# Options without an operand, and options with one, that ask for nothing `vmm run` does otherwise.
NO_EFFECT_FLAGS = frozenset(
    {"enable-kvm", "no-reboot", "nodefaults", "nographic", "no-user-config", "no-fd-bootchk", "no-hpet"}
)
NO_EFFECT_OPERANDS = {
    "display": {"none"},
    "vnc": {"none"},
    "vga": {"none"},
    "serial": {"stdio", "mon:stdio"},
    "monitor": {"none"},
    "net": {"none"},
    "nic": {"none"},
    "parallel": {"none"},
    "accel": {"kvm"},
    # In-kernel PIT without re-injection of lost ticks: what upstream's runner gives every guest.
    "global": {"kvm-pit.lost_tick_policy=discard"},
}
# hyperv-testdev is there as soon as `--cpu` asks for parts of the Hyper-V interface.
DEVICES_ON_BOARD = frozenset({"pc-testdev", "pci-testdev", "isa-debug-exit", "hyperv-testdev"})
DEBUG_EXIT_PROPERTIES = {"iobase": 0xF4, "iosize": 4}
BOARD_TYPES = frozenset({"pc"})  # `vmm run` has one board; pc is QEMU's name for what it is closest to


class UnsupportedError(Exception):
    """An option that `vmm run` has nothing for; the message names it and says why."""


class OptionError(ValueError):
    """An option QEMU itself would not take: a mistake in the configuration."""


@dataclass
class MachineNeeds:
    """What an entry's options ask for, in terms of `vmm run`."""

    cpus: int = 1
    memory: str = DEFAULT_MEMORY
    cpu: str = DEFAULT_CPU
    append: str | None = None
    initrd: str | None = None
    machine: dict[str, str] = field(default_factory=dict)

    def run_arguments(self) -> list[str]:
        """The options for `vmm run`."""
        argv = ["--no-reboot", "--memory", self.memory, "--cpus", str(self.cpus), "--cpu", self.cpu]
        if self.append is not None:
            argv.append(f"--append={self.append}")  # one word: the text may start with a dash
        if self.initrd is not None:
            argv.append(f"--initrd={self.initrd}")
        for key, value in sorted(self.machine.items()):
            argv += ["--machine", f"{key}={value}"]
        return argv


def translate(words: Sequence[str]) -> MachineNeeds:
    """What `words`, QEMU's options in order, ask for; as with QEMU, the last of several equal options counts.

    Errors: `UnsupportedError`, `OptionError`.
    """
    needs = MachineNeeds()
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("-") or word in ("-", "--"):
            raise OptionError(f"expected a QEMU option, found {word!r}")
        option = word.removeprefix("-").removeprefix("-")
        if option in NO_EFFECT_FLAGS:
            continue
        if option not in HANDLERS and option not in NO_EFFECT_OPERANDS:
            raise UnsupportedError(f"{word}: `vmm run` has no such option")
        if position == len(words):
            raise OptionError(f"{word}: expected an operand behind it, found the end")
        operand = words[position]
        position += 1
        if option in HANDLERS:
            HANDLERS[option](needs, word, operand)
        elif operand not in NO_EFFECT_OPERANDS[option]:
            raise UnsupportedError(f"{word} {operand}: `vmm run` has nothing like it")
    return needs


def _cpu(needs: MachineNeeds, word: str, operand: str) -> None:
    needs.cpu = operand  # `vmm run --cpu` speaks QEMU's language
    for item in operand.split(",")[1:]:
        name = item.lstrip("+-").partition("=")[0].replace("_", "-")
        if name.startswith("hv-") and name not in _hyperv_flags():
            raise UnsupportedError(f"{word} {operand}: `vmm run` has no {name}")


def _hyperv_flags() -> tuple[str, ...]:
    from vmm.backend.hyperv.flags import NAMES  # few entries ask for one

    return NAMES


def _append(needs: MachineNeeds, _word: str, operand: str) -> None:
    needs.append = operand


def _initrd(needs: MachineNeeds, _word: str, operand: str) -> None:
    needs.initrd = operand


def _smp(needs: MachineNeeds, word: str, operand: str) -> None:
    for item in operand.split(","):
        key, equals, value = item.partition("=")
        if not equals:
            key, value = "cpus", item
        if not NUMBER.fullmatch(value) or not 0 < int(value) <= MAX_CPUS:
            raise OptionError(f"{word} {operand}: expected a number of CPUs, found {value!r}")
        if key == "cpus":
            needs.cpus = int(value)
        elif key == "maxcpus":
            continue
        elif int(value) != 1:
            raise UnsupportedError(f"{word} {operand}: `vmm run` has no CPU topology ({key})")


def _memory(needs: MachineNeeds, word: str, operand: str) -> None:
    for number, item in enumerate(operand.split(",")):
        key, equals, value = item.partition("=")
        if not equals and number == 0:
            key, value = "size", item
        if key != "size":
            raise UnsupportedError(f"{word} {operand}: `vmm run` has no memory hotplug ({key})")
        digits, unit = (value, "M") if NUMBER.fullmatch(value) else (value[:-1], value[-1:].upper())
        if not NUMBER.fullmatch(digits) or int(digits) == 0 or unit not in "BKMGT":
            raise OptionError(f"{word} {operand}: expected a size like 512 (MiB) or 4G, found {value!r}")
        needs.memory = digits + unit


def _machine(needs: MachineNeeds, word: str, operand: str) -> None:
    for number, item in enumerate(operand.split(",")):
        key, equals, value = item.partition("=")
        if not equals and number == 0:
            key, value = "type", item
        match key.replace("_", "-"), value:
            case ("type", name) if name in BOARD_TYPES:
                pass
            case "type", name:
                raise UnsupportedError(f"{word} {name}: `vmm run` has one board, like QEMU's pc")
            case "accel", "kvm":
                pass
            case "pit", ("on" | "off"):
                needs.machine["pit"] = value
            case "kernel-irqchip", "on":
                needs.machine["irqchip"] = "kernel"
            case "kernel-irqchip", "split":
                needs.machine["irqchip"] = "split"
            case (("vmport" | "smm" | "usb" | "graphics"), "off"):
                pass
            case "vmport", "auto":
                pass
            case _:
                raise UnsupportedError(f"{word} {item}: `vmm run` has nothing like it")


def _overcommit(needs: MachineNeeds, word: str, operand: str) -> None:
    for item in operand.split(","):
        match item.split("="):
            case ["cpu-pm", ("on" | "off") as value]:
                needs.machine["cpu-pm"] = value
            case ["mem-lock", ("on" | "off")]:
                continue  # guest memory is the host's to page out either way
            case _:
                raise UnsupportedError(f"{word} {item}: `vmm run` has nothing like it")


def _device(_needs: MachineNeeds, word: str, operand: str) -> None:
    name, _, properties = operand.partition(",")
    if name not in DEVICES_ON_BOARD:
        raise UnsupportedError(f"{word} {name}: `vmm run` has no such device")
    for item in filter(None, properties.split(",")):
        key, _, value = item.partition("=")
        if name != "isa-debug-exit" or key not in DEBUG_EXIT_PROPERTIES:
            raise UnsupportedError(f"{word} {operand}: `vmm run`'s {name} has no property {key!r}")
        try:
            number = int(value, 0)
        except ValueError as error:
            raise OptionError(f"{word} {operand}: expected a number for {key}, found {value!r}") from error
        if number != DEBUG_EXIT_PROPERTIES[key]:
            raise UnsupportedError(f"{word} {operand}: {key} is always {DEBUG_EXIT_PROPERTIES[key]:#x} here")


Handler = Callable[[MachineNeeds, str, str], None]
HANDLERS: dict[str, Handler] = {
    "cpu": _cpu,
    "append": _append,
    "initrd": _initrd,
    "smp": _smp,
    "m": _memory,
    "machine": _machine,
    "M": _machine,
    "device": _device,
    "overcommit": _overcommit,
}
