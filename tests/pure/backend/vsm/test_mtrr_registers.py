# SPDX-License-Identifier: Apache-2.0
"""The VP registers of variable MTRRs: 16 have a name, a processor has what MTRRCAP.VCNT says, which is eight on KVM."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.pure.backend.vsm.rig import INPUT, SELF, VTL1, Rig, a_rig
from vmm.backend.vsm.shared_msrs import MSRS as SHARED_MSRS
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus

OUTPUT, ONE_REP, SELF_VP, UNTOUCHED = 0x7000, 1 << 32, 0xFFFF_FFFE, b"\xee" * 16
VCNT = 8
"""KVM_NR_VAR_MTRR."""
FIRST, BEYOND = 0x200, range(0x200 + 2 * VCNT, 0x220)
VARIABLE = {name: name.msr for name in HvRegisterName if name.msr in range(FIRST, BEYOND.stop)}
THERE = [name for name, msr in VARIABLE.items() if msr not in BEYOND]
MISSING = [name for name, msr in VARIABLE.items() if msr in BEYOND]
VALUE = 0x1234_5806
"""A base with type 6, and a mask with its valid bit."""


@pytest.fixture
def rig() -> Iterator[Rig]:
    """VP 0 has VTL1 and runs VTL0. KVM refuses the MSRs of MTRRs that it does not have, its ignore_msrs set or not."""
    with a_rig(Rig) as made:
        made.fake.refused_msrs.update(BEYOND)
        made.with_vtl1()
        yield made


def in_vtl(rig: Rig, vtl: int) -> None:
    if vtl:
        rig.switch(0, Code.HvCallVtlCall)
        rig.ring_0(rig.vcpu(0, VTL1))
        rig.place_page(0)


def read(rig: Rig, register: int, target: int) -> tuple[int, bytes]:
    rig.ram.write(INPUT, struct.pack("<QIB3xI", SELF, SELF_VP, 0x10 | target, register))
    rig.ram.write(OUTPUT, UNTOUCHED)
    result = rig.call(0, Code.HvCallGetVpRegisters | ONE_REP, INPUT, OUTPUT)
    return result, rig.ram.read(OUTPUT, 16)


def write(rig: Rig, register: int, target: int, value: int) -> int:
    rig.ram.write(INPUT, struct.pack("<QIB3xI12xQQ", SELF, SELF_VP, 0x10 | target, register, value, 0))
    return rig.call(0, Code.HvCallSetVpRegisters | ONE_REP, INPUT)


def test_all_have_names() -> None:
    assert (len(THERE), len(MISSING)) == (16, 16)
    assert SHARED_MSRS.isdisjoint(BEYOND) and set(range(FIRST, BEYOND.start)) <= SHARED_MSRS


@pytest.mark.tlfs("REG-006", "VSM-063")
@pytest.mark.parametrize(("caller", "target"), [(0, 0), (1, 1), (1, 0)])
def test_one_that_the_processor_lacks_is_unknown(rig: Rig, caller: int, target: int) -> None:
    in_vtl(rig, caller)

    for register in MISSING:
        assert write(rig, register, target, VALUE) == HvStatus.INVALID_PARAMETER, register.name
        assert read(rig, register, target) == (HvStatus.INVALID_PARAMETER, UNTOUCHED), register.name
    assert rig.hyperv.dispatcher.internal_errors == 0


@pytest.mark.tlfs("VSM-063", "VSM-065")
@pytest.mark.parametrize(("caller", "target"), [(0, 0), (1, 1), (1, 0)])
def test_one_that_it_has_is_written_for_all_vtls(rig: Rig, caller: int, target: int) -> None:
    in_vtl(rig, caller)

    for number, register in enumerate(THERE):
        assert write(rig, register, target, VALUE + number) == ONE_REP, register.name
        assert read(rig, register, target) == (ONE_REP, (VALUE + number).to_bytes(16, "little"))
        msr = VARIABLE[register]
        assert msr is not None
        for vtl in (0, VTL1):
            assert rig.vcpu(0, vtl).get_msrs([msr]) == [(msr, VALUE + number)]
