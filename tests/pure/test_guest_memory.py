# SPDX-License-Identifier: Apache-2.0
"""Nobody reaches guest RAM past the rights of VTLs: every module that can is named here, with its reason.

A VTL takes memory away from lower ones. That holds for the VMM too: what it reads or writes for a VTL, it does with the
rights of that VTL (`vmm.vsm.memory`), and for a device with VTL0's (`vmm.vsm.device_memory`). mypy has every parameter
annotated, so that a module that is given RAM has to name one of its types.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable

import pytest

from tests.pure.test_layers import modules

ALL_RAM = {"GuestMemory", "ProcessorRam", "GuestRam", "RamMapping", "HostMemory"}
"""Types through which all of guest RAM is reached."""
ANY_VTL = {"UnprotectedMemory", "DirectMemory"}
"""Types that let a VTL use RAM as if nobody restricted it."""
ACCESSES = {"read", "write", "fill", "fetch", "view", "write_all", "require_writable", "host_address"}
OPENERS = {"map_for_kvm", "host_address", "put_over", "put_from_above", "put_back", "drop_page"}
"""What gives out host addresses of RAM, or changes what a VM finds there."""
_MEMORY = re.compile(r"_?(\w+_)?(ram|memory)")

DEFINITIONS = {
    "vmm.outside": "the protocol",
    "vmm.machine.ram": "RAM itself",
    "vmm.hypercall.outside": "memory of a partition in which nobody is restricted",
    "vmm.backend.partition": "the mapping that a KVM VM has its memory slots over; never read nor written",
}
THE_MACHINE_S_OWN = {
    "vmm.machine.machine": "loads the guest, and leaves S3 through the waking vector that VTL0 wrote",
    "vmm.machine.board": "writes ACPI tables at a reset, when only VTL0 is left",
    "vmm.machine.memory_map": "asks for ranges only",
    "vmm.machine.boot_state": "writes what firmware leaves, before the guest runs",
    "vmm.machine.boot.plan": "loads the guest's image, before it runs",
    "vmm.machine.boot.load": "the same",
    "vmm.backend.hyperv.interface": "zeroes memory at a reset; an atomic OR for overlays that are shown",
    "vmm.overlay.copying": "only where huge pages back RAM, of which nobody can take a page away",
    "vmm.backend.protection.view": "finds out what a processor did; gives none of it to the VTL",
    "vmm.backend.protection.mapping_host": "makes such views, and memories with a VTL's rights",
}
GIVES_RIGHTS = {
    "vmm.vsm.memory": "checks each access",
    "vmm.vsm.device_memory": "obeys VTL0's rights as soon as there are VTLs",
    "vmm.backend.hyperv.memory": "gives each VTL its accessor",
}
GIVEN_A_MEMORY_WITH_RIGHTS = {
    "vmm.machine.devices.fw_cfg": "the board gives it a `DeviceMemory`",
    "vmm.hvmsr.crash": "the interface gives it a `DeviceMemory`",
    "vmm.hvmsr.state": "hands that on",
}
"""They know the protocol of all RAM only: who makes them decides, see `test_devices_get_device_memory`."""
MAY_NAME_ALL_RAM = {**DEFINITIONS, **THE_MACHINE_S_OWN, **GIVES_RIGHTS, **GIVEN_A_MEMORY_WITH_RIGHTS}

MAY_LIFT_RIGHTS = {
    "vmm.hypercall.outside": "defines `UnprotectedMemory`",
    "vmm.backend.hyperv.memory": "for VTLs that no other VTL can restrict",
    "vmm.machine.machine": "VTL0's emulator, which obeys as soon as there are VTLs; system calls where there are none",
}
ACCESS_BY_VTL = {
    "vmm.hypercall.prepared": "parameters, by the caller's `CallerMemory`",
    "vmm.backend.hyperv.address_spaces": "page walks, by a `ProcessorMemory` of the VTL",
    "vmm.backend.vsm.guest_code": "the instruction of an intercept, by the VTL's memory",
    "vmm.backend.vsm.guest_address": "where that instruction makes its access, the same",
    "vmm.backend.system_calls": "a page fault's frame and the IDT, where there are no VTLs",
    "vmm.backend.emulation": "one instruction, by a `ProcessorMemory` of the vCPU's VTL",
    "vmm.backend.protection.mapping_faults": "what a processor may do, by a `ProcessorMemory` of its VTL",
    "vmm.backend.protection.mmio_writes": "the same, its writes",
    "vmm.backend.protection.stepping": "the flags that a step has stored, by the same",
    "vmm.backend.protection.by_hand": "an instruction, by the same",
    "vmm.backend.protection.far_operands": "selectors and far pointers that the instruction reads, by the same",
    "vmm.backend.protection.state_operands": "the header of a state that the instruction loads, by the same",
    "vmm.backend.protection.touches": "what a processor has read, to find out which access was refused",
    "vmm.backend.protection.write_origin": "the same, for the instruction of a write",
}
MAY_ACCESS = {**MAY_NAME_ALL_RAM, **ACCESS_BY_VTL}
MAY_OPEN = {
    "vmm.machine.ram": "defines them",
    "vmm.machine.machine": "a mapping for each VTL's VM; the test device drops pages of VTL0's",
    "vmm.machine.board": "hands the test device's on",
    "vmm.backend.hyperv.interface": "the atomic OR for overlays that are shown",
    "vmm.backend.hyperv.mapped_overlays": "a page of the VMM's own in one VTL's view",
    "vmm.backend.hyperv.memory": "declares the protocol",
    "vmm.backend.protection.host": "a view that knows which pages overlays cover",
    "vmm.backend.protection.view": "a view with less in it where the VTL has fewer rights",
}


def names(tree: ast.AST, wanted: set[str]) -> bool:
    """Whether a module uses one of these names, however it came by it."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom() if wanted & {alias.name for alias in node.names}:
                return True
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.ClassDef(name=name) if name in wanted:
                return True
    return False


def accesses(tree: ast.AST) -> bool:
    """Whether it takes `read`, `write`, ... of something that is called memory or RAM."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ACCESSES:
            base = node.value
            if isinstance(base, ast.Call):
                base = base.func
            name = (
                base.attr
                if isinstance(base, ast.Attribute)
                else base.id
                if isinstance(base, ast.Name)
                else ""
            )
            if _MEMORY.fullmatch(name):
                return True
    return False


def opens(tree: ast.AST) -> bool:
    """Whether it uses or defines something that gives out RAM."""
    return names(tree, OPENERS) or any(
        isinstance(node, ast.FunctionDef) and node.name in OPENERS for node in ast.walk(tree)
    )


@functools.cache
def sources() -> dict[str, ast.AST]:
    return {
        name: ast.parse(path.read_text(encoding="utf-8"))
        for name, path in modules()
        if name.startswith("vmm")
    }


def found(check: Callable[[ast.AST], bool]) -> set[str]:
    return {name for name, tree in sources().items() if check(tree)}


def grouped(modules_: set[str], allowed: dict[str, str]) -> set[str]:
    """Modules of an allowed package under its name."""
    return {
        next((package for package in allowed if name.startswith(package + ".")), name) for name in modules_
    }


@pytest.mark.tlfs("HC-022", "VSM-083", "VSM-084")
@pytest.mark.parametrize(
    ("check", "allowed"),
    [
        (lambda tree: names(tree, ALL_RAM), MAY_NAME_ALL_RAM),
        (lambda tree: names(tree, ANY_VTL), MAY_LIFT_RIGHTS),
        (accesses, MAY_ACCESS),
        (opens, MAY_OPEN),
    ],
    ids=["names a type of all RAM", "lifts rights", "reads or writes", "opens RAM"],
)
def test_only_these_modules(check: Callable[[ast.AST], bool], allowed: dict[str, str]) -> None:
    offenders = grouped(found(check), allowed) - set(allowed)

    assert offenders == set(), (
        "they reach guest RAM past the rights of VTLs: take a memory of `VtlMemories` or a `DeviceMemory`, or say here "
        "why these rights do not matter"
    )


@pytest.mark.parametrize(
    ("check", "allowed"),
    [
        (lambda tree: names(tree, ALL_RAM), MAY_NAME_ALL_RAM),
        (lambda tree: names(tree, ANY_VTL), MAY_LIFT_RIGHTS),
        (accesses, ACCESS_BY_VTL),
        (opens, MAY_OPEN),
    ],
    ids=["names a type of all RAM", "lifts rights", "reads or writes", "opens RAM"],
)
def test_no_permission_is_left_behind(check: Callable[[ast.AST], bool], allowed: dict[str, str]) -> None:
    assert set(allowed) - grouped(found(check), allowed) == set()


@pytest.mark.tlfs("VSM-084")
def test_devices_get_device_memory() -> None:
    """A device with DMA is made by the board, which has two memories: `ram` for its tables and `device_memory`."""
    given = [
        ast.unparse(argument)
        for node in ast.walk(sources()["vmm.machine.board"])
        if isinstance(node, ast.Call)
        for argument in [*node.args, *[keyword.value for keyword in node.keywords]]
        if ast.unparse(argument).endswith((".ram", "_memory"))
    ]

    assert set(given) == {"around.ram", "self._around.device_memory"}
    assert given.count("around.ram") == 2, "memory_map.pci_hole, which asks for ranges"


@pytest.mark.parametrize(
    "source",
    [
        "from vmm.outside import GuestMemory",
        "import vmm.outside\ndef f(m: vmm.outside.GuestMemory): ...",
        "from vmm.machine.ram import GuestRam as R",
    ],
)
def test_a_type_is_found(source: str) -> None:
    assert names(ast.parse(source), ALL_RAM)


@pytest.mark.parametrize(
    "source",
    [
        "machine.ram.read(0, 1)",
        "w = self._memory.write\nw(0, b'')",
        "self._machine.memory.view(0, 1)",
        "guest_ram.fill(0, 1)",
        "parts.memory(0).fetch(0, 1)",
    ],
)
def test_an_access_is_found(source: str) -> None:
    assert accesses(ast.parse(source))
