# SPDX-License-Identifier: Apache-2.0
"""Facts about the host that `vmm doctor` reports and that KVM itself does not tell."""

from __future__ import annotations

import grp
import os
import platform
import pwd
import resource
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

import psutil

DEVICE = Path("/dev/kvm")
# What `make test` and the lab use, with the Debian packages they come from.
TOOLS = {"gcc": "gcc", "make": "make", "qemu-system-x86_64": "qemu-system-x86"}
VIRTUALIZATION_FLAGS = ("svm", "vmx")


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """The device node: is it there, whose is it, may this user use it."""

    path: str
    exists: bool
    permitted: bool
    mode: str = ""
    owner: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Sizes are bytes. `virtualization` is svm, vmx or "". Limits are -1 when there is none.

    virtualized: the host is itself a virtual machine. huge_pages: (total, free, bytes per page) of the
    default size. open_files: the soft limit, which `vmm run` raises to open_files_hard as needed. xsave: the
    processor has XSAVE.
    """

    kernel: str
    machine: str
    python: str
    user: str
    processor: str
    virtualization: str
    virtualized: bool
    cores: int
    memory_total: int
    memory_available: int
    huge_pages: tuple[int, int, int]
    transparent_huge_pages: str
    open_files: int
    locked_memory: int
    device: DeviceFacts
    xsave: bool = True
    open_files_hard: int = -1
    tools: dict[str, str] = field(default_factory=dict)


def host_facts(device: Path = DEVICE) -> HostFacts:
    """Look at the host. What cannot be read is reported as 0 or ""."""
    flags, processor = _processor(_text(Path("/proc/cpuinfo")))
    memory = psutil.virtual_memory()
    return HostFacts(
        kernel=platform.release(),
        machine=platform.machine(),
        python=platform.python_version(),
        user=_name(pwd.getpwuid, os.getuid()),
        processor=processor,
        virtualization=next((flag for flag in VIRTUALIZATION_FLAGS if flag in flags), ""),
        xsave="xsave" in flags,
        virtualized="hypervisor" in flags,
        cores=len(os.sched_getaffinity(0)),
        memory_total=memory.total,
        memory_available=memory.available,
        huge_pages=huge_pages(_text(Path("/proc/meminfo"))),
        transparent_huge_pages=_chosen(_text(Path("/sys/kernel/mm/transparent_hugepage/enabled"))),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        open_files_hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        locked_memory=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        device=device_facts(device),
        tools={tool: shutil.which(tool) or "" for tool in TOOLS},
    )


def device_facts(path: Path) -> DeviceFacts:
    try:
        found = path.stat()
    except OSError:
        return DeviceFacts(str(path), exists=False, permitted=False)
    return DeviceFacts(
        str(path),
        exists=True,
        permitted=os.access(path, os.R_OK | os.W_OK),
        mode=stat.filemode(found.st_mode),
        owner=_name(pwd.getpwuid, found.st_uid),
        group=_name(grp.getgrgid, found.st_gid),
    )


def huge_pages(meminfo: str) -> tuple[int, int, int]:
    """(total, free, bytes per page) from the text of /proc/meminfo."""
    fields = {key: value.split() for key, _, value in (line.partition(":") for line in meminfo.splitlines())}

    def number(key: str) -> int:
        return int(fields[key][0]) if fields.get(key) else 0

    return number("HugePages_Total"), number("HugePages_Free"), number("Hugepagesize") * 1024


def _processor(cpuinfo: str) -> tuple[frozenset[str], str]:
    """(flags, name) of the first processor in the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return frozenset(fields.get("flags", "").split()), fields.get("model name", "")


def _chosen(text: str) -> str:
    """The word in brackets of a kernel choice such as `always [madvise] never`."""
    return text.partition("[")[2].partition("]")[0]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _name(look_up: object, number: int) -> str:
    """The name of a user or group id; the number where the system has none."""
    assert callable(look_up)
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)
