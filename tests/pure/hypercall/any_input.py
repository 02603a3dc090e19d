# SPDX-License-Identifier: Apache-2.0
"""Hypercalls that a careless or hostile guest makes, and what may come of each by the rules alone.

`Case` is one execution of the trap instruction. `Case.faults` works the rules out a second time, from the documents and
without the code under test: each fault with the answers it allows. Several at once allow any of them (HC-018), except
that missing rights must not be answered by anything else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from tests.pure.hypercall.fakes import ALL_PRIVILEGES, INPUT, NEIGHBOUR, OUTPUT
from vmm.hv.status import HvStatus
from vmm.hypercall.call import AGAIN, Call, CallKind, VtlForm
from vmm.hypercall.convention import CallerMode, Outcome

made = 0
"""Trap instructions executed so far."""

PAGE: Final = 4096
RESERVED_BITS: Final = [*range(27, 31), *range(44, 48), *range(60, 64)]
COUNTS: Final = [0, 1, 2, 3, 4, 5, 6, 12, 13, 63, 64, 65, 128, 255, 256, 257, 508, 509, 510, 511, 4095]
OFFSETS: Final = [0, 0, 0, 8, 16, 1, 4, 7, 0x800, 4096 - 8, 4096 - 16, 4096 - 24, 4096 - 256, 4095]
BASES: Final = [INPUT, INPUT, INPUT, OUTPUT, OUTPUT, 0x2000, 0, 1 << 51, 0xFFFF_FFFF_FFFF_F000]
VTL_BYTES: Final = [0, 0, 0, 0x10, 0x11, 0x12, 0x1F, 0x01, 0x20, 0x80, 0xFF]

Answer = HvStatus | Outcome


@dataclass(frozen=True)
class Case:
    """One call and everything around it that the rules look at."""

    call: Call
    mode: int
    vtl: int
    missing: int
    """Privileges that the partition lacks."""
    enabled: bool
    xmm_input: bool
    xmm_output: bool
    nested: bool
    control: int
    first: int
    second: int
    noise: int
    """What the block of parameters is filled with: a byte."""
    vtl_byte: int
    unreadable: frozenset[int]
    unwritable: frozenset[int]
    done: int
    """How many reps the handler does, as far as there are as many."""
    status: int
    """What the handler answers: a status, or AGAIN."""
    raises: bool

    @property
    def fast(self) -> bool:
        return bool(self.control >> 16 & 1)

    @property
    def count(self) -> int:
        return self.control >> 32 & 0xFFF

    @property
    def start(self) -> int:
        return self.control >> 48 & 0xFFF

    @property
    def rep(self) -> bool:
        return self.call.kind is CallKind.REP

    @property
    def header_size(self) -> int:
        return self.call.header_size + 8 * (self.control >> 17 & 0x3FF)

    @property
    def input_size(self) -> int:
        return self.header_size + (self.call.element_size * self.count if self.rep else 0)

    @property
    def output_size(self) -> int:
        return self.call.output_size * (self.count if self.rep else 1)

    def faults(self) -> set[Answer]:
        """Every answer that a fault of this case allows; empty when only the handler has a say."""
        if self.mode == CallerMode.ILLEGAL or not self.enabled:
            return {Outcome.INVALID_OPCODE}
        if self.missing & self.call.privileges or self.vtl < self.call.min_caller_vtl:
            return {HvStatus.ACCESS_DENIED}
        found: set[Answer] = set()
        if self._bad_control():
            found.add(HvStatus.INVALID_HYPERCALL_INPUT)
        found |= self._fast_faults() if self.fast else self._slow_faults()
        return found | self._vtl_faults()

    def _bad_control(self) -> bool:
        reserved = [*RESERVED_BITS, *([] if self.nested else [31])]
        return (
            any(self.control >> bit & 1 for bit in reserved)
            or (not self.call.variable_header and bool(self.control >> 17 & 0x3FF))
            or (self.count <= self.start if self.rep else bool(self.count or self.start))
        )

    def _fast_faults(self) -> set[Answer]:
        found: set[Answer] = set()
        rounded = -(-self.input_size // 16) * 16
        if self.input_size > 112 or (self.output_size and rounded + self.output_size > 112):
            found.add(HvStatus.INVALID_HYPERCALL_INPUT)
        if self.output_size and self.mode == CallerMode.BITS_32:
            found.add(HvStatus.INVALID_HYPERCALL_INPUT)
        if (self.input_size > 16 and not self.xmm_input) or (self.output_size and not self.xmm_output):
            found.add(Outcome.INVALID_OPCODE)
        return found

    def _slow_faults(self) -> set[Answer]:
        found: set[Answer] = set()
        for gpa, size, hidden in (
            (self.first, self.input_size, self.unreadable),
            (self.second, self.output_size, self.unwritable),
        ):
            page = gpa // PAGE * PAGE
            if not size:
                continue
            if gpa % 8 or gpa % PAGE + size > PAGE or page not in (INPUT, OUTPUT, NEIGHBOUR):
                found.add(HvStatus.INVALID_ALIGNMENT)
            if page in hidden:
                found.add(Outcome.INTERCEPT)
        return found

    def _vtl_faults(self) -> set[Answer]:
        rule = self.call.target_vtl
        if rule is None:
            return {HvStatus.INVALID_PARAMETER} if self.call.refuse_reserved and self.noise else set()
        found: set[Answer] = set()
        if rule.form is VtlForm.PLAIN:
            target = self.vtl_byte
            if target > 15:
                found.add(HvStatus.INVALID_PARAMETER)
        else:
            target = self.vtl_byte & 0xF if self.vtl_byte & 0x10 else self.vtl
            if self.vtl_byte & 0xE0:
                found.add(HvStatus.INVALID_PARAMETER)
        if target > self.vtl and not rule.above_caller:
            found.add(HvStatus.ACCESS_DENIED)
        if self.call.refuse_reserved and self.noise:
            found.add(HvStatus.INVALID_PARAMETER)
        return found

    def block(self) -> bytes:
        """A page of parameters: noise, with the VTL byte where the row has one."""
        block = bytearray([self.noise]) * PAGE
        rule, layout = self.call.target_vtl, self.call.header
        if rule is not None and layout is not None:
            top = 7 if rule.form is VtlForm.IN_FLAGS else 0
            block[layout.offset_of(rule.field) + top] = self.vtl_byte
        return bytes(block)


def _environments() -> list[dict[str, Any]]:
    """Callers, machines and handlers: the ordinary one first, then a fixed random choice with few oddities each."""
    pick = random.Random(1).choice
    plain = {
        "mode": int(CallerMode.BITS_64),
        "vtl": 2,
        "missing": 0,
        "enabled": True,
        "xmm_input": True,
        "xmm_output": True,
        "nested": False,
        "noise": 0,
        "vtl_byte": 0,
        "unreadable": frozenset[int](),
        "unwritable": frozenset[int](),
        "done": PAGE,
        "status": 0,
        "raises": False,
    }
    usual, seldom = [True] * 15 + [False], [False] * 15 + [True]
    hidden = [frozenset[int]()] * 12 + [frozenset([INPUT]), frozenset([OUTPUT]), frozenset([INPUT, OUTPUT])]
    random_ones = (
        {
            "mode": int(pick([CallerMode.BITS_64] * 4 + [CallerMode.BITS_32] * 3 + [CallerMode.ILLEGAL])),
            "vtl": pick([0, 1, 2, 2, 2, 15]),
            "missing": pick([0] * 100 + [ALL_PRIVILEGES] + [1 << bit for bit in range(64)]),
            "enabled": pick(usual),
            "xmm_input": pick(usual),
            "xmm_output": pick(usual),
            "nested": pick(seldom),
            "noise": pick([0, 0, 0xFF, 0x01, 0x80]),
            "vtl_byte": pick(VTL_BYTES),
            "unreadable": pick(hidden),
            "unwritable": pick(hidden),
            "done": pick([0, 1, 2, PAGE, PAGE]),
            "status": pick([0, 0, 0, AGAIN, int(HvStatus.INVALID_PARAMETER), 0x50, 0x87]),
            "raises": pick(seldom),
        }
        for _ in range(4000)
    )
    return [plain, *random_ones]


def _controls(call: Call) -> list[int]:
    """Control words of a call without the fast bit: valid ones first, then odd ones, then any bits at all."""
    starts = {count: sorted({0, 1, count // 2, max(count - 1, 0), count, 4095}) for count in COUNTS}
    if call.kind is not CallKind.REP:
        starts = {0: [0]}
    headers = [0, 1, 2, 3, 10, 509, 510, 1023] if call.variable_header else [0]
    fields = [
        int(call.code) | qwords << 17 | count << 32 | start << 48
        for count, firsts in starts.items()
        for start in firsts
        for qwords in headers
    ]
    noise = random.Random(int(call.code))
    odd = [noise.choice(fields) | 1 << bit for bit in range(17, 64)]
    wild = [int(call.code) | noise.getrandbits(47) << 17 for _ in range(64)]
    return fields * max(1, 300 // len(fields)) + odd + wild


ENVIRONMENTS: Final = _environments()
ANY_64_BITS: Final = st.integers(0, (1 << 64) - 1)
ADDRESSES: Final = st.sampled_from([base + offset for base in BASES for offset in OFFSETS]) | ANY_64_BITS


def cases(call: Call) -> st.SearchStrategy[Case]:
    """Mostly calls that get far, each with few faults, so that every check is reached.

    Four draws, most from a list that was made before: drawing each field costs ten times what the call does.
    """
    return st.builds(
        lambda environment, control, first, second: Case(
            call=call, control=control, first=first, second=second, **environment
        ),
        st.sampled_from(ENVIRONMENTS),
        st.sampled_from(_controls(call)),
        ADDRESSES,
        ADDRESSES,
    )
