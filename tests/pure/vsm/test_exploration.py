# SPDX-License-Identifier: Apache-2.0
"""Every state that guests can bring a partition's VTLs into, and everything they can try in each of them.

A state is what `vmm.vsm` decides by: the partition's VTLs, each VP's enabled, entered and startable VTLs and whether it
has started, and which VTLs deny startup. From power-on, each VP that runs tries each call with each argument, and
interrupts come for each VTL. After each step the machine is compared with the rules, which are written down here a
second time, as sets and not as masks.

`VMM_VSM_EXPLORE=VTLSxVPS` (say 4x3) explores another size.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.pure.hv.tables import Announce
from tests.pure.vsm.world import CONTEXT, World
from vmm.hv.register_bits import HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus
from vmm.vsm.actions import Run, SwitchReason, SwitchVtl, WaitForStartup
from vmm.vsm.config import CONFIG_AT_RESET
from vmm.vsm.partition import VsmPartition
from vmm.vsm.registers import VSM_REGISTERS, RefusedRegisterError, Target
from vmm.vsm.vp import VsmVp
from vmm.vsm.vtl import VpVtl

DENY = CONFIG_AT_RESET.replace(DenyLowerVtlStartup=1)
_DENY_BIT = HV_REGISTER_VSM_PARTITION_CONFIG.DenyLowerVtlStartup.mask
SET_CONFIG = VSM_REGISTERS[HvRegisterName.HvRegisterVsmPartitionConfig].set


class Vp(NamedTuple):
    """One VP: masks with bit N for VTL N."""

    enabled: int = 1
    entered: int = 0
    startable: int = 0
    started: bool = False

    @property
    def active(self) -> int:
        return self.entered.bit_length() - 1 if self.entered else 0

    @property
    def runs(self) -> bool:
        return self.started and (self.entered > 0 or bool(self.startable & 1))


@functools.cache
def _new_vp(values: tuple[int, int, int, bool]) -> Vp:
    """One object for each value: they compare and hash faster."""
    return Vp(*values)


class State(NamedTuple):
    """The partition. denying: the VTLs that have set DenyLowerVtlStartup."""

    enabled: int
    denying: int
    vps: tuple[Vp, ...]


def state_of(partition: VsmPartition) -> State:
    """The state that a partition is in."""
    vps = tuple([_new_vp((vp.enabled, vp.entered, vp.startable, vp.started)) for vp in partition.vps])
    denying = 0
    for vtl, config in partition.configs.items():
        denying |= bool(config & _DENY_BIT) << vtl
    return State(partition.enabled, denying, vps)


@functools.cache
def members(mask: int) -> frozenset[int]:
    """A mask as a set."""
    return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def canonical(state: State) -> State:
    """VPs beside the boot VP are alike: states that differ only in their order are one."""
    return state._replace(vps=(state.vps[0], *sorted(state.vps[1:])))


class Explorer:
    """Puts one partition into states, tries everything there, and remembers the states that come of it."""

    def __init__(self, vtls: int, vps: int) -> None:
        self.vtls, self.vps = range(vtls), range(vps)
        self.partition = World(vps=vps, maximum_vtl=vtls - 1).partition
        services = self.partition.services
        states = {
            (vp, vtl): VpVtl(services.assist_page(vp, vtl), services.synthetic_msrs(vp, vtl))
            for vp in self.vps
            for vtl in self.vtls
        }
        self._vtls = {
            (vp, enabled): {vtl: states[vp, vtl] for vtl in members(enabled)}
            for vp in self.vps
            for enabled in range(1 << vtls)
        }
        self._context = World(vps=1).caller()
        self.power_on = state_of(self.partition)
        self.seen = {self.power_on}
        self.steps: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()

    def put(self, state: State) -> None:
        """Bring the partition into a state."""
        partition = self.partition
        partition.enabled = state.enabled
        partition.configs = dict.fromkeys(members(state.denying), DENY)
        for vp, wanted in zip(partition.vps, state.vps, strict=True):
            vp.enabled, vp.entered, vp.startable, vp.started = wanted
            vp.active = wanted.active
            vp.vtls = dict(self._vtls[vp.index, wanted.enabled])

    def explore(self) -> None:
        """All states that can be reached."""
        todo = [self.power_on]
        while todo:
            before = todo.pop()
            for name, after in self.successors(before):
                self.steps[name] += 1
                if after is before:
                    continue
                found = canonical(after)
                if found not in self.seen:
                    check_state(found)
                    self.seen.add(found)
                    todo.append(found)

    def successors(self, before: State) -> Iterator[tuple[str, State]]:
        """Each step from a state, and where it leads."""
        for vp in self.vps:
            if before.vps[vp].runs:
                yield from self._calls(before, vp, before.vps[vp].active)
            yield from self._interrupts(before, vp)

    def _finish(self, name: str, before: State, done: bool, expected: bool) -> State:
        """Compare a call's success with the rule; the state behind it."""
        assert done == expected, f"{name}: {'accepted' if done else 'refused'} in {before}"
        if not done:
            assert state_of(self.partition) == before, f"{name}: refused, but changed {before}"
            return before
        self.accepted[name] += 1
        after = state_of(self.partition)
        self.put(before)
        return after

    def _calls(self, before: State, vp: int, caller: int) -> Iterator[tuple[str, State]]:
        self.put(before)
        partition, own = self.partition, self.partition.vps[vp]

        for vtl in (*self.vtls, len(self.vtls)):
            status = partition.enable_partition_vtl(caller, vtl, 0)
            expected = (
                vtl in self.vtls
                and vtl not in members(before.enabled)
                and may_enable(before.enabled, caller, vtl)
            )
            after = self._finish("EnablePartitionVtl", before, status == HvStatus.SUCCESS, expected)
            assert not expected or after == before._replace(enabled=before.enabled | 1 << vtl)
            yield "EnablePartitionVtl", after

        for target in self.vps:
            for vtl in self.vtls:
                yield "EnableVpVtl", self._enable_vp_vtl(before, vp, caller, target, vtl)
                if vtl <= caller and target != vp:
                    yield "StartVirtualProcessor", self._start(before, vp, caller, target, vtl)
            yield "INIT", self._signal("INIT", before, caller, target)
            yield "SIPI", self._signal("SIPI", before, caller, target)

        for vtl in range(caller + 2):
            yield "VsmPartitionConfig", self._deny(before, vp, caller, vtl)

        higher = {vtl for vtl in members(before.vps[vp].enabled) if vtl > caller}
        step = own.vtl_call()
        after = self._finish("VtlCall", before, step is not None, bool(higher))
        assert not higher or after.vps[vp].active == min(higher)
        yield "VtlCall", after

        step = own.vtl_return(1, bits_64=True)
        after = self._finish("VtlReturn", before, step is not None, caller > 0)
        assert caller == 0 or after.vps[vp].entered == before.vps[vp].entered & ~(1 << caller)
        yield "VtlReturn", after

    def _enable_vp_vtl(self, before: State, vp: int, caller: int, target: int, vtl: int) -> State:
        status = self.partition.enable_vp_vtl(vp, caller, target, vtl, CONTEXT)
        anywhere = any(vtl in members(each.enabled) for each in before.vps)
        expected = (
            vtl > 0
            and vtl in members(before.enabled)
            and vtl not in members(before.vps[target].enabled)
            and (
                caller >= vtl
                if anywhere
                else may_enable(before.enabled, caller, vtl) and (caller > vtl or target == vp)
            )
        )
        after = self._finish("EnableVpVtl", before, status == HvStatus.SUCCESS, expected)
        if expected:
            was = before.vps[target]
            added = was._replace(enabled=was.enabled | 1 << vtl, startable=was.startable | 1 << vtl)
            assert after == replaced(before, target, added)
        return after

    def _start(self, before: State, vp: int, caller: int, target: int, vtl: int) -> State:
        partition, was = self.partition, before.vps[target]
        denied = partition.start_denied(target, caller)
        assert denied == any(owner > caller for owner in members(before.denying))
        if denied or not partition.has_vtl(target, vtl):
            return before  # the handler asks first; test_startup.py goes through it
        status = partition.start(vp, target, vtl, CONTEXT)
        expected = not was.startable & 1 if vtl == 0 else not was.started
        after = self._finish("StartVirtualProcessor", before, status == HvStatus.SUCCESS, expected)
        if expected:
            startable = was.startable | 1 << vtl
            entered = was.entered if was.started else startable & ~1
            assert after == replaced(
                before, target, was._replace(startable=startable, entered=entered, started=True)
            )
        return after

    def _signal(self, name: str, before: State, caller: int, target: int) -> State:
        """From the caller's local APIC to the target's of the same VTL. The backend asks, KVM does it and is asked."""
        was = before.vps[target]
        heard = caller == 0 and members(was.enabled) == {0} and not before.denying
        assert self.partition.accepts_startup_signal(target, caller) == heard, f"{name} in {before}"
        if not heard:
            return before
        self.partition.signalled(target, waits=name == "INIT")
        expected = (was.started and target != 0) if name == "INIT" else not was.started
        after = self._finish(name, before, state_of(self.partition) != before, expected)
        changed = was._replace(startable=name == "SIPI", started=name == "SIPI")
        assert not expected or after == replaced(before, target, changed)
        return after

    def _deny(self, before: State, vp: int, caller: int, vtl: int) -> State:
        """DenyLowerVtlStartup on and off. The dispatcher refuses a VTL above the caller, so it is not asked here."""
        if vtl > caller or vtl not in members(before.vps[vp].enabled):
            return before
        assert SET_CONFIG is not None
        value = CONFIG_AT_RESET if before.denying >> vtl & 1 else DENY
        try:
            SET_CONFIG(self.partition, Target(self._context, self.partition.vps[vp], vtl), value)
        except RefusedRegisterError:
            assert vtl == 0
            return before
        return self._finish("VsmPartitionConfig", before, True, vtl > 0)

    def _interrupts(self, before: State, vp: int) -> Iterator[tuple[str, State]]:
        self.put(before)
        own = self.partition.vps[vp]
        was = before.vps[vp]
        for pending in range(1 << len(self.vtls)):
            step = own.next_step(pending, 0)
            after = state_of(self.partition)
            above = [vtl for vtl in members(pending & was.enabled) if vtl > was.active]
            if above and was.started:
                assert step == SwitchVtl(vp, was.active, max(above), SwitchReason.INTERRUPT)
                assert after == replaced(before, vp, was._replace(entered=was.entered | 1 << max(above)))
                self.put(before)
                self.accepted["interrupt"] += 1
                yield "interrupt", after
            else:
                assert after == before
                check_rest(own, was, step)
                yield "interrupt", before


def may_enable(enabled: int, caller: int, vtl: int) -> bool:
    """VSM-023: a VTL below, or one above when no enabled VTL lies between."""
    return caller > vtl or not any(caller < other < vtl for other in members(enabled))


def replaced(state: State, vp: int, changed: Vp) -> State:
    """A state in which one VP is another."""
    return state._replace(vps=(*state.vps[:vp], changed, *state.vps[vp + 1 :]))


def check_rest(vp: VsmVp, was: Vp, step: object) -> None:
    """Without an interrupt for a higher VTL a VP runs its one active VTL, or waits for startup."""
    assert step == (Run(vp.index, was.active) if was.runs else WaitForStartup(vp.index))


def check_state(state: State) -> None:
    """What is true of every state."""
    assert 0 in members(state.enabled)
    assert 0 not in members(state.denying)
    for vp in state.vps:
        enabled, entered, startable = members(vp.enabled), members(vp.entered), members(vp.startable)
        assert 0 in enabled
        assert enabled <= members(state.enabled), "a VP has a VTL that the partition has not"
        assert 0 not in entered
        assert entered <= enabled, "a VTL runs that is not enabled"
        assert enabled - {0} <= startable <= enabled
        assert vp.started or not entered, "a VTL of a VP runs that has not been started"
        assert not vp.started or startable, "a started VP has nothing to run"


def sizes() -> list[tuple[int, int]]:
    """(VTLs, VPs) to explore."""
    wanted = os.environ.get("VMM_VSM_EXPLORE")
    if wanted:
        vtls, vps = wanted.split("x")
        return [(int(vtls), int(vps))]
    return [(2, 3), (3, 3)]


@pytest.mark.timeout(3600)
@pytest.mark.tlfs("VSM-023", "VSM-028", "VSM-029", "VSM-053", "VSM-054", "VSM-129", "IMP-011")
@pytest.mark.parametrize(("vtls", "vps"), sizes(), ids=lambda n: str(n))
def test_every_state_and_step_keeps_the_rules(vtls: int, vps: int, announce: Announce) -> None:
    explorer = Explorer(vtls, vps)

    explorer.explore()

    steps, accepted = sum(explorer.steps.values()), sum(explorer.accepted.values())
    announce(
        f"VTL state machine, {vtls} VTLs, {vps} VPs: {len(explorer.seen):,} states, {steps:,} steps, "
        f"{accepted:,} accepted ({', '.join(f'{name} {n:,}' for name, n in sorted(explorer.accepted.items()))})"
    )
    assert set(explorer.accepted) == {
        "EnablePartitionVtl", "EnableVpVtl", "INIT", "SIPI", "StartVirtualProcessor", "VsmPartitionConfig",
        "VtlCall", "VtlReturn", "interrupt",
    }  # fmt: skip
