# SPDX-License-Identifier: Apache-2.0
"""The arrows of docs/architecture.md stay true: imports only point downwards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Highest first. A module may import from its own layer and from those below it.
LAYERS = [
    ["vmm.cli", "vmm.guesttest", "vmm.__main__"],
    ["vmm.console"],
    ["vmm.machine"],
    ["vmm.backend"],
    ["vmm.vsm", "vmm.hvcalls", "vmm.hvmsr", "vmm.hvcpuid"],
    ["vmm.hypercall"],
    ["vmm.synic", "vmm.timers", "vmm.overlay"],
    ["vmm.hv"],
    ["vmm.bus", "vmm.outside"],
    ["kvmapi"],
]
# Pure layers: no KVM, threads or files of their own, so that they run in unit tests on any machine.
PURE = {
    **{
        f"vmm.{package}": {"kvmapi", "threading.Thread", "os", "socket", "io"}
        for package in ("vsm", "hvcalls", "hvmsr", "hvcpuid", "hypercall", "synic", "timers", "overlay", "hv")
    },
    "vmm.machine.acpi": {"kvmapi", "threading", "os"},
    "vmm.machine.cpu": {"kvmapi", "threading", "os"},
    "vmm.machine.devices": {"kvmapi", "os", "socket"},
    "vmm.machine.pci": {"kvmapi", "os"},
    "vmm.outside": {"kvmapi", "threading", "os"},
    "vmm.bus": {"kvmapi", "threading", "os"},
}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in ("kvmapi", "vmm"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append((name, path))
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def layer_of(name: str) -> int | None:
    """Its number from the top; None for what is not ours, or is the empty root package."""
    for number, packages in enumerate(LAYERS):
        if any(inside(name, package) for package in packages):
            return number
    return None


@pytest.mark.parametrize(
    ("name", "path"), modules(), ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_imports_point_downwards(name: str, path: Path) -> None:
    own = layer_of(name)
    if name == "vmm":
        assert imports(path) == set()
        return
    assert own is not None, f"{name} belongs to no layer: add its package to LAYERS and docs/architecture.md"

    upwards = {other for other in imports(path) if (layer := layer_of(other)) is not None and layer < own}

    assert upwards == set()


@pytest.mark.parametrize(("package", "forbidden"), PURE.items())
def test_pure_layers_touch_nothing_outside(package: str, forbidden: set[str]) -> None:
    offenders = {
        f"{name} imports {other}"
        for name, path in modules()
        if inside(name, package)
        for other in imports(path)
        if any(inside(other, banned) for banned in forbidden)
    }

    assert offenders == set()
