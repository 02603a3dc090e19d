# SPDX-License-Identifier: Apache-2.0
"""Random changes of rights and accesses on this KVM and on a model of the rules, which must never differ.

A failure is shrunk, and printed as the sequence that fails; `--hypothesis-seed=N` makes the same sequences again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, currently_in_test_context, given, note, settings
from hypothesis import strategies as st

from tests.host.protection.world import CODE, DATA, END, PAGE, USER_CODE, World, new_world
from vmm.vsm.rights import ALL, EXECUTE, NONE, READ, WRITE

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(360),
]  # of which 5 s are needed, the rest by a failure's shrinking

EXAMPLES = 150
PAGES = 3
LANDING = 0x800  # of each page: where JMP goes
RIGHTS = (NONE, READ, READ | EXECUTE, READ | WRITE, ALL)
MASK = (1 << 64) - 1
VALUE = 0x8877_6655_4433_2211

LOADS = {1: "8a07", 2: "668b07", 4: "8b07", 8: "488b07"}
STORES = {1: "8807", 2: "668907", 4: "8907", 8: "488907"}


@dataclass(frozen=True)
class Change:
    page: int
    rights: int


@dataclass(frozen=True)
class Access:
    """at: an offset in the pages. other: another one, of an instruction that moves. opened: VTL1 grants what it is told
    of; else VTL0 does not go on."""

    kind: str
    ring: int
    at: int
    size: int
    opened: bool
    other: int = 0
    count: int = 0


def near_ends() -> st.SearchStrategy[int]:
    """Offsets in the pages, most of them around their ends; 200 bytes behind them and before are there as well."""
    ends = st.builds(lambda page, by: page * PAGE + by, st.integers(1, PAGES - 1), st.integers(-40, 20))
    return st.one_of(ends, st.integers(256, PAGES * PAGE - 256)).filter(clear_of_landings)


def clear_of_landings(offset: int) -> bool:
    return not LANDING - 200 < offset % PAGE < LANDING + 200


CHANGES = st.builds(Change, st.integers(0, PAGES - 1), st.sampled_from(RIGHTS))
ACCESSES = st.builds(
    Access,
    st.sampled_from(["load", "store", "add", "xadd", "push", "pop", "movs", "stos", "jump"]),
    st.sampled_from([0, 3]),
    near_ends(),
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
    near_ends(),
    st.integers(0, 48),
)
SEQUENCES = st.lists(st.one_of(CHANGES, CHANGES, ACCESSES, ACCESSES, ACCESSES), min_size=1, max_size=14)


@dataclass
class Model:
    """What is to happen. told: `(gpa, wanted)` of what VTL1 is told of by the access under way."""

    memory: bytearray
    rights: list[int] = field(default_factory=lambda: [ALL] * PAGES)
    told: list[tuple[int, int]] = field(default_factory=list)
    stopped: bool = False

    def may(self, at: int, size: int, wanted: int, *, opened: bool) -> bool:
        """Whether an access happens, maybe after VTL1 was told; page by page in their order."""
        for page in range(at // PAGE, (at + size - 1) // PAGE + 1):
            if self.rights[page] & wanted:
                continue
            self.told.append((DATA + max(at, page * PAGE), wanted))
            if not opened:
                self.stopped = True
                return False
            self.rights[page] = ALL
        return True

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.memory[at : at + size], "little")

    def put(self, at: int, size: int, value: int) -> None:
        self.memory[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def access(self, access: Access) -> dict[str, int]:
        """Do it. Registers afterwards, as far as they depend on it."""
        self.told, self.stopped = [], False
        at, size, opened = access.at, access.size, access.opened
        if access.kind == "load":
            if not self.may(at, size, READ, opened=opened):
                return {}
            kept = 0 if size >= 4 else VALUE & ~((1 << 8 * size) - 1)
            return {"rax": kept | self.number(at, size)}
        if access.kind == "store":
            if self.may(at, size, WRITE, opened=opened):
                self.put(at, size, VALUE)
            return {}
        if access.kind in ("add", "xadd"):
            if not self.may(at, 8, WRITE, opened=opened):
                return {}
            found = self.number(at, 8)
            self.put(at, 8, found + VALUE)
            return {"rax": found} if access.kind == "xadd" else {}
        if access.kind == "push":
            if not self.may(at, 8, WRITE, opened=opened):
                return {"rsp": DATA + at + 8}
            self.put(at, 8, VALUE)
            return {"rsp": DATA + at}
        if access.kind == "pop":
            if not self.may(at, 8, READ, opened=opened):
                return {"rsp": DATA + at}
            return {"rsp": DATA + at + 8, "rax": self.number(at, 8)}
        if access.kind == "jump":
            self.may(at // PAGE * PAGE + LANDING, len(END), EXECUTE, opened=opened)
            return {}
        return self._string(access)

    def _string(self, access: Access) -> dict[str, int]:
        done = 0
        moves = access.kind == "movs"
        while done < access.count:
            source, target = access.other + done, access.at + done
            if moves and not self.may(source, 1, READ, opened=access.opened):
                break
            if not self.may(target, 1, WRITE, opened=access.opened):
                break
            self.put(target, 1, self.memory[source] if moves else VALUE)
            done += 1
        registers = {"rdi": DATA + access.at + done, "rcx": access.count - done}
        return registers | ({"rsi": DATA + access.other + done} if moves else {})


def begin(world: World, access: Access) -> None:
    """The vCPU is before the instruction."""
    gva = DATA + access.at
    if access.kind == "load":
        world.start(bytes.fromhex(LOADS[access.size]), access.ring, rdi=gva, rax=VALUE)
    elif access.kind == "store":
        world.start(bytes.fromhex(STORES[access.size]), access.ring, rdi=gva, rax=VALUE)
    elif access.kind in ("add", "xadd"):
        code = "480107" if access.kind == "add" else "f0480fc107"
        world.start(bytes.fromhex(code), access.ring, rdi=gva, rax=VALUE)
    elif access.kind == "push":
        world.start(b"\x50", access.ring, rsp=gva + 8, rax=VALUE)
    elif access.kind == "pop":
        world.start(b"\x58", access.ring, rsp=gva, rax=0)
    elif access.kind == "jump":
        world.start(b"\xff\xe0", access.ring, rax=gva // PAGE * PAGE + LANDING)
    else:
        code = "f3a4" if access.kind == "movs" else "f3aa"
        others = {"rsi": DATA + access.other} if access.kind == "movs" else {"rax": VALUE}
        world.start(bytes.fromhex(code), access.ring, rdi=gva, rcx=access.count, **others)


def written_in_part(world: World, model: Model, access: Access, before: bytes, after: bytes) -> bool:
    """Whether a refused write to two pages has changed what it may change of them, as emulated ring 0 does: KVM writes
    its part of a page that is mapped before it tells of the other, be that the first or the second."""
    if world.hardware or access.ring or access.kind not in ("store", "add", "xadd", "push"):
        return False
    size = access.size if access.kind == "store" else 8
    changed = [offset for offset in range(len(before)) if before[offset] != after[offset]]
    operand = range(access.at, access.at + size)
    return all(offset in operand and model.rights[offset // PAGE] & WRITE for offset in changed)


def check(world: World, model: Model, access: Access) -> None:
    before = bytes(model.memory)
    registers = model.access(access)
    world.grant = access.opened
    world.told = []
    begin(world, access)

    ended = world.run()

    found = world.ram.read(DATA, PAGES * PAGE)
    assert [(one.access.gpa, one.access.wanted) for one in ended.told] == model.told
    assert ended.vector is None
    if (
        model.stopped
        and found != bytes(model.memory)
        and written_in_part(world, model, access, before, found)
    ):
        model.memory[:] = found
    assert found == bytes(model.memory)
    if model.stopped:
        at = (
            DATA + access.at // PAGE * PAGE + LANDING
            if access.kind == "jump"
            else (CODE, USER_CODE)[access.ring == 3]
        )
        assert ended.registers.rip == at
    have = {**ended.registers.general, "rsp": ended.registers.rsp}
    assert {name: have[name] for name in registers} == registers
    assert [world.rights.get((DATA >> 12) + page, ALL) for page in range(PAGES)] == model.rights


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(sequence=SEQUENCES)
@pytest.mark.tlfs("VSM-077", "VSM-078", "VSM-080")
def test_kvm_and_model_never_differ(sequence: list[Change | Access]) -> None:
    run(sequence)


def run(sequence: Sequence[Change | Access]) -> None:
    """All steps on KVM and on the model."""
    with new_world() as world:
        for page in range(PAGES):
            world.ram.write(
                DATA + page * PAGE, struct.pack("<1024I", *range(page << 16, (page << 16) + 1024))
            )
            world.ram.write(DATA + page * PAGE + LANDING, END)
        model = Model(bytearray(world.ram.read(DATA, PAGES * PAGE)))
        for step in sequence:
            if currently_in_test_context():
                note(f"rights {model.rights}")
            if isinstance(step, Change):
                assert world.restrict(DATA + step.page * PAGE, step.rights) == 0
                model.rights[step.page] = step.rights
            else:
                check(world, model, step)
