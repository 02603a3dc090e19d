# SPDX-License-Identifier: Apache-2.0
"""A C program that prints what the kernel headers say of every name in kvmapi.uapi, and the same from ctypes.

Names are found by looking into the modules, so that a declaration cannot be left out. What is in no header
belongs in kvmapi/uapi/vsm.py, which is not looked at.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvmapi.uapi import kvm, layout, x86
from kvmapi.uapi.layout import FLEXIBLE, UNNAMED

INCLUDES = ("linux/const.h", "linux/bits.h", "linux/kvm.h", "linux/kvm_para.h", "asm/kvm_para.h")
# linux/kvm.h leaves the page size to the program; KVM_COALESCED_MMIO_MAX needs it.
DEFINES = ("-DPAGE_SIZE=4096",)
# The C member is a union of arrays of two types; ours is bytes.
ELEMENT_NOT_IN_C = {"kvm_nested_state"}


def public() -> dict[str, Any]:
    return {
        name: value
        for module in (kvm, x86)
        for name, value in vars(module).items()
        if name.isidentifier() and not name.startswith("_") and vars(layout).get(name) is not value
    }


def constants() -> dict[str, int]:
    return {name: value for name, value in public().items() if isinstance(value, int)}


def structures() -> dict[str, Any]:
    """Those with a name in C."""
    return {
        name: value
        for name, value in public().items()
        if isinstance(value, type)
        and issubclass(value, ctypes.Structure | ctypes.Union)
        and value not in UNNAMED
    }


def members(cls: Any, path: str = "", offset: int = 0) -> Iterator[tuple[str, int, int, bool]]:
    """(C path, offset, size, is a bit field) of every member, at any depth; elements of arrays as [0]."""
    for name, kind, *bits in cls._fields_:
        if name.startswith("_"):
            continue  # padding that C leaves to the compiler
        start = offset + getattr(cls, name).offset
        if name in getattr(cls, "_anonymous_", ()):
            yield from members(kind, path, start)
            continue
        here = f"{path}{name}"
        yield here, start, ctypes.sizeof(kind), bool(bits)
        element = kind
        while issubclass(element, ctypes.Array):
            element, here = element._type_, f"{here}[0]"
        if issubclass(element, ctypes.Structure | ctypes.Union):
            yield from members(element, f"{here}.", start)


def bit_field_bytes(cls: Any, path: str) -> str:
    """Which bytes become what when the bit field at `path` is all ones."""
    made = cls()
    target = made
    *way, last = re.split(r"[.\[]", path.replace("]", ""))
    for step in way:
        target = target[int(step)] if step.isdigit() else getattr(target, step)
    setattr(target, last, 0xFF)
    return ",".join(f"{index}:{value}" for index, value in enumerate(bytes(made)) if value)


def ours() -> dict[str, str]:
    """Question -> our answer, in the program's notation."""
    answers = {f"constant {name}": str(value % (1 << 64)) for name, value in constants().items()}
    for name, cls in structures().items():
        answers[f"size {name}"] = str(ctypes.sizeof(cls))
        for path, offset, size, bits in members(cls):
            if bits:
                answers[f"bits {name}.{path}"] = bit_field_bytes(cls, path)
            else:
                answers[f"member {name}.{path}"] = f"{offset} {size}"
    for header, (array, element) in FLEXIBLE.items():
        sized = public()[f"make_{header.__name__}"](1)
        element_size = "-" if header.__name__ in ELEMENT_NOT_IN_C else str(ctypes.sizeof(element))
        answers[f"array {header.__name__}.{array}"] = f"{getattr(sized, array).offset} {element_size}"
    return answers


def program() -> str:
    lines = [f"#include <{name}>" for name in INCLUDES]
    lines += ["#include <errno.h>", "#include <stddef.h>", "#include <stdio.h>", "#include <string.h>"]
    lines.append('static void bits(const unsigned char *at, size_t size) { const char *comma = "";')
    lines.append(
        'for (size_t i = 0; i < size; i++) if (at[i]) { printf("%s%zu:%u", comma, i, at[i]); comma = ","; }'
    )
    lines.append('printf("\\n"); }')
    lines.append("int main(void) {")
    for question in ours():
        kind, name = question.split(" ", 1)
        struct, _, path = name.partition(".")
        if kind == "constant":
            lines.append(f'printf("{question}=%llu\\n", (unsigned long long)({name}));')
        elif kind == "size":
            lines.append(f'printf("{question}=%zu\\n", sizeof(struct {name}));')
        elif kind == "bits":
            lines.append(
                f'{{ struct {struct} s; memset(&s, 0, sizeof s); s.{path} = ~0; printf("{question}=");'
            )
            lines.append("bits((const unsigned char *)&s, sizeof s); }")
        else:
            size = f"sizeof(((struct {struct} *)0)->{path}{'[0]' if kind == 'array' else ''})"
            if struct in ELEMENT_NOT_IN_C and kind == "array":
                lines.append(f'printf("{question}=%zu -\\n", offsetof(struct {struct}, {path}));')
            else:
                lines.append(f'printf("{question}=%zu %zu\\n", offsetof(struct {struct}, {path}), {size});')
    return "\n".join([*lines, "return 0;", "}", ""])


def c_answers(headers: Path, work: Path) -> dict[str, str]:
    """Question -> the compiler's answer."""
    source, binary = work / "probe.c", work / "probe"
    source.write_text(program())
    command = [
        "gcc",
        "-std=gnu11",
        "-Wall",
        "-Werror",
        *DEFINES,
        "-I",
        str(headers),
        "-o",
        str(binary),
        str(source),
    ]
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if compiled.returncode:
        raise AssertionError(
            "gcc does not know a name of kvmapi.uapi (names in no header belong in kvmapi/uapi/vsm.py):\n"
            + compiled.stderr[:4000]
        )
    output = subprocess.run([str(binary)], capture_output=True, text=True, check=True, timeout=60).stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def names_in_headers(headers: Path) -> tuple[set[str], set[str]]:
    """All (constants, structures) that linux/kvm.h and the kvm_para.h headers declare, x86's part included."""
    text = "\n".join((headers / name).read_text() for name in ("linux/kvm.h", "asm/kvm.h", "asm/kvm_para.h"))
    text += (headers / "linux/kvm_para.h").read_text()
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    macros = set(re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)(?!\w*\()[ \t]+\S", text, re.MULTILINE))
    enums = re.findall(r"\benum\s+\w*\s*\{(.*?)\}", text, re.DOTALL)
    members = {name for body in enums for name in re.findall(r"^\s*([A-Z]\w+)\s*[,=]", body, re.MULTILINE)}
    structs = set(re.findall(r"\bstruct\s+(kvm_\w+)\s*\{", text))
    return macros | members, structs
