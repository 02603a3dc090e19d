# SPDX-License-Identifier: Apache-2.0
"""What enforcement by mappings can do on a host, and how exactly an access is told: data for `vmm doctor` and the docs.

Everywhere: none, RX and RWX cost nothing that is allowed; R and RW without X are enforced, and each allowed access to
such a page takes an exit. A refused access never has an effect on memory that its VTL may not change. What differs is
what the VTL that refuses it is told, and how fast allowed accesses are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Exactness(StrEnum):
    """What the owner of a protection hears of a refused access."""

    EXACT = "exact"
    """Address, kind and instruction; all registers are as before it, and repeating it repeats all of it."""

    RESTARTABLE = "restartable"
    """Address, kind and instruction; repeating it has the same result, but some registers are not as before."""

    NOT_TOLD = "not told"
    """The access has no effect, and the lower VTL gets an exception of its own instead."""


@dataclass(frozen=True, slots=True)
class Row:
    """emulated: on a KVM without VT-x and SVM, ring 0 then ring 3. processor: on one with either, both rings."""

    access: str
    emulated_ring0: Exactness
    emulated_ring3: Exactness
    processor: Exactness
    note: str = ""


_EXACT, _RESTARTABLE, _NOT_TOLD = Exactness.EXACT, Exactness.RESTARTABLE, Exactness.NOT_TOLD

TABLE = (
    Row("read", _EXACT, _EXACT, _EXACT, "LEAVE in emulated ring 0: RSP is that behind its first half"),
    Row("write", _EXACT, _EXACT, _EXACT, "emulated ring 0: the instruction is found backwards from RIP"),
    Row(
        "read and write",
        _RESTARTABLE,
        _EXACT,
        _EXACT,
        "emulated ring 0: arithmetic flags are the new ones; RAX of a CMPXCHG without LOCK that does not match is lost",
    ),
    Row("PUSH, CALL, POP, RET, ENTER", _EXACT, _EXACT, _EXACT),
    Row(
        "string instructions, repeated or not",
        _EXACT,
        _EXACT,
        _EXACT,
        "the elements before are done; INS has read its port",
    ),
    Row(
        "vector registers",
        _EXACT,
        _EXACT,
        _EXACT,
        "also with masks, gathers and scatters",
    ),
    Row(
        "write to two pages of which one may be written",
        _RESTARTABLE,
        _EXACT,
        _EXACT,
        "emulated ring 0: the part on that page is written already",
    ),
    Row("fetch, also across a page", _EXACT, _EXACT, _EXACT),
    Row(
        "walk of page tables, accessed and dirty bits",
        _NOT_TOLD,
        _NOT_TOLD,
        _EXACT,
        "emulated: #PF; told where that cannot be delivered either",
    ),
    Row(
        "IDT, GDT, TSS and stack when an event is delivered", _EXACT, _EXACT, _EXACT, "the event is not lost"
    ),
    Row(
        "GDT or LDT when a segment register is loaded; SGDT, SIDT, LGDT, LIDT",
        _EXACT,
        _EXACT,
        _EXACT,
        "emulated: after 50 to 150 ms, since KVM stays at it until it is kicked",
    ),
)
"""By kind of access. `_EXACT` of a processor: measured with SVM; the rows are those of tests/host/protection."""


def markdown() -> list[str]:
    """The lines of the table in docs/vsm.md."""
    return [
        f"| {row.access} | {row.emulated_ring0} | {row.emulated_ring3} | {row.processor} | {row.note} |"
        for row in TABLE
    ]


def rows(*, hardware: bool) -> list[tuple[str, str, str]]:
    """`(access, ring 0, ring 3)` of this host."""
    return [
        (row.access, row.processor, row.processor)
        if hardware
        else (row.access, row.emulated_ring0, row.emulated_ring3)
        for row in TABLE
    ]
