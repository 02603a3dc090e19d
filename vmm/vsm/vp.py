# SPDX-License-Identifier: Apache-2.0
"""`VsmVp`: which VTL of one virtual processor runs, and what makes another one run (TLFS 15.6, 15.7, 15.12).

Three sets of VTLs, each a mask with bit N for VTL N, and one flag say everything:

| | a VTL is in it | changed by |
|---|---|---|
| `enabled` | from HvCallEnableVpVtl to reset; VTL0 always | any VP, under the partition's lock |
| `startable` | when it has a state to run with: all enabled ones but VTL0 in wait-for-startup | same |
| `entered` | a VTL above 0: from its entry to its VTL return | this VP's thread; the VP's first start |
| `started` | the VP: from its start to a reset or INIT; before, no interrupt enters any VTL | any VP, under the lock |

Runnable are the entered VTLs, and VTL0 where it is startable. The active VTL is the highest entered one, else VTL0, so
there is never more than one, and a lower one never preempts a higher one.

Implements: VSM-053, IMP-010, IMP-011
"""

from __future__ import annotations

from typing import Final

from vmm.hv.constants import HV_NUM_VTLS_ARCHITECTURAL
from vmm.hv.register_bits import HV_REGISTER_VSM_VP_STATUS
from vmm.hv.vp_pages import HvVtlEntryReason
from vmm.vsm.actions import (
    RaiseVina,
    ReturnRegisters,
    Run,
    Step,
    SwitchReason,
    SwitchVtl,
    WaitForStartup,
    WaitForTlbLock,
)
from vmm.vsm.profile import Rules
from vmm.vsm.tlb_locks import TlbLocks
from vmm.vsm.vtl import VpVtl

_CALL: Final = int(HvVtlEntryReason.HvVtlEntryVtlCall)
_ENTRY_REASONS: Final = {
    SwitchReason.CALL: _CALL,
    SwitchReason.INTERRUPT: int(HvVtlEntryReason.HvVtlEntryInterrupt),
    SwitchReason.INTERCEPT: int(HvVtlEntryReason.HvVtlEntryIntercept),
}
FAST_RETURN: Final = 1
"""Bit 0 of VTL return's control value."""


def highest(vtls: int) -> int:
    """The highest VTL of a set that is not empty: of the runnable ones, the one that runs."""
    return vtls.bit_length() - 1


def next_above(vtl: int, vtls: int) -> int | None:
    """The lowest VTL of a set that is higher than `vtl` (VSM-054)."""
    above = vtls >> vtl + 1
    return None if not above else vtl + (above & -above).bit_length()


class VsmVp:
    """The VTLs of one VP. What its thread alone may call says so; the rest is thread-safe."""

    __slots__ = (
        "_rules",
        "_runs",
        "_switches",
        "_tlb_locks",
        "active",
        "enabled",
        "entered",
        "index",
        "mbec",
        "startable",
        "started",
        "vtls",
    )

    def __init__(self, index: int, vtl0: VpVtl, rules: Rules, tlb_locks: TlbLocks, *, started: bool) -> None:
        """started: whether it runs after power-on, as the boot processor does."""
        self.index = index
        self._rules = rules
        self._tlb_locks = tlb_locks
        self.vtls: dict[int, VpVtl] = {0: vtl0}
        self._switches: dict[tuple[int, int], SwitchVtl] = {}
        self._runs = tuple(Run(index, vtl) for vtl in range(HV_NUM_VTLS_ARCHITECTURAL))
        self.reset(started=started)

    def reset(self, *, started: bool) -> None:
        """The state after power-on; the VP does not run. VTL0's own state is new (VSM-021)."""
        vtl0 = self.vtls[0]
        self.vtls = {0: VpVtl(vtl0.assist, vtl0.msrs)}
        self.enabled = 1
        self.mbec = 0
        self.startable = 1 if started else 0
        self.started = started
        self.entered = 0
        self.active = 0

    @property
    def runnable(self) -> int:
        """The VTLs that have something to do."""
        return self.entered | self.startable & 1 if self.started else 0

    @property
    def status(self) -> HV_REGISTER_VSM_VP_STATUS:
        """HvRegisterVsmVpStatus.

        Implements: VSM-003, LNX-006
        """
        return HV_REGISTER_VSM_VP_STATUS.make(
            ActiveVtl=self.active,
            ActiveMbecEnabled=self.mbec >> self.active & 1,
            EnabledVtlSet=self.enabled,
        )

    # ---- under the partition's lock ------------------------------------------------------------------

    def add_vtl(self, vtl: int, state: VpVtl) -> None:
        """A VTL with its initial context; it does not run by this.

        Implements: VSM-032
        """
        self.vtls[vtl] = state  # before the sets: whoever sees the VTL in one finds its state
        self.enabled |= 1 << vtl
        self.startable |= 1 << vtl

    def start(self, vtl: int) -> None:
        """Leave wait-for-startup: VTL0 by INIT and SIPI, any by HvCallStartVirtualProcessor. Its registers are set.

        A VP that ran nothing begins with its highest VTL, and each return from there goes one down.

        Implements: VP-004
        """
        self.startable |= 1 << vtl
        if not self.started:
            self.entered = self.startable & ~1
            self.active = highest(self.entered) if self.entered else 0
            self.started = True  # last: the VP's thread looks at this first

    def init(self) -> None:
        """INIT of a VP without higher VTLs: back to wait-for-startup. Its thread runs no guest code."""
        self.startable &= ~1
        self.started = False

    def wake(self) -> None:
        """S3 has ended: VTL0 waits for its start. Higher VTLs are as they were, and run where they have something to
        do."""
        if self.enabled == 1:
            self.init()
        else:
            self.startable &= ~1

    # ---- on the VP's thread --------------------------------------------------------------------------

    def vtl_call(self) -> SwitchVtl | None:
        """HvCallVtlCall of the active VTL; None: #UD, there is no higher VTL. RIP moves before the switch.

        Implements: VSM-040, VSM-054
        """
        source = self.active
        target = next_above(source, self.enabled)
        if target is None:
            return None
        self.entered |= 1 << target
        self.active = target
        self.vtls[target].enter(_CALL)
        return self._switch(source, target, SwitchReason.CALL)

    def vtl_return(self, control: int, *, bits_64: bool) -> SwitchVtl | None:
        """HvCallVtlReturn of the active VTL; None: #UD, it is the lowest. RIP moves before the switch.

        control: bit 0 says whether it is a fast return. bits_64: the mode of the VTL that returns.

        Implements: VSM-042, VSM-045, VSM-046, VSM-056, OHCL-010
        """
        source = self.active
        if source == 0:
            return None
        state = self.vtls[source]
        if state.tlb_locks:
            self._tlb_locks.release(self.index, source)
        self.entered &= ~(1 << source)
        target = self.active = highest(self.entered) if self.entered else 0
        if control & FAST_RETURN:
            return self._switch(source, target, SwitchReason.RETURN)
        page = state.assist
        registers = ReturnRegisters(*(page.return_registers() if bits_64 else page.return_registers_x86()))
        return SwitchVtl(self.index, source, target, SwitchReason.RETURN, registers)

    def _switch(self, source: int, target: int, reason: SwitchReason) -> SwitchVtl:
        """A switch with nothing beside: calls go up and fast returns go down, so one is kept for each pair."""
        switch = self._switches.get((source, target))
        if switch is None:
            switch = self._switches[source, target] = SwitchVtl(self.index, source, target, reason)
        return switch

    def enter(self, vtl: int, reason: SwitchReason) -> SwitchVtl:
        """Run `vtl`, enabled and above the active one, for an interrupt or intercept of its own.

        Intercepts by message are interrupts (VSM-100); by intercept page they come here with their own reason.

        Implements: VSM-047
        """
        source = self.active
        self.entered |= 1 << vtl
        self.active = vtl
        self.vtls[vtl].enter(_ENTRY_REASONS[reason])
        store = reason is SwitchReason.INTERRUPT and self._rules.store_interrupted_registers
        return SwitchVtl(self.index, source, vtl, reason, store_registers=store)

    def next_step(self, entering: int, taking: int) -> Step:
        """What the VP does now; called before it runs a VTL, and again after each step that is done.

        entering: bit N: the local APIC of VTL N would deliver an interrupt or NMI, RFLAGS.IF aside. taking: bit N: VTL
        N would take it at once, RFLAGS.IF and interrupt shadow included. Only enabled VTLs count.

        Implements: VSM-055, VSM-124, VSM-125, VSM-126, VSM-127, VSM-128, VSM-136
        """
        if not self.started:
            return WaitForStartup(self.index)
        active = self.active
        above = (entering & self.enabled) >> active + 1
        if above:
            return self.enter(active + above.bit_length(), SwitchReason.INTERRUPT)
        state = self.vtls[active]
        if state.waits_for:
            return WaitForTlbLock(self.index, active)
        if state.vina_enabled and taking & self.enabled & (1 << active) - 1 and not state.vina_asserted:
            return self._raise_vina(state)
        if not active and not self.startable & 1:
            return WaitForStartup(self.index)
        return self._runs[active]

    def _raise_vina(self, state: VpVtl) -> RaiseVina:
        """Implements: VSM-132, VSM-134"""
        state.assert_vina()
        return RaiseVina(self.index, self.active, state.vina.Vector, state.vina.AutoEoi)
