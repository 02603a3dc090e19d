# SPDX-License-Identifier: Apache-2.0
"""No VTL gains a right by itself: every state of the rights to one page, and every call of every VTL in each.

Three VTLs, of which VTL1 and VTL2 own protections. From power-on each VTL tries to write HvRegisterVsmPartitionConfig
of each, and to give each VTL each kind of rights. Behind each call:

- a VTL has no more rights than before, unless one above it made the call;
- who is above the caller, and the caller itself, have the rights that they had;
- what an owner has given is changed by its own calls only, or, for its default mask, by those of a VTL above it;
- the host enforces exactly what the table says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.pure.hv.tables import Announce
from tests.pure.vsm.protected import CONFIG, ENABLE, PAGE, Protected
from vmm.hv.register_bits import HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.status import HvStatus
from vmm.vsm.config import CONFIG_AT_RESET
from vmm.vsm.rights import ALL
from vmm.vsm.vp import VsmVp

VTLS = range(3)
GPN = 1
FLAGS = (0x0, 0x1, 0x3, 0xD, 0xF, 0x2)
MASKS = (0x3, 0xF, 0x1)
Config = HV_REGISTER_VSM_PARTITION_CONFIG


class State(NamedTuple):
    """Owners that have enabled protection, and what they give: `(owner, VTL, rights)`."""

    enabled: frozenset[int]
    given: frozenset[tuple[int, int, int]]

    def of(self, vtl: int) -> int:
        """The rights of a VTL."""
        rights = ALL
        for owner, restricted, given in self.given:
            if restricted == vtl and owner > vtl:
                rights &= given
        return rights

    def by(self, owner: int) -> dict[int, int]:
        """What an owner has given to others, where that is not everything."""
        return {vtl: rights for who, vtl, rights in self.given if who == owner and rights != ALL}


class Explorer:
    def __init__(self) -> None:
        self.scene = Protected(vtl=2, ram=[(0, 8 * PAGE)])
        self.partition = self.scene.world.partition
        self.vp: VsmVp = self.partition.vps[0]
        self.calls = 0

    def state(self) -> State:
        enabled = frozenset(
            vtl for vtl, config in self.partition.configs.items() if config.EnableVtlProtection
        )
        given = frozenset(
            (owner, vtl, table.get(GPN))
            for vtl in VTLS
            for owner, table in self.scene.rights.tables[vtl]
            if table.get(GPN) != ALL
        )
        return State(enabled, given)

    def put(self, state: State) -> None:
        """By the same calls, made by their owners."""
        self.scene.rights.reset()
        self.scene.host.changes.clear()
        self.partition.configs = {}
        for owner in state.enabled:
            self.partition.configs[owner] = CONFIG_AT_RESET.replace(EnableVtlProtection=1)
        for owner, vtl, rights in state.given:
            flags = rights & 3 | (0xC if rights & 4 else 0)
            assert self.scene.rights.modify(owner, vtl, flags, [GPN])[0] == HvStatus.SUCCESS

    def enforced(self, vtl: int) -> int:
        rights = ALL
        for restricted, change in self.scene.host.changes:
            if restricted == vtl and change.gpn <= GPN < change.gpn + change.pages:
                rights = change.rights
        return rights

    def run(self, vtl: int) -> None:
        """Have a VTL active, whatever else is."""
        self.vp.entered = sum(1 << each for each in VTLS if 0 < each <= vtl)
        self.vp.active = vtl

    def calls_of(self, caller: int) -> Iterator[tuple[str, int]]:
        """Each call with each argument: its name, and the status."""
        scene = self.scene
        for target in (None, *VTLS):
            for flags in FLAGS:
                yield "modify", scene.modify(flags, GPN, vtl=target)[0]
            for mask in MASKS:
                for enable in (0, ENABLE):
                    yield "config", scene.caller().set((CONFIG, mask << 1 | enable), vtl=target)

    def explore(self) -> int:
        """How many states there are."""
        first = self.state()
        seen, todo = {first}, [first]
        while todo:
            before = todo.pop()
            for caller in VTLS:
                for after in self.successors(before, caller):
                    if after not in seen:
                        seen.add(after)
                        todo.append(after)
        return len(seen)

    def successors(self, before: State, caller: int) -> Iterator[State]:
        self.put(before)
        self.run(caller)
        for name, status in self.calls_of(caller):
            self.calls += 1
            after = self.state()
            self.check(before, after, caller, name, status)
            if after != before:
                yield after
                self.put(before)
                self.run(caller)

    def check(self, before: State, after: State, caller: int, name: str, status: int) -> None:
        for vtl in VTLS:
            assert self.scene.rights.rights(vtl, GPN) == after.of(vtl) == self.enforced(vtl)
            if vtl >= caller:
                assert after.of(vtl) == before.of(vtl), f"VTL{caller} changed the rights of VTL{vtl}"
        for owner in VTLS:
            if owner > caller or (owner != caller and name == "modify"):
                assert after.by(owner) == before.by(owner), f"VTL{caller} changed what VTL{owner} has given"
            if owner != caller and owner not in before.enabled and owner in after.enabled:
                assert owner < caller and name == "config"
        assert before.enabled <= after.enabled, "protection is enabled until a reset"
        if status != HvStatus.SUCCESS:
            assert after == before
        if name == "modify" and caller not in before.enabled:
            assert status == HvStatus.ACCESS_DENIED


@pytest.mark.timeout(1800)
@pytest.mark.tlfs("VSM-007", "VSM-008", "VSM-073", "VSM-074", "VSM-078", "VSM-079")
def test_no_vtl_gains_a_right_by_itself(announce: Announce) -> None:
    explorer = Explorer()

    states = explorer.explore()

    announce(f"rights of three VTLs to a page: {states:,} states, {explorer.calls:,} calls")
    assert states > 100
