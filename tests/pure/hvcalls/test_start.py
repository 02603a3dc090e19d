# SPDX-License-Identifier: Apache-2.0
"""HvCallStartVirtualProcessor as a guest makes it."""

from __future__ import annotations

import struct

import pytest

from tests.pure.hvcalls.contexts import context, real_mode_context
from tests.pure.hvcalls.rig import VpContext
from tests.pure.hypercall.fakes import Caller, control, without
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.constants import HV_VP_INDEX_SELF
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.status import HvStatus
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT
from vmm.hvcalls.register_values import Widths
from vmm.hvcalls.start import StartCalls
from vmm.hypercall.call import AGAIN
from vmm.hypercall.convention import Outcome

SELF = (1 << 64) - 1
CALL = control(Code.HvCallStartVirtualProcessor)
VPS = 3


class Starter:
    """Three VPs; VTL1 on the second. Starts are answered with `answer`."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int, int, HV_INITIAL_VP_CONTEXT]] = []
        self.answer = int(HvStatus.SUCCESS)
        self.denied = False
        self.caller = Caller(
            {Code.HvCallStartVirtualProcessor: StartCalls(self, Widths()).start_virtual_processor}
        )
        self.context = VpContext()
        self.caller.context = self.context

    def has_vp(self, vp: int) -> bool:
        return vp < VPS

    def has_vtl(self, vp: int, vtl: int) -> bool:
        return vtl == 0 or (vp, vtl) == (1, 1)

    def start_denied(self, vp: int, caller_vtl: int) -> bool:
        return self.denied

    def start(self, caller: int, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        self.started.append((caller, vp, vtl, context))
        return self.answer

    def call(self, initial: HV_INITIAL_VP_CONTEXT, vp: int = 1, vtl: int = 0, partition: int = SELF) -> int:
        self.caller.put(struct.pack("<QIB3x", partition, vp, vtl) + initial.pack())
        return self.caller.status(CALL)


@pytest.mark.tlfs("VP-001", "VP-005")
def test_a_vp_is_started_with_the_context() -> None:
    rig = Starter()

    assert rig.call(context()) == HvStatus.SUCCESS
    assert rig.started == [(0, 1, 0, context(Efer=0x500))]


@pytest.mark.tlfs("VP-003")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"partition": 42}, HvStatus.INVALID_PARTITION_ID),
        ({"vp": VPS}, HvStatus.INVALID_VP_INDEX),
        ({"vp": 0}, HvStatus.INVALID_VP_INDEX),  # the caller itself
        ({"vp": HV_VP_INDEX_SELF}, HvStatus.INVALID_VP_INDEX),
        ({"vtl": 1}, HvStatus.ACCESS_DENIED),  # above the caller
        ({"vtl": 16}, HvStatus.INVALID_PARAMETER),  # there is no such number
    ],
    ids=str,
)
def test_whom_nobody_may_start(arguments: dict[str, int], status: HvStatus) -> None:
    rig = Starter()

    assert rig.call(context(), **arguments) == status
    assert rig.started == []


@pytest.mark.tlfs("VP-003")
def test_a_vtl_that_is_not_enabled_on_the_vp() -> None:
    rig = Starter()
    rig.context.vtl = 1

    assert rig.call(context(), vp=2, vtl=1) == HvStatus.INVALID_VTL_STATE
    assert rig.call(context(), vp=1, vtl=1) == HvStatus.SUCCESS


@pytest.mark.tlfs("VP-003")
def test_a_higher_vtl_may_forbid_it() -> None:
    rig = Starter()
    rig.denied = True

    assert rig.call(context()) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("VP-003")
def test_a_context_that_no_processor_has() -> None:
    assert Starter().call(context(Cr0=1 << 31)) == HvStatus.INVALID_REGISTER_VALUE


@pytest.mark.tlfs("VP-003")
def test_a_vp_that_runs() -> None:
    rig = Starter()
    rig.answer = int(HvStatus.INVALID_VP_STATE)

    assert rig.call(context()) == HvStatus.INVALID_VP_STATE


def test_real_mode_is_for_vtl0_alone() -> None:
    rig = Starter()
    rig.context.vtl = 1

    assert rig.call(real_mode_context(), vtl=0) == HvStatus.SUCCESS
    assert rig.call(real_mode_context(), vtl=1) == HvStatus.INVALID_REGISTER_VALUE


@pytest.mark.tlfs("VP-001")
def test_without_the_privilege() -> None:
    rig = Starter()
    rig.context.privileges = without(HV_PARTITION_PRIVILEGE_MASK.StartVirtualProcessor.mask)

    assert rig.call(context()) == HvStatus.ACCESS_DENIED


def test_a_start_that_takes_longer_is_asked_for_again() -> None:
    rig = Starter()
    rig.answer = AGAIN
    rig.caller.put(struct.pack("<QIB3x", SELF, 1, 0) + context().pack())

    assert rig.caller.call(CALL) is Outcome.RETRY
