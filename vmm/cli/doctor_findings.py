# SPDX-License-Identifier: Apache-2.0
"""What `vmm doctor` makes of its facts about the host: findings, each with its meaning and what to change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from vmm.cli.doctor_host import TOOLS, HostFacts
from vmm.machine import open_files
from vmm.machine.config import MAXIMUM_CPUS

GIB = 1 << 30
MIB = 1 << 20
MIN_MEMORY = 256 * MIB  # a 128 MiB guest (the default), Python and some room
MIN_OPEN_FILES = 1024  # usual; the hard limit is most often far above
MIN_PYTHON = (3, 11)


class Severity(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, with less
    PROBLEM = "problem"  # a guest cannot run


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the report. `change` is "" when there is nothing to do."""

    key: str
    severity: Severity
    found: str
    meaning: str
    change: str = ""


def unavailable(facts: HostFacts) -> Finding:
    """Why /dev/kvm cannot be used, when opening it failed."""
    device = facts.device
    if device.exists and not device.permitted:
        return Finding(
            "device",
            Severity.PROBLEM,
            f"{device.path}: permission denied ({device.mode} {device.owner}:{device.group}, user {facts.user})",
            "KVM is there, but not for this user",
            f"{_permission(facts)}; in a container pass --device {device.path}",
        )
    found = f"{device.path}: no such device" if not device.exists else f"{device.path}: no driver behind it"
    if facts.virtualization:
        module = {"svm": "kvm_amd", "vmx": "kvm_intel"}[facts.virtualization]
        return Finding(
            "device",
            Severity.PROBLEM,
            found,
            "the processor can run guests, but KVM is not loaded",
            f"sudo modprobe {module}; in a container pass --device {device.path}",
        )
    where = "in the hypervisor that runs this machine" if facts.virtualized else "in the firmware (VT-x, SVM)"
    return Finding(
        "device",
        Severity.PROBLEM,
        found,
        "neither KVM nor hardware virtualization is visible",
        f"turn virtualization on {where}, then load kvm_intel or kvm_amd (the tests' lab needs neither: it emulates)",
    )


def _permission(facts: HostFacts) -> str:
    if facts.user == "root":  # no permission bits stop a root that may act on this file
        return (
            "this root is that of a user namespace (a rootless container): outside, give the user who started it "
            f"access to {facts.device.path}"
        )
    group = facts.device.group
    if group in ("root", ""):
        path = facts.device.path
        return (
            f"sudo chgrp kvm {path} && sudo chmod 660 {path} && sudo usermod -aG kvm {facts.user},"
            " then log in again"
        )
    return f"sudo usermod -aG {group} {facts.user}, then log in again"


def host_findings(facts: HostFacts) -> Iterator[Finding]:
    """What does not depend on KVM's answers."""
    yield Finding("kernel", Severity.OK, f"Linux {facts.kernel} on {facts.machine}", "the host's kernel")
    outer = ", itself a virtual machine" if facts.virtualized else ""
    yield Finding(
        "processor",
        Severity.OK,
        f"{facts.cores} x {facts.processor or 'unknown processor'}{outer}",
        f"guests with more than {facts.cores} processors share these",
    )
    yield _memory(facts)
    yield _huge_pages(facts)
    yield _open_files(facts)
    yield _locked_memory(facts)
    yield _python(facts)
    yield from _tools(facts)


def _memory(facts: HostFacts) -> Finding:
    found = f"{facts.memory_available / GIB:.1f} of {facts.memory_total / GIB:.1f} GiB memory free"
    if facts.memory_available < MIN_MEMORY:
        return Finding(
            "memory",
            Severity.NOTE,
            found,
            "too little for a guest of the default 128 MiB and this program",
            "end other programs, or give guests less with --memory",
        )
    return Finding("memory", Severity.OK, found, "guest memory is taken as the guest touches it")


def _huge_pages(facts: HostFacts) -> Finding:
    total, free, size = facts.huge_pages
    transparent = facts.transparent_huge_pages or "unknown"
    found = f"{free} of {total} huge pages of {size // MIB} MiB free, transparent: {transparent}"
    if total:
        return Finding(
            "huge_pages", Severity.OK, found, "--machine hugepages=on takes guest memory from them"
        )
    return Finding(
        "huge_pages",
        Severity.OK,
        found,
        "guests use ordinary pages; --machine hugepages=on is not possible",
        "optional: sudo sysctl vm.nr_hugepages=512 sets 1 GiB of 2 MiB pages aside",
    )


def _open_files(facts: HostFacts) -> Finding:
    limit = facts.open_files_hard
    if limit < 0:
        meaning = f"enough for the most processors a guest can have, {MAXIMUM_CPUS}"
        return Finding("open_files", Severity.OK, "no hard limit on open files", meaning)
    processors = min(open_files.processors_for(limit), MAXIMUM_CPUS)
    found = f"{facts.open_files} open files, which guests may raise to {limit}"
    each = f"each takes {open_files.FILES_PER_PROCESSOR}"
    meaning = f"enough for a guest with up to {processors} processors: {each}"
    if limit < MIN_OPEN_FILES:
        change = f"as root: ulimit -n {open_files.files_for(MAXIMUM_CPUS)} (of a service: LimitNOFILE=)"
        return Finding("open_files", Severity.NOTE, found, meaning, change)
    return Finding("open_files", Severity.OK, found, meaning)


def _locked_memory(facts: HostFacts) -> Finding:
    limit = facts.locked_memory
    found = (
        "any amount of memory may be locked" if limit < 0 else f"{limit // 1024} KiB of memory may be locked"
    )
    return Finding("locked_memory", Severity.OK, found, "guest memory is not locked, so this does not matter")


def _python(facts: HostFacts) -> Finding:
    found = f"Python {facts.python}"
    if sys.version_info < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        return Finding(
            "python", Severity.PROBLEM, found, f"needs {wanted} or later", f"install Python {wanted}"
        )
    return Finding("python", Severity.OK, found, "recent enough")


def _tools(facts: HostFacts) -> Iterator[Finding]:
    missing = [tool for tool in TOOLS if not facts.tools.get(tool)]
    if not missing:
        yield Finding("tools", Severity.OK, ", ".join(TOOLS), "'make' can build the guests and run all tests")
        return
    yield Finding(
        "tools",
        Severity.NOTE,
        f"not installed: {', '.join(missing)}",
        "'vmm run' works; 'make' cannot build the guests or the lab",
        f"sudo apt-get install {' '.join(TOOLS[tool] for tool in missing)}",
    )
