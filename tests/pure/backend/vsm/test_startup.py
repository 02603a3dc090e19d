# SPDX-License-Identifier: Apache-2.0
"""How processors start that have VTLs, or are to get one: INIT and SIPI over a scripted KVM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvmapi.uapi import kvm as k
from kvmapi.uapi.kvm_vcpu import kvm_enable_cap
from kvmapi.uapi.vsm import KVM_CAP_X86_VSM, KVM_X86_VSM_BLOCK_INIT
from tests.pure.backend.vsm.rig import AGAIN, FAST, SELF, VTL1, Rig, a_rig
from vmm.backend.vsm.startup_signals import BlockedByKvm, StartupSignals
from vmm.hv.call_codes import HypercallCode as Code
from vmm.vsm.config import CONFIG_AT_RESET


class BlockingRig(Rig):
    """On a KVM that can block INIT."""

    def signals(self) -> StartupSignals:
        return BlockedByKvm()


def blocked(rig: Rig) -> list[int]:
    """What the switch of INIT was set to, in order, of whatever vCPU."""
    calls = [kvm_enable_cap.from_buffer_copy(call.argument) for call in rig.fake.called("KVM_ENABLE_CAP")]
    return [argument.args[0] for argument in calls if argument.cap == KVM_CAP_X86_VSM]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig(Rig) as made:
        yield made


def vtl1_runs_and_vp_1_waits(rig: Rig) -> None:
    """VTL1 of VP 0, in ring 0; VP 1 waits for INIT and SIPI."""
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_UNINITIALIZED)


def test_enabling_on_a_vp_that_may_have_been_started_asks_its_own_thread(rig: Rig) -> None:
    rig.with_vtl1()
    rig.switch(0, Code.HvCallVtlCall)
    rig.ring_0(rig.vcpu(0, VTL1))
    rig.place_page(0)
    rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_RUNNABLE)  # by INIT and SIPI, inside KVM_RUN

    assert rig.enable(1) == AGAIN
    rig.vps[1].after_kick()
    assert rig.enable(1) == 0

    assert rig.vtls.partition.vps[1].started


def test_a_vp_with_a_higher_vtl_is_kept_from_init_and_sipi(rig: Rig) -> None:
    vtl1_runs_and_vp_1_waits(rig)
    rig.enable(1)
    rig.vps[1].after_kick()
    assert rig.enable(1) == 0

    rig.vps[1].after_kick()

    assert rig.vps[1].held


@pytest.mark.tlfs("VSM-129")
def test_init_is_blocked_where_kvm_can_before_a_vp_has_a_higher_vtl() -> None:
    with a_rig(BlockingRig) as rig:
        assert rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0

        assert rig.enable(0) == AGAIN  # its thread has to do it
        assert blocked(rig) == []
        rig.vps[0].after_kick()
        assert blocked(rig) == [KVM_X86_VSM_BLOCK_INIT]  # VTL0's
        assert rig.enable(0) == 0
        assert blocked(rig) == [KVM_X86_VSM_BLOCK_INIT] * 2  # VTL1's
        rig.vps[0].after_kick()
        assert len(blocked(rig)) == 2

        rig.hyperv.reset()
        assert blocked(rig)[2:] == [0]


@pytest.mark.tlfs("VSM-129")
def test_a_vp_that_waits_for_sipi_goes_back_to_where_it_waits_for_init() -> None:
    with a_rig(BlockingRig) as rig:
        assert rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0
        rig.enable(0)
        rig.vps[0].after_kick()
        rig.enable(0)
        rig.switch(0, Code.HvCallVtlCall)
        rig.ring_0(rig.vcpu(0, VTL1))
        rig.place_page(0)
        rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_INIT_RECEIVED)
        rig.vtls.partition.configs[VTL1] = CONFIG_AT_RESET.replace(DenyLowerVtlStartup=1)

        rig.vps[1].after_kick()

        assert rig.vps[1].held
        assert rig.vcpu(1, 0).get_mp_state() == k.KVM_MP_STATE_UNINITIALIZED


@pytest.mark.tlfs("VSM-129")
def test_a_vp_that_waits_is_held_from_before_a_vtl_is_enabled_there(rig: Rig) -> None:
    """Else INIT and SIPI, sent right behind the call, would find it in KVM_RUN."""
    vtl1_runs_and_vp_1_waits(rig)

    assert rig.enable(1) == AGAIN
    rig.vps[1].after_kick()
    assert rig.vps[1].held
    assert rig.enable(1) == 0
    rig.vcpu(1, 0).set_mp_state(
        k.KVM_MP_STATE_RUNNABLE
    )  # as if KVM had acted on them, asked for the MP state
    rig.vps[1].after_kick()

    assert rig.vps[1].held and not rig.vtls.partition.vps[1].started
    assert rig.vcpu(1, 0).get_mp_state() == k.KVM_MP_STATE_UNINITIALIZED


@pytest.mark.tlfs("VSM-129")
@pytest.mark.parametrize("denied", [False, True])
def test_a_vp_that_init_has_sent_back_to_wait_is_closed_without_an_error(denied: bool) -> None:
    """KVM refuses to block INIT of one that waits for SIPI; the VMM has not been told of its INIT."""
    with a_rig(BlockingRig) as rig:
        rig.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1)
        rig.enable(0)
        rig.vps[0].after_kick()
        rig.enable(0)
        rig.switch(0, Code.HvCallVtlCall)
        rig.ring_0(rig.vcpu(0, VTL1))
        rig.place_page(0)
        rig.vtls.partition.vps[1].start(0)
        rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_INIT_RECEIVED)
        if denied:
            rig.vtls.partition.configs[VTL1] = CONFIG_AT_RESET.replace(DenyLowerVtlStartup=1)
        else:
            rig.enable(1)

        rig.vps[1].after_kick()

        assert rig.vcpu(1, 0).get_mp_state() == k.KVM_MP_STATE_UNINITIALIZED
        assert rig.vps[1].held and not rig.vtls.partition.vps[1].started


@pytest.mark.tlfs("VSM-011")
def test_a_vp_whose_start_is_denied_hears_again_when_it_no_longer_is() -> None:
    with a_rig(BlockingRig) as rig:
        rig.vcpu(1, 0).set_mp_state(k.KVM_MP_STATE_UNINITIALIZED)
        configs = rig.vtls.partition.configs

        configs[VTL1] = CONFIG_AT_RESET.replace(DenyLowerVtlStartup=1)
        rig.vps[1].after_kick()
        assert blocked(rig) == [KVM_X86_VSM_BLOCK_INIT] and rig.vps[1].held

        configs[VTL1] = CONFIG_AT_RESET
        rig.vps[1].after_kick()
        assert blocked(rig) == [KVM_X86_VSM_BLOCK_INIT, 0] and not rig.vps[1].held
