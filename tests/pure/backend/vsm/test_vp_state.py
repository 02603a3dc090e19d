# SPDX-License-Identifier: Apache-2.0
"""A vCPU's state as intercept messages tell it: each field is the one that KVM's structures call so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.backend.vsm.rig import Rig, a_rig
from vmm.backend.hyperv.register_access import segment_value
from vmm.backend.vsm import vp_state
from vmm.hvcalls.register_values import segment_number

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))


@pytest.mark.tlfs("VSM-108", "VSM-109")
def test_each_register_is_itself() -> None:
    with a_rig(Rig) as rig:
        vcpu = rig.vcpu(0, 0)
        regs, sregs = vcpu.run.regs, vcpu.run.sregs
        for number, name in enumerate((*GENERAL, "rip", "rflags")):
            setattr(regs, name, 0x1000 + number)
        for number, name in enumerate(("cs", "ds", "es", "ss")):
            segment = getattr(sregs, name)
            segment.selector, segment.base, segment.limit, segment.present = number, 7 * number, 99, 1
        sregs.cr8, sregs.ss.dpl = 5, 3

        state = vp_state.take(0, 0, vcpu)

        assert state.general == tuple(0x1000 + number for number in range(16))
        assert (state.rip, state.rflags, state.cr8, state.cpl) == (0x1010, 0x1011, 5, 3)
        assert [each.Selector for each in (state.cs, state.ds, state.es, state.ss)] == [0, 1, 2, 3]


def test_real_mode_is_ring_0_and_virtual_8086_mode_ring_3() -> None:
    with a_rig(Rig) as rig:
        sregs = rig.vcpu(0, 0).run.sregs
        sregs.ss.dpl = 1
        assert vp_state.cpl(1 << 17, sregs) == 3 and vp_state.cpl(2, sregs) == 1
        sregs.cr0 = 0
        assert vp_state.cpl(1 << 17, sregs) == 0


@given(st.binary(min_size=24, max_size=24))
def test_a_segment_is_the_register_s_value(raw: bytes) -> None:
    from kvmapi.uapi import x86

    segment = x86.kvm_segment.from_buffer_copy(raw)
    for name, bits in (
        ("type", 4),
        ("present", 1),
        ("dpl", 2),
        ("db", 1),
        ("s", 1),
        ("l", 1),
        ("g", 1),
        ("avl", 1),
    ):
        setattr(segment, name, getattr(segment, name) & (1 << bits) - 1)

    assert segment_number(vp_state._segment(segment)) == segment_value(segment)
