# SPDX-License-Identifier: Apache-2.0
"""The text of docs/msrs.md, from the tables of `vmm.hv`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from vmm.hv.access import VtlScope
from vmm.hv.bits import BitField, Bits, FieldKind
from vmm.hv.cpuid import HV_HYPERVISOR_FEATURES_EDX, HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.msrs import HvMsr
from vmm.hv.registers import BY_MSR
from vmm.hv.x64_msrs import X2APIC_MSRS, X64Msr

_HEAD = """\
<!-- Generated from vmm/hv by `python -m scripts.gen_docs`: change the tables there, not this page. -->
# MSRs

The synthetic MSRs of the Hyper-V interface, and what the partition's VTLs share of the processor's own. The tables are
`vmm/hv/msrs.py`, `vmm/hv/x64_msrs.py` and `vmm/hv/msr_bits.py`; sections of the TLFS and disagreements between
documents (DIS-...) are those of `tests/data/tlfs-vsm-checklist.md`.

## Synthetic MSRs

An access that a row does not allow, an access without the CPUID bit that offers the MSR, and an access to a number
between them that has no row raise #GP (MISC-007). *Private* is one per VP and VTL, *shared* one per VP. The VP register
is what HvCallGetVpRegisters and HvCallSetVpRegisters call it. "Own" after reset is a value the machine determines.
SCONTROL after reset is the TLFS's 0; KVM and OpenVMM have 1 (DIS-24). The table says what the interface has, the CPUID
bits say what a machine offers of it.
"""

_WORDS = """
## Their bits

RsvdZ: to be written as zero. RsvdP: anything may be written, it is kept and read back. Reserved: ignored.
"""

_ARCHITECTURAL = """
## Architectural MSRs and VTLs

What TLFS 15.11 says of the processor's MSRs when a VP has several VTLs. A VTL switch carries the shared ones over.
"""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    columns = list(head)
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _offered_by(field: BitField[Any]) -> str:
    if field.owner is HV_PARTITION_PRIVILEGE_MASK:
        register, position = ("EAX", field.low) if field.low < 32 else ("EBX", field.low - 32)
    elif field.owner is HV_HYPERVISOR_FEATURES_EDX:
        register, position = "EDX", field.low
    else:
        raise ValueError(f"{field!r} is in no register of leaf 0x40000003")
    return f"{field.name} ({register} {position})"


def _columns(msr: HvMsr) -> tuple[str, ...]:
    """Everything but name and number."""
    contents = msr.contents
    if not isinstance(contents, str):
        contents = f"[{contents.__name__}](#{contents.__name__.lower()})"
    if msr.reset_value is None:
        reset = "own" if msr.access.readable else ""
    else:
        reset = f"{msr.reset_value:#x}" if msr.reset_value > 9 else str(msr.reset_value)
    return msr.access.value, msr.vtl_scope.value, _offered_by(msr.privilege), reset, contents


def _runs() -> Iterator[list[HvMsr]]:
    """MSRs that differ in an index only, together: SINT0 to SINT15."""
    grouped: dict[tuple[str, tuple[str, ...]], list[HvMsr]] = defaultdict(list)
    for msr in HvMsr:
        grouped[re.sub(r"(?<=SINT|IMER|SH_P)\d+", "n", msr.name), _columns(msr)].append(msr)
    yield from grouped.values()


def _msr_row(run: list[HvMsr]) -> list[str]:
    first, last = run[0], run[-1]
    registers = [BY_MSR.get(msr) for msr in (first, last)]
    register = registers[0].name if registers[0] is not None else ""
    name, number = first.name, f"{int(first):#010x}"
    if len(run) > 1:
        step = int(run[1]) - int(first)
        name += f" to {last.name.removeprefix('HV_X64_MSR_')}"
        number += f" to {int(last):#010x}" + (f", every {step}nd" if step == 2 else "")
        register += f" to {registers[1].name}" if registers[1] is not None else ""
    return [name, number, *_columns(first), register]


def _word(word: type[Bits]) -> Iterator[str]:
    yield ""
    yield f"### {word.__name__}"
    yield ""
    yield (word.__doc__ or "").partition("\n")[0]
    yield ""
    rows = (
        (
            field.span,
            "" if field.kind is not FieldKind.VALUE else field.name,
            field.kind.value.replace("value", ""),
        )
        for field in word.FIELDS
    )
    yield from _table(("bits", "field", ""), rows)


def _scope_row(scope: VtlScope) -> list[str]:
    names = [msr.name for msr in X64Msr if msr.vtl_scope is scope]
    if scope is VtlScope.PRIVATE:
        names.append(f"the x2APIC block {X2APIC_MSRS.start:#x} to {X2APIC_MSRS.stop - 1:#x}")
    return [scope.value, ", ".join(names)]


def text() -> str:
    """The whole page."""
    head = (
        "MSR",
        "number",
        "access",
        "VTL scope",
        "offered by (CPUID 0x40000003)",
        "after reset",
        "contents",
        "VP register",
    )
    words = dict.fromkeys(msr.contents for msr in HvMsr if not isinstance(msr.contents, str))
    lines = [_HEAD, *_table(head, map(_msr_row, _runs())), _WORDS.rstrip()]
    for word in words:
        lines += _word(word)
    scopes = (VtlScope.SHARED, VtlScope.PRIVATE, VtlScope.UNSPECIFIED)
    lines += [_ARCHITECTURAL, *_table(("VTL scope", "MSRs"), map(_scope_row, scopes))]
    return "\n".join(lines) + "\n"
