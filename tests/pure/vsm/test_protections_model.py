# SPDX-License-Identifier: Apache-2.0
"""The table of rights against one right per page: three VTLs, two owners, lists with holes, a host that refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.pure.hv.tables import Announce
from vmm.hv.register_bits import HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.status import HvStatus
from vmm.vsm.memory import VtlMemory
from vmm.vsm.outside import Refused, RightsChange
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import ALL

PAGE = 4096
RAM_PAGES = [*range(8), *range(11, 19)]
GPNS = range(20)
VTLS = range(3)
LEGAL = {0b0000: 0, 0b0001: 1, 0b0101: 5, 0b1001: 5, 0b1101: 5, 0b0011: 3, 0b0111: 7, 0b1011: 7, 0b1111: 7}
"""HV_MAP_GPA_FLAGS that a page can have, and the rights that they are."""
Config = HV_REGISTER_VSM_PARTITION_CONFIG
ACCESSES = (1, 2, 4)

steps: Counter[str] = Counter()


class Host:
    """Enforces what it is told, unless it is to refuse, and checks how it is told."""

    def __init__(self) -> None:
        self.pages: dict[tuple[int, int], int] = {}
        self.answers: list[bool] = []

    def apply(self, vtl: int, changes: Sequence[RightsChange]) -> HvStatus:
        pages = [page for change in changes for page in range(change.gpn, change.gpn + change.pages)]
        assert pages and set(pages) <= set(RAM_PAGES)
        assert pages == sorted(set(pages)), "a page is in two changes"
        if self.answers and not self.answers.pop(0):
            return HvStatus.INSUFFICIENT_MEMORY
        for change in changes:
            for page in range(change.gpn, change.gpn + change.pages):
                assert self.pages.get((vtl, page), ALL) != change.rights, "no change"
                self.pages[vtl, page] = change.rights
        return HvStatus.SUCCESS

    def reset(self) -> None:
        self.pages.clear()


class Ram:
    """Pages whose bytes nobody looks at."""

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(size)

    def write(self, gpa: int, data: object) -> None:
        pass

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        found = self.read(gpa, len(expected))
        if found == expected:
            self.write(gpa, new)
        return found

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        pass

    def ranges(self) -> list[tuple[int, int]]:
        return [(0, 8 * PAGE), (11 * PAGE, 8 * PAGE)]


class Protections(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.host = Host()
        self.real = MemoryProtections(Ram().ranges(), self.host)
        self.given: dict[tuple[int, int, int], int] = {}  # (owner, vtl, page)
        self.enabled: set[int] = set()
        self.memories = [VtlMemory(Ram(), self.real, vtl) for vtl in VTLS]

    def rights(self, vtl: int, page: int) -> int:
        rights = ALL
        for owner in VTLS:
            if owner > vtl:
                rights &= self.given.get((owner, vtl, page), ALL)
        return rights

    def give(self, owner: int, vtls: Sequence[int], pages: Sequence[int], rights: int) -> bool:
        """Whether the host takes it; else those VTLs that were changed get back what they had, if it takes that."""
        answers = iter([*self.host.answers, *[True] * len(vtls)])
        changed: list[tuple[int, dict[tuple[int, int, int], int]]] = []
        for vtl in vtls:
            old = [self.rights(vtl, page) for page in pages]
            before = {key: self.given.get(key, ALL) for key in [(owner, vtl, page) for page in pages]}
            self.given |= dict.fromkeys(before, rights)
            if old != [self.rights(vtl, page) for page in pages] and not next(answers):
                self.given |= before
                steps["refused by the host"] += 1
                for done, what in changed:
                    unchanged = [self.rights(done, page) for page in pages]
                    now = {key: self.given[key] for key in what}
                    self.given |= what
                    if unchanged != [self.rights(done, page) for page in pages] and not next(answers):
                        self.given |= now
                return False
            changed.append((vtl, before))
        return True

    @rule(owner=st.sampled_from([1, 2]), flags=st.sampled_from([0b0011, 0b0111, 0b1011, 0b1111]))
    def enable(self, owner: int, flags: int) -> None:
        """The write that sets EnableVtlProtection."""
        if owner in self.enabled:
            return
        steps["default mask"] += 1
        taken = self.give(owner, range(owner), RAM_PAGES, LEGAL[flags])
        new = Config.make(EnableVtlProtection=1, DefaultVtlProtectionMask=flags)

        status = self.real.configure(owner, Config(0), new)

        assert status == (HvStatus.SUCCESS if taken else HvStatus.INSUFFICIENT_MEMORY)
        if taken:
            self.enabled.add(owner)
            assert self.real.configure(owner, new, new.replace(DefaultVtlProtectionMask=0)) == 0

    @rule(
        caller=st.sampled_from([1, 2]),
        below=st.integers(0, 2),
        flags=st.one_of(st.sampled_from(sorted(LEGAL)), st.integers(0, 31)),
        gpns=st.lists(st.sampled_from(GPNS), min_size=1, max_size=12),
    )
    def modify(self, caller: int, below: int, flags: int, gpns: list[int]) -> None:
        if below > caller:
            return
        steps["modify"] += 1
        holes = [at for at, gpn in enumerate(gpns) if gpn not in RAM_PAGES]
        good = gpns[: holes[0]] if holes else gpns

        vtls = range(caller) if below == caller else [below]
        if flags not in LEGAL:
            expected = HvStatus.INVALID_REGISTER_VALUE, 0
        elif not self.give(caller, vtls, good, LEGAL[flags]):
            expected = HvStatus.INSUFFICIENT_MEMORY, 0
        else:
            steps["pages"] += len(good)
            expected = HvStatus.INVALID_PARAMETER if holes else HvStatus.SUCCESS, len(good)

        assert self.real.modify(caller, below, flags, gpns) == expected

    @rule(answers=st.lists(st.booleans(), max_size=4))
    def host_answers(self, answers: list[bool]) -> None:
        """Whether the host has memory for the next changes."""
        self.host.answers = answers

    @rule(
        vtl=st.sampled_from(VTLS),
        gpa=st.integers(0, 20 * PAGE),
        size=st.integers(0, 3 * PAGE),
        wanted=st.sampled_from(ACCESSES),
    )
    def access(self, vtl: int, gpa: int, size: int, wanted: int) -> None:
        steps["access"] += 1
        refused = [
            (max(gpa, page * PAGE), owner)
            for page in GPNS
            if page * PAGE < gpa + size and gpa < (page + 1) * PAGE
            for owner in VTLS
            if owner > vtl and size and not self.given.get((owner, vtl, page), ALL) & wanted
        ]
        expected = Refused(min(refused)[1], min(refused)[0]) if refused else None

        assert self.real.refusing(vtl, gpa, size, wanted) == expected

        memory = self.memories[vtl]
        try:
            {1: memory.read, 2: memory.require_writable, 4: memory.fetch}[wanted](gpa, size)
        except Exception as error:  # whichever: compared here
            assert expected is not None and getattr(error, "gpa", None) == expected.gpa
        else:
            assert expected is None

    @rule()
    def reset(self) -> None:
        self.real.reset()
        self.given.clear()
        self.enabled.clear()

    @invariant()
    def equals_the_model(self) -> None:
        for vtl in VTLS:
            effective = [self.rights(vtl, page) for page in GPNS]
            assert [self.real.rights(vtl, page) for page in GPNS] == effective
            assert [self.host.pages.get((vtl, page), ALL) for page in GPNS] == effective
            told: dict[int, int] = {}
            for change in self.real.restricted(vtl):
                assert change.rights != ALL
                told |= dict.fromkeys(range(change.gpn, change.gpn + change.pages), change.rights)
            assert [told.get(page, ALL) for page in GPNS] == effective
            assert self.real.restricts(vtl) or effective == [ALL] * len(GPNS)
            assert not self.memories[vtl].busy


@pytest.mark.timeout(600)
@pytest.mark.tlfs(
    "VSM-070", "VSM-072", "VSM-075", "VSM-077", "VSM-078", "VSM-079", "VSM-085", "VSM-106", "HC-005"
)
def test_rights_are_those_of_a_table_with_one_entry_per_page(announce: Announce) -> None:
    steps.clear()

    run_state_machine_as_test(
        Protections, settings=settings(max_examples=60, stateful_step_count=60, deadline=None)
    )

    announce(
        f"memory rights of VTLs and a model of them: {', '.join(f'{n:,} {name}' for name, n in sorted(steps.items()))}"
    )
