# SPDX-License-Identifier: Apache-2.0
"""Starting a VP: the state that KVM is given, and who can be started."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from kvmapi.uapi import kvm as k
from tests.pure.backend.hyperv.test_caller import INPUT, SELF_PARTITION, Rig, a_rig
from tests.pure.hvcalls.contexts import context
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.status import HvStatus
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT

AGAIN = 0x1234  # RAX as it was before the call
EINVAL = 22


@pytest.fixture
def rig() -> Iterator[Rig]:
    """The second VP waits for its start."""
    with a_rig() as made:
        made.vps[1].vcpu.set_mp_state(k.KVM_MP_STATE_UNINITIALIZED)
        yield made


def start(rig: Rig, initial: HV_INITIAL_VP_CONTEXT, vp: int = 1) -> int:
    rig.ram.write(INPUT, struct.pack("<QIB3x", SELF_PARTITION, vp, 0) + initial.pack())
    return rig.call(Code.HvCallStartVirtualProcessor, INPUT)


def start_at_once(rig: Rig, initial: HV_INITIAL_VP_CONTEXT) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.vps[1], "kick", rig.vps[1].after_kick)  # no thread runs it here
        return start(rig, initial)


@pytest.mark.tlfs("VP-002", "VP-005")
def test_the_vp_gets_the_context_and_runs(rig: Rig) -> None:
    wanted = context(Rsp=0x5000)

    assert start_at_once(rig, wanted) == 0

    vcpu = rig.vps[1].vcpu
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    assert vcpu.get_mp_state() == k.KVM_MP_STATE_RUNNABLE
    assert (regs.rip, regs.rsp, regs.rflags) == (wanted.Rip, 0x5000, 2)
    assert (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) == (wanted.Cr0, wanted.Cr3, wanted.Cr4, 0x500)
    assert (sregs.cs.type, sregs.cs.l, sregs.cs.limit, sregs.cs.present) == (11, 1, 0xFFFF_FFFF, 1)
    assert (sregs.gs.base, sregs.tr.type, sregs.ldt.unusable) == (wanted.Gs.Base, 11, 1)
    assert (sregs.idt.base, sregs.idt.limit) == (wanted.Idtr.Base, wanted.Idtr.Limit)
    assert (sregs.gdt.base, sregs.gdt.limit) == (wanted.Gdtr.Base, wanted.Gdtr.Limit)
    assert vcpu.get_msrs([0x277]) == [(0x277, wanted.MsrCrPat)]


@pytest.mark.tlfs("VP-003")
@pytest.mark.parametrize("state", [k.KVM_MP_STATE_RUNNABLE, k.KVM_MP_STATE_HALTED])
def test_a_vp_that_runs_is_left_alone(rig: Rig, state: int) -> None:
    rig.vps[1].vcpu.set_mp_state(state)

    assert start_at_once(rig, context()) == HvStatus.INVALID_VP_STATE
    assert rig.vps[1].vcpu.get_mp_state() == state
    assert rig.fake.called("KVM_SET_REGS") == []


def test_a_vp_that_got_init_waits_too(rig: Rig) -> None:
    rig.vps[1].vcpu.set_mp_state(k.KVM_MP_STATE_INIT_RECEIVED)

    assert start_at_once(rig, context()) == 0


@pytest.mark.tlfs("VP-003")
def test_what_kvm_refuses_is_a_bad_register_value_and_the_vp_still_waits(rig: Rig) -> None:
    rig.fake.fail("KVM_SET_SREGS", EINVAL)

    assert start_at_once(rig, context()) == HvStatus.INVALID_REGISTER_VALUE
    assert rig.vps[1].vcpu.get_mp_state() == k.KVM_MP_STATE_UNINITIALIZED


def test_a_vp_that_takes_its_time_is_asked_for_again(rig: Rig) -> None:
    assert start(rig, context()) == AGAIN

    assert start_at_once(rig, context()) == 0
    assert start_at_once(rig, context()) == HvStatus.INVALID_VP_STATE  # a second start is a call of its own


def test_a_vp_that_comes_too_late_is_not_started(rig: Rig) -> None:
    """Its caller may have been reset meanwhile, or have gone on elsewhere."""
    assert start(rig, context()) == AGAIN

    rig.vps[1].after_kick()

    assert rig.vps[1].vcpu.get_mp_state() == k.KVM_MP_STATE_UNINITIALIZED
