# SPDX-License-Identifier: Apache-2.0
"""From the PATHs of the command line to the guests that are to run.

A `.flat` or `.elf` file is one guest. A directory stands for every `.flat` file in and below it. A `.cfg` file is
read as a `unittests.cfg`; its entries bring their own machine, arguments and time limit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from vmm.guesttest.config import Entry, read_config
from vmm.guesttest.qemu_options import MachineNeeds, OptionError, UnsupportedError, translate
from vmm.guesttest.shell_words import ShellWordsError, condition_holds, split_words

ARCH = "x86_64"
ACCELERATOR = "kvm"
MAX_CHECK_BYTES = 4096  # of a file named by `check`: they are one-line files of /sys and /proc
GUEST_SUFFIXES = (".flat", ".elf")
# Groups with a meaning of their own in kvm-unit-tests' runner, which needs a harness around the guest for them.
HARNESS_GROUPS = {
    "migration": "migration",
    "panic": "a panic notifier",
    "pv-host": "a secure-execution header",
}


class SelectionError(ValueError):
    """A PATH that is no guest, or a selection that leaves nothing; one line for the user."""


@dataclass(frozen=True)
class Selection:
    """Which guests to run.

    names: shell patterns, one of which must match the guest's name (none: all). group: only entries of this
    group, "nodefault" ones included, as in kvm-unit-tests' runner. everything: "nodefault" entries too.
    """

    names: tuple[str, ...] = ()
    group: str = ""
    everything: bool = False

    def takes(self, guest: Guest) -> bool:
        """Whether `guest` is wanted at all; a guest that is not appears in no report."""
        if self.names and not any(fnmatchcase(guest.name, pattern) for pattern in self.names):
            return False
        return not self.group or self.group in guest.groups


@dataclass(frozen=True, eq=False)
class Guest:
    """One guest to run, the same only as itself. `entry` is None for a file that was named directly."""

    name: str
    image: Path
    entry: Entry | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of its entry."""
        return self.entry.groups if self.entry else ()

    @property
    def timeout_s(self) -> float | None:
        """Its own time limit; None: the default; 0: none."""
        return self.entry.timeout_s if self.entry else None

    def qemu_words(self) -> list[str]:
        """The QEMU options of its entry, in the order of kvm-unit-tests' runner, expanded now.

        Errors: `ConfigError`.
        """
        entry = self.entry
        if entry is None:
            return []
        words = ["-smp", *_words(entry, "smp", entry.smp)]
        if entry.test_args is not None:
            arguments = _words(entry, "test_args", entry.test_args)
            if len(arguments) > 1:
                raise entry.error("test_args", f"expected one word or a quoted text, found {arguments}")
            words += ["-append", *arguments] if arguments else []
        return words + _words(entry, "qemu_params", entry.qemu_params)

    def needs(self) -> MachineNeeds | None:
        """The machine its entry asks for; None for a file that was named directly: it takes what it gets.

        Errors: `ConfigError`, `UnsupportedError`.
        """
        if self.entry is None:
            return None
        try:
            return translate(self.qemu_words())
        except OptionError as error:
            raise self.entry.error("qemu_params", str(error)) from error


@dataclass
class Collection:
    """The guests that were selected, in order, and what keeps some of them from being run.

    cpus: how many processors each of the others asks for.
    """

    guests: list[Guest] = field(default_factory=list)
    cpus: dict[Guest, int] = field(default_factory=dict)
    skipped: dict[Guest, str] = field(default_factory=dict)
    unsupported: dict[Guest, str] = field(default_factory=dict)


def find_guests(paths: Sequence[Path], selection: Selection) -> list[Guest]:
    """The wanted guests of all `paths`, with names that differ.

    Errors: `SelectionError`, `ConfigError`.
    """
    guests: list[Guest] = []
    for path in paths:
        guests += _guests_of(path)
    named = _with_distinct_names(guests)
    wanted = [guest for guest in named if selection.takes(guest)]
    if not wanted:
        raise SelectionError(
            f"no guest left to run: none of {len(named)} is selected" if named else "no guest found"
        )
    return wanted


def collect(guests: Sequence[Guest], selection: Selection) -> Collection:
    """Sort out what must not or cannot run, and check the options of the rest. Errors: `ConfigError`."""
    collection = Collection(list(guests))
    for guest in guests:
        reason = skip_reason(guest, selection)
        if reason:
            collection.skipped[guest] = reason
            continue
        try:
            _refuse_harness_groups(guest)
            needs = guest.needs()
            collection.cpus[guest] = needs.cpus if needs else 1
        except UnsupportedError as error:
            collection.unsupported[guest] = str(error)
    return collection


def skip_reason(guest: Guest, selection: Selection) -> str:
    """Why kvm-unit-tests' own runner would skip this entry here; empty: it would not. Errors: `ConfigError`."""
    entry = guest.entry
    if entry is None:
        return ""
    if "nodefault" in entry.groups and not (selection.group or selection.everything):
        return "marked as manual run only (nodefault)"
    if entry.arch and entry.arch != ARCH:
        return f"{entry.arch} only"
    if entry.accel and ACCELERATOR not in entry.accel:
        return f"{'|'.join(entry.accel)} only"
    if entry.disabled_if:
        try:
            if condition_holds(entry.disabled_if, runner_variables()):
                return f"disabled because: {entry.disabled_if}"
        except ShellWordsError as error:
            raise entry.error("disabled_if", str(error)) from error
    for path, value in entry.check:
        if _content(Path(path)) != value:
            return f"{path} not equal to {value}"
    return ""


def runner_variables() -> Mapping[str, str]:
    """What values of `unittests.cfg` may refer to, as kvm-unit-tests' runner sets it."""
    return {
        "MAX_SMP": os.environ.get("MAX_SMP") or str(os.cpu_count() or 1),
        "ARCH": ARCH,
        "ARCH_NAME": ARCH,
        "HOST": ARCH,
        "TARGET": "qemu",
        "ACCEL": ACCELERATOR,
        "CONFIG_EFI": "n",
    }


def _words(entry: Entry, key: str, value: str) -> list[str]:
    try:
        return split_words(value, runner_variables())
    except ShellWordsError as error:
        raise entry.error(key, f"{key}: {error}") from error


def _content(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_CHECK_BYTES).decode(errors="replace").rstrip("\n")
    except OSError:
        return None


def _refuse_harness_groups(guest: Guest) -> None:
    for group, need in HARNESS_GROUPS.items():
        if group in guest.groups:
            raise UnsupportedError(f"group {group}: `vmm test` has no {need}")


def _guests_of(path: Path) -> list[Guest]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.flat") if file.is_file())
        if not files:
            raise SelectionError(f"{path}: no .flat file in or below this directory")
        return [Guest(file.stem, file) for file in files]
    if not path.exists():
        raise SelectionError(f"{path}: no such file or directory")
    if path.suffix == ".cfg":
        return [Guest(entry.name, entry.image, entry) for entry in read_config(path)]
    if path.suffix in GUEST_SUFFIXES:
        return [Guest(path.stem, path)]
    raise SelectionError(f"{path}: expected a guest (.flat, .elf), a directory or a unittests.cfg")


def _with_distinct_names(guests: Sequence[Guest]) -> list[Guest]:
    """A name stands for one guest: in reports, and as a log's file name."""
    named: dict[str, Guest] = {}
    for guest in guests:
        name, number = guest.name, 1
        while name in named:
            number += 1
            name = f"{guest.name}~{number}"
        named[name] = Guest(name, guest.image, guest.entry)
    return list(named.values())
