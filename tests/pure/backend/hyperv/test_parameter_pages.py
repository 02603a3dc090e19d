# SPDX-License-Identifier: Apache-2.0
"""Hypercall parameters where a guest should not put them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.pure.backend.hyperv.test_caller import (
    HYPERCALL,
    INPUT,
    ONE_REP,
    OUTPUT,
    PAGE_GPA,
    SELF_PARTITION,
    SELF_VP,
    Rig,
    a_rig,
)
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.hypercall_words import HV_HYPERCALL_RESULT
from vmm.hv.registers import HvRegisterName as Register
from vmm.hv.status import HvStatus

SIMP, SIEFP = 0x4000_0083, 0x4000_0082
GET = Code.HvCallGetVpRegisters | ONE_REP


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig() as made:
        assert made.write_msr(SIMP, INPUT | 1) and made.write_msr(SIEFP, OUTPUT | 1)
        yield made


@pytest.mark.tlfs("HC-021")
@pytest.mark.parametrize(
    ("first", "second"), [(INPUT, OUTPUT), (INPUT, 0xA000), (0xA000, OUTPUT), (PAGE_GPA, PAGE_GPA)]
)
def test_parameters_in_overlays_do_no_harm(rig: Rig, first: int, second: int) -> None:
    """Whatever they are taken for, the call has an answer, and the rest of the interface goes on."""
    rig.ram.write(0xA000, struct.pack("<QIB3xI", SELF_PARTITION, SELF_VP, 0, Register.HvRegisterVpIndex))

    result = rig.call(GET, first, second)

    HvStatus(HV_HYPERCALL_RESULT(result).Status)  # has a name
    assert rig.hyperv.dispatcher.internal_errors == 0
    assert rig.read_msr(SIMP) == INPUT | 1 and rig.read_msr(HYPERCALL) == PAGE_GPA | 1
    assert rig.call(Code.HvCallNotifyLongSpinWait | 1 << 16) == 0
