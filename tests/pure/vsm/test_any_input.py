# SPDX-License-Identifier: Apache-2.0
"""Random guests: all VPs make hypercalls of every kind with any values, take interrupts, switch and reset.

Nothing may raise, and what has to be true of a partition is true after each step. A run is a seed, which a failure
names. `VMM_VSM_STEPS` sets the number of steps of a seed.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from tests.pure.hv.tables import Announce
from tests.pure.vsm.protected import HOLE, RAM, Told
from tests.pure.vsm.test_exploration import check_state, state_of
from tests.pure.vsm.world import CONTEXT, SELF, VpCaller, World, input_vtl
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.constants import HV_ANY_VP, HV_VP_INDEX_SELF
from vmm.hv.inputs import HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS, HV_INPUT_MODIFY_VTL_PROTECTION_MASK
from vmm.hv.layout import Layout
from vmm.hv.memory_bits import HV_MAP_GPA_FLAGS
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.vsm.actions import RaiseVina, Run, SwitchVtl, WaitForStartup, WaitForTlbLock
from vmm.vsm.profile import VsmProfile
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.register_homes import HOMES, Home
from vmm.vsm.rights import ALL
from vmm.vsm.vtl import TLB_LOCKED

STEPS = int(os.environ.get("VMM_VSM_STEPS", "2000"))
VPS, VTLS = 3, 3
NAMES = list(Name)
OWN = [name for name in Name if HOMES[name] is Home.VSM]
VALUES = [0, 1, 2, 3, 0x17, 0x1F, 0x3E, 0x5F, 0x7E, 0x130, 0x330, (1 << 64) - 1, 1 << 64, 1 << 127]


PAGES = [*range(HOLE)] * 4 + [2 * HOLE, 3 * HOLE - 1, HOLE, 3 * HOLE, (1 << 64) - 1]


def block(header: Layout, pages: list[int]) -> bytes:
    """A header and a list of page numbers."""
    return header.pack() + b"".join(page.to_bytes(8, "little") for page in pages)


class Guest:
    """Does something at random, and checks."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        profile = self.random.choice(list(VsmProfile))
        self.rights = MemoryProtections(RAM, Told()) if self.random.random() < 0.7 else None
        self.world = World(
            vps=VPS,
            protections=self.rights,
            maximum_vtl=VTLS - 1,
            profile=profile,
            mbec_vtls=0b110,
        )
        self.partition = self.world.partition
        self.statuses: Counter[int] = Counter()
        self.restricted = 0
        """Steps behind which VTL0 lacked a right."""

    def step(self) -> None:
        """One thing, on one VP."""
        vp = self.random.randrange(VPS)
        machine = self.partition.vps[vp]
        before = {each.index: each.active for each in self.partition.vps}
        chance = self.random.random()
        if chance < 0.001:
            self.partition.reset()
        elif chance < 0.01:
            if self.partition.accepts_startup_signal(vp, self.random.randrange(VTLS)):
                self.partition.signalled(vp, waits=self.random.random() < 0.5)
        elif chance < 0.2:
            machine.next_step(self.random.getrandbits(4), self.random.getrandbits(4))
        elif machine.started and machine.runnable >> machine.active & 1:
            self.hypercall(self.world.caller(vp))
            # Only its own thread switches a VP that runs.
            for other, active in before.items():
                if other != vp and self.partition.vps[other].started:
                    assert self.partition.vps[other].active == active or active == 0
        self.check()

    def hypercall(self, caller: VpCaller) -> None:
        """Any call."""
        pick = self.random.choice
        vtl = pick([*range(VTLS)] * 3 + [VTLS])
        vp = pick([*range(VPS)] * 4 + [HV_VP_INDEX_SELF] * 4 + [VPS, HV_ANY_VP])
        match self.random.randrange(9):
            case 0:
                status = caller.enable_partition_vtl(pick([vtl, 16, 255]), self.random.getrandbits(2))
            case 1:
                context = CONTEXT.replace(Cr0=pick([CONTEXT.Cr0] * 3 + [0, 1 << 40]))
                status = caller.enable_vp_vtl(vp, vtl, context)
            case 2:
                status = caller.start_vp(vp, vtl)
            case 3:
                status = caller.get(*self.names(), vp=vp, vtl=pick([None, None, vtl]))
            case 4:
                pairs = [(name, pick(VALUES) & ((1 << 128) - 1)) for name in self.names()]
                status = caller.set(*pairs, vp=vp, vtl=pick([None, None, vtl]))
            case 5:
                status = self.protect(caller, vtl)
            case 6:
                header = HV_INPUT_CHECK_SPARSE_GPA_PAGE_VTL_ACCESS(
                    SELF, input_vtl(vtl), pick([*range(16), 255])
                )
                pages = [pick(PAGES) for _ in range(3)]
                status = caller.status(
                    Code.HvCallCheckSparseGpaPageVtlAccess, block(header, pages), len(pages)
                )
            case 7:
                source = caller.vtl
                switch = caller.switch_by(Code.HvCallVtlCall, pick([0, 0, 0, 1]))
                assert switch is None or (switch.source, switch.target > source) == (source, True)
                return
            case _:
                source = caller.vtl
                switch = caller.switch_by(Code.HvCallVtlReturn, pick([0, 1, 2]))
                assert switch is None or (switch.source, switch.target < source) == (source, True)
                return
        self.statuses[status] += 1

    def protect(self, caller: VpCaller, vtl: int) -> int:
        """HvCallModifyVtlProtectionMask, often of a VTL that may protect."""
        if self.random.random() < 0.5:
            caller.set((Name.HvRegisterVsmPartitionConfig, self.random.choice([0x07, 0x1F, 0x1F])))
        flags = HV_MAP_GPA_FLAGS(self.random.choice([*range(16), 0xF, 0xF, self.random.getrandbits(32)]))
        pages = [self.random.choice(PAGES) for _ in range(self.random.choice([1, 1, 5, 70]))]
        target = input_vtl(self.random.choice([None, vtl]))
        header = HV_INPUT_MODIFY_VTL_PROTECTION_MASK(SELF, flags, target)
        return caller.status(Code.HvCallModifyVtlProtectionMask, block(header, pages), len(pages))

    def names(self) -> list[int]:
        """Registers, VSM's own more often."""
        pool = [*self.random.choices(OWN, k=4), self.random.choice(NAMES), self.random.getrandbits(32)]
        return self.random.sample(pool, self.random.choice([1, 1, 1, 2, 3]))

    def check(self) -> None:
        """What is true at any time."""
        partition = self.partition
        assert self.world.dispatcher.internal_errors == 0
        check_state(state_of(partition))
        for vp in partition.vps:
            assert vp.active == max((vtl for vtl in range(VTLS) if vp.entered >> vtl & 1), default=0)
            assert vp.vtls.keys() == {vtl for vtl in range(VTLS) if vp.enabled >> vtl & 1}
            held = 0
            for owner, state in vp.vtls.items():
                for lower, value in state.secure_config.items():
                    assert lower < owner
                    assert bool(value & TLB_LOCKED) == bool(state.tlb_locks >> lower & 1)
                    held |= bool(value & TLB_LOCKED) << lower
            for vtl in range(VTLS):
                assert partition.tlb_locks.blocks(vtl, 1 << vp.index) == bool(held >> vtl & 1)
        for vtl, config in partition.configs.items():
            assert vtl > 0
            assert not config & ~partition.offer.config_bits
        if self.rights is not None:
            self.restricted += self.rights.restricts(0)
            for vtl, tables in enumerate(self.rights.tables):
                for owner, table in tables:
                    assert owner > vtl and partition.configs[owner].EnableVtlProtection
                    assert table.get(HOLE) == ALL

    def rest(self) -> None:
        """With no interrupt each VP comes to rest in one step, or two where VINA is raised."""
        for vp in self.partition.vps:
            step = vp.next_step(0, 0)
            assert isinstance(step, Run | WaitForStartup | WaitForTlbLock)
            assert not isinstance(step, Run) or step.vtl == vp.active
            step = vp.next_step(0, 0b111)
            assert not isinstance(step, SwitchVtl)
            if isinstance(step, RaiseVina):
                assert not isinstance(vp.next_step(0, 0b111), RaiseVina)


@pytest.mark.parametrize("seed", range(8))
def test_random_guests_break_nothing(seed: int) -> None:
    guest = Guest(seed)

    for _ in range(STEPS):
        guest.step()
    guest.rest()


def test_random_guests_get_somewhere(announce: Announce) -> None:
    """They reach what they are to try: success, and each kind of refusal."""
    guest = Guest(1234)

    for _ in range(3 * STEPS):
        guest.step()

    named = {HvStatus.name_of(status) for status in guest.statuses}
    counts = ", ".join(f"{HvStatus.describe(status)} {n}" for status, n in guest.statuses.most_common())
    announce(f"random guests: {counts}; VTL0 restricted behind {guest.restricted:,} of {3 * STEPS:,} steps")
    assert guest.restricted > 0
    assert {
        "SUCCESS", "INVALID_PARAMETER", "ACCESS_DENIED", "INVALID_VP_INDEX", "INVALID_VP_STATE",
        "INVALID_REGISTER_VALUE", "INVALID_VTL_STATE",
    } <= named  # fmt: skip
