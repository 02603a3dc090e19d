# SPDX-License-Identifier: Apache-2.0
"""The text of docs/hypercalls.md, from the call table of `vmm.hypercall`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vmm.hv.bits import BitField
from vmm.hv.constants import HV_PAGE_SIZE
from vmm.hv.cpuid import (
    HV_ENLIGHTENMENT_INFORMATION_EAX,
    HV_HYPERVISOR_FEATURES_EDX,
    HV_PARTITION_PRIVILEGE_MASK,
)
from vmm.hv.layout import Layout, Scalar
from vmm.hypercall.call import REPS_PER_SLICE, Call, CallKind, VtlForm
from vmm.hypercall.calls import CALLS
from vmm.hypercall.convention import FAST_GENERAL_SIZE, FAST_SIZE, chunks

_LEAVES: dict[type | None, str] = {
    HV_PARTITION_PRIVILEGE_MASK: "",
    HV_HYPERVISOR_FEATURES_EDX: "0x40000003 EDX ",
    HV_ENLIGHTENMENT_INFORMATION_EAX: "0x40000004 EAX ",
}
"""Where a CPUID bit lies; a privilege is named alone."""

_HEAD = f"""\
<!-- Generated from vmm/hypercall by `python -m scripts.gen_docs`: change the tables there, not this page. -->
# Hypercalls

Every hypercall that has a row in `vmm/hypercall/calls.py`: its form, who may make it, and what tells a guest of it.
How parameters travel is `vmm/hypercall/convention.py`. Sections of the TLFS and disagreements between documents
(DIS-...) are those of `tests/data/tlfs-vsm-checklist.md`. A machine offers those of them that it has handlers for; the
others, and codes without a row, answer INVALID_HYPERCALL_CODE.

## The calls

Sizes in bytes; a variable header comes in units of 8.
*In memory* is the most reps that one call can have with its lists in one page each, *fast* the most that fit the
registers of a 64-bit caller (RDX, R8 and XMM0 to XMM5: {FAST_SIZE} bytes, output behind the input), and what CPUID leaf
0x40000003 must offer for it: XMM input (EDX bit 4), fast output (EDX bit 15). A handler gets {REPS_PER_SLICE} reps at a
time; a longer list is continued: RIP stays, the rep start in RCX moves.
"""

_RIGHTS = """
## Who may make them, and how a guest knows

Without a privilege, or from a VTL below the one in *from VTL*, a call answers ACCESS_DENIED; a VTL switch is #UD. A VTL
field names a VTL as HV_INPUT_VTL (the caller's own unless UseTargetVtl is set) or by number; naming a VTL above the
caller is ACCESS_DENIED unless the table allows it, a malformed field is INVALID_PARAMETER. A CPUID bit is set when all
calls that name it have handlers; those without a leaf are the privileges in EBX:EAX of leaf 0x40000003.
"""

_LAYOUTS = """
## Their parameter blocks

Offsets and sizes in bytes; reserved fields are ignored on input unless the notes above say otherwise.
"""

_ANSWERS = """
## What answers before a handler does

In the order of the checks; the TLFS leaves the order open (HC-018).

| fault | answer |
|---|---|
| real mode, virtual-8086 mode, CPL above 0 | #UD |
| guest OS id or hypercall page not set up in this VTL | #UD |
| no row or no handler | INVALID_HYPERCALL_CODE; from 0x8000 on ACCESS_DENIED without EnableExtendedHypercalls |
| privilege missing, caller in too low a VTL | ACCESS_DENIED (VTL switch: #UD) |
| reserved bit, rep count or start where there is none, start not below count, variable header where there is none | \
INVALID_HYPERCALL_INPUT |
| nested bit without CPUID 0x40000004 EAX bit 12 | INVALID_HYPERCALL_INPUT |
| fast parameters that do not fit the registers; fast output of a 32-bit caller | INVALID_HYPERCALL_INPUT |
| XMM input or fast output that CPUID 0x40000003 EDX bit 4 or 15 does not offer | #UD |
| list misaligned to 8, or crossing a page; input not wholly RAM | INVALID_ALIGNMENT |
| input in a page that a higher VTL protects | memory intercept to that VTL; the call is made again afterwards |
| VTL field malformed | INVALID_PARAMETER |
| VTL above the caller | ACCESS_DENIED |
| output not wholly RAM | INVALID_ALIGNMENT |
| output in a page that a higher VTL protects | memory intercept, as for input |
| a handler that raises or contradicts itself (a defect of this program, counted) | OPERATION_FAILED |

Input and output lists may overlap here, though the TLFS tells callers not to do that: released Linux kernels do.
Input is copied before output is written.
"""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    columns = list(head)
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _anchor(layout: str) -> str:
    return f"[{layout}](#{layout.lower()})"


def _class(call: Call) -> str:
    return call.kind.value + (" + variable header" if call.variable_header else "")


def _input(call: Call) -> str:
    sizes = [str(call.header_size)] if call.header_size else []
    sizes += ["8 per unit"] if call.variable_header else []
    sizes += [f"{call.element_size} per rep"] if call.element_size else []
    return " + ".join(sizes)


def _output(call: Call) -> str:
    if call.output is None:
        return ""
    return f"{call.output_size} per rep" if call.kind is CallKind.REP else str(call.output_size)


def _most_in_memory(call: Call) -> str:
    if call.kind is not CallKind.REP:
        return ""
    reps = (HV_PAGE_SIZE - call.header_size) // call.element_size
    return str(min(reps, HV_PAGE_SIZE // call.output_size) if call.output_size else reps)


def _most_fast(call: Call) -> str:
    if call.kind is CallKind.VTL_SWITCH:
        return ""
    if call.kind is CallKind.SIMPLE:
        fits = chunks(call.header_size) + call.output_size if call.output else call.header_size
        if fits > FAST_SIZE:
            return "no"
        return ", ".join(_fast_needs(call, call.header_size)) or "yes"
    reps = 0
    while _fast_size(call, reps + 1) <= FAST_SIZE:
        reps += 1
    return ", ".join([f"{reps} reps", *_fast_needs(call, call.header_size + call.element_size)])


def _fast_needs(call: Call, input_size: int) -> list[str]:
    """What CPUID must offer for the smallest fast call."""
    return ["XMM input"] * (input_size > FAST_GENERAL_SIZE) + ["fast output"] * (call.output is not None)


def _fast_size(call: Call, reps: int) -> int:
    size = call.header_size + reps * call.element_size
    return chunks(size) + reps * call.output_size if call.output else size


def _vtl(call: Call) -> str:
    rule = call.target_vtl
    if rule is None:
        return ""
    form = "number" if rule.form is VtlForm.PLAIN else rule.form.value
    return f"{rule.field}: {form}" + (", also above the caller" if rule.above_caller else "")


def _announced(bit: BitField[Any]) -> str:
    return _LEAVES[bit.owner] + str(bit.name)


def _layouts() -> dict[str, type[Layout]]:
    """Every layout of the table by name, nested ones behind those that hold them."""
    found: dict[str, type[Layout]] = {}

    def add(layout: type[Layout]) -> None:
        if layout.__name__ in found:
            return
        found[layout.__name__] = layout
        for described in layout.FIELDS:
            if isinstance(described.type, type) and issubclass(described.type, Layout):
                add(described.type)

    for call in CALLS:
        if call.header is not None:
            add(call.header)
        for elements in (call.element, call.output):
            if (layout := getattr(elements, "layout", None)) is not None:
                add(layout)
    return found


def _fields(layout: type[Layout]) -> Iterator[list[str]]:
    for described in layout.FIELDS:
        if isinstance(described.type, Scalar):
            kind = f"u{described.size * 8}"
        elif described.type is None:
            kind = "bytes"
        elif issubclass(described.type, Layout):
            kind = _anchor(described.type.__name__)
        else:
            kind = described.type.__name__
        reserved = "" if described.kind.value == "value" else described.kind.value
        yield [str(described.offset), str(described.size), described.name, kind, reserved]


def text() -> str:
    """The page."""
    known = _layouts()

    def named(name: str) -> str:
        return _anchor(name) if name in known else name

    lines = [_HEAD]
    lines += _table(
        ["code", "call", "class", "input", "output", "in memory", "fast", "section", "checklist", "notes"],
        (
            [
                f"0x{call.code:04x}",
                call.name,
                _class(call),
                _input(call),
                _output(call),
                _most_in_memory(call),
                _most_fast(call),
                call.section,
                ", ".join(call.items),
                call.notes,
            ]
            for call in CALLS
        ),
    )
    lines.append(_RIGHTS)
    lines += _table(
        ["call", "privileges", "from VTL", "VTL field", "CPUID bits"],
        (
            [
                call.name,
                ", ".join(str(bit.name) for bit in call.requires),
                str(call.min_caller_vtl),
                _vtl(call),
                ", ".join(_announced(bit) for bit in call.announces),
            ]
            for call in CALLS
        ),
    )
    lines.append(_ANSWERS)
    lines += ["## What travels", ""]
    lines += _table(
        ["call", "header", "rep element", "output"],
        (
            [
                call.name,
                named(call.header.__name__) if call.header else "",
                named(call.element.name) if call.element else "",
                named(call.output.name) if call.output else "",
            ]
            for call in CALLS
            if call.kind is not CallKind.VTL_SWITCH
        ),
    )
    lines.append(_LAYOUTS)
    for name, layout in known.items():
        lines += [f"### {name}", ""]
        if summary := (layout.__doc__ or "").strip().split("\n")[0]:
            lines += [f"{summary} {layout.SIZE} bytes.", ""]
        lines += _table(["offset", "size", "field", "type", ""], _fields(layout))
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"
