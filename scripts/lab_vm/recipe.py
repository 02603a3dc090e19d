# SPDX-License-Identifier: Apache-2.0
"""What a kernel of the lab is made of, and the key that names the result.

A variant's key covers everything the result depends on: the source package, the patches, the configuration and the
compiler. Equal key, equal kernel: it is never built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from scripts.lab_vm.errors import LabError, missing_packages
from scripts.lab_vm.places import KERNEL_BUILD, KERNEL_SOURCES

BUILD_RULES = 1
"""Raised when the way of building changes so that old products must not be used."""

SOURCE_PACKAGE = "linux-source-6.12"
SOURCE_ARCHIVE = Path("/usr/src/linux-source-6.12.tar.xz")

CONFIG_LINE = re.compile(r"(?P<name>CONFIG_\w+)=(?P<value>.+)|# (?P<off>CONFIG_\w+) is not set")


@dataclass(frozen=True)
class Variant:
    """One of our kernels: whether the series is applied, and the configuration fragments in order.

    runs_labs: it has what a lab needs; `vmm run` boots the others.
    """

    name: str
    has_series: bool
    fragments: tuple[str, ...]
    runs_labs: bool = True


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("upstream", has_series=False, fragments=("config",)),
        Variant("patched", has_series=True, fragments=("config",)),
        Variant("debug", has_series=True, fragments=("config", "config-debug")),
        Variant("guest", has_series=False, fragments=("config-guest",), runs_labs=False),
    )
}
LAB_VARIANTS = tuple(variant.name for variant in VARIANTS.values() if variant.runs_labs)


@dataclass(frozen=True)
class Recipe:
    """The files a variant is built from, as they are now."""

    variant: str
    source: Path
    patches: tuple[Path, ...]
    fragments: tuple[Path, ...]

    def key(self, source_digest: str, compiler: str) -> str:
        """12 hex digits. `source_digest` identifies the archive, `compiler` is its version line."""
        digest = hashlib.sha256()
        contents = [*((path.name, path.read_bytes()) for path in self.patches)]
        # Settings, not text: a comment changes no kernel.
        contents += [
            ("config", json.dumps(parse_config(path.read_text())).encode()) for path in self.fragments
        ]
        for name, content in contents:
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        digest.update(json.dumps([BUILD_RULES, self.variant, source_digest, compiler]).encode())
        return digest.hexdigest()[:12]


def find_recipe(
    variant_name: str, kernel_folder: Path = KERNEL_SOURCES, source: Path = SOURCE_ARCHIVE
) -> Recipe:
    """The recipe of a variant; LabError when its source package or its patches are missing."""
    variant = VARIANTS.get(variant_name)
    if variant is None:
        raise LabError(f"no kernel variant {variant_name!r}: there are {', '.join(VARIANTS)}")
    if not source.exists():
        raise missing_packages(f"no kernel source at {source}", [SOURCE_PACKAGE])
    # What the lab's own emulation needs comes first, in every variant.
    patches = tuple(sorted((kernel_folder / "lab").glob("*.patch")))
    if variant.has_series:
        series = tuple(sorted((kernel_folder / "series").glob("*.patch")))
        patches += series
        if not series:
            raise LabError(
                f"{kernel_folder / 'series'} holds no *.patch, so there is no {variant_name} kernel; "
                "use --kernel upstream or name a kernel file"
            )
    return Recipe(variant_name, source, patches, tuple(kernel_folder / name for name in variant.fragments))


def source_digest(source: Path, memory: Path = KERNEL_BUILD / "source-digest.json") -> str:
    """SHA-256 of the archive; remembered by size and change time, since reading 150 MB takes half a second."""
    status = source.stat()
    identity = [str(source), status.st_size, status.st_mtime_ns]
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    if isinstance(known, dict) and known.get("identity") == identity:
        return str(known["sha256"])
    with source.open("rb") as archive:
        digest = hashlib.file_digest(archive, "sha256").hexdigest()
    memory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = memory.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps({"identity": identity, "sha256": digest}))
    unfinished.replace(memory)
    return digest


def parse_config(text: str) -> dict[str, str]:
    """Kconfig settings by symbol; a symbol that is off has the value `n`. Comments are left out."""
    settings = {}
    for line in text.splitlines():
        match = CONFIG_LINE.fullmatch(line.strip())
        if match:
            settings[match["name"] or match["off"]] = match["value"] or "n"
    return settings


def merge_config(base: str, fragments: list[str]) -> str:
    """`base` with the fragments' settings in place of its own; a later fragment wins."""
    wanted: dict[str, str] = {}
    for fragment in fragments:
        wanted |= parse_config(fragment)
    # Behind the base: of two options of one choice, Kconfig takes the one it reads last.
    settings = {name: value for name, value in parse_config(base).items() if name not in wanted} | wanted
    lines = [
        f"# {name} is not set" if value == "n" else f"{name}={value}" for name, value in settings.items()
    ]
    return "\n".join(lines) + "\n"


def lost_settings(result: str, fragments: list[str]) -> list[str]:
    """What the fragments asked for and Kconfig did not keep, one readable line each."""
    wanted: dict[str, str] = {}
    for fragment in fragments:
        wanted |= parse_config(fragment)
    got = parse_config(result)
    return [
        f"{name}: asked for {value}, got {got.get(name, 'n')}"
        for name, value in wanted.items()
        if got.get(name, "n") != value
    ]
