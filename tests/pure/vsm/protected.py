# SPDX-License-Identifier: Apache-2.0
"""A world in which VTLs protect memory: 32 pages of RAM from 0 on, and as many behind a hole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.pure.hypercall.fakes import control
from tests.pure.vsm.world import SELF, VpCaller, World, input_vtl
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.inputs import HV_INPUT_MODIFY_VTL_PROTECTION_MASK
from vmm.hv.memory_bits import HV_MAP_GPA_FLAGS
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus
from vmm.hypercall.convention import CallerMode, Outcome
from vmm.vsm.outside import RightsChange
from vmm.vsm.protections import MemoryProtections

PAGE = 4096
HOLE = 32
"""The first page that is not RAM; RAM goes on at twice that."""
RAM = ((0, HOLE * PAGE), (2 * HOLE * PAGE, HOLE * PAGE))
CONFIG = HvRegisterName.HvRegisterVsmPartitionConfig
ENABLE = 1


class Told:
    """A host that enforces everything and keeps what it was told."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, RightsChange]] = []
        self.answer = HvStatus.SUCCESS
        self.resets = 0

    def apply(self, vtl: int, changes: Sequence[RightsChange]) -> HvStatus:
        if self.answer == HvStatus.SUCCESS:
            self.changes += [(vtl, change) for change in changes]
        return self.answer

    def reset(self) -> None:
        self.resets += 1


class Protected:
    """Its VTLs up to `vtl` are enabled on VP 0, and `vtl` runs."""

    def __init__(self, vtl: int = 1, ram: Sequence[tuple[int, int]] = RAM, **limits: int) -> None:
        self.host = Told()
        self.rights = MemoryProtections(ram, self.host, **limits)
        self.world = World(protections=self.rights, maximum_vtl=vtl).enable(*range(1, vtl + 1))
        self.world.enter(0, vtl)

    def caller(self, **fields: Any) -> VpCaller:
        """VP 0 in its active VTL."""
        return self.world.caller(**fields)

    def enable(self, mask: int = 0xF, vtl: int | None = None) -> Protected:
        """EnableVtlProtection of the running VTL, or one below."""
        assert self.caller().set((CONFIG, ENABLE | mask << 1), vtl=vtl) == HvStatus.SUCCESS
        return self

    def modify(
        self,
        flags: int,
        *gpns: int,
        vtl: int | None = None,
        caller: VpCaller | None = None,
        partition: int = SELF,
    ) -> tuple[int, int]:
        """HvCallModifyVtlProtectionMask by the running VTL, made to its end: the status, and the reps done."""
        caller = caller or self.caller()
        header = HV_INPUT_MODIFY_VTL_PROTECTION_MASK(partition, HV_MAP_GPA_FLAGS(flags), input_vtl(vtl))
        caller.memory.write(0x1000, header.pack() + b"".join(gpn.to_bytes(8, "little") for gpn in gpns))
        word = control(Code.HvCallModifyVtlProtectionMask, RepCount=len(gpns))
        caller.registers.set_input(CallerMode.BITS_64, word, 0x1000, 0)
        outcome = Outcome.RETRY
        while outcome is Outcome.RETRY:
            outcome = self.world.dispatcher.dispatch(caller, caller.registers, CallerMode.BITS_64)
        result = caller.registers.result(CallerMode.BITS_64)
        return result.Status, result.RepsCompleted

    def of(self, vtl: int, *gpns: int) -> list[int]:
        """The rights of a VTL to pages."""
        return [self.rights.rights(vtl, gpn) for gpn in gpns]
