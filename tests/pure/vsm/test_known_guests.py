# SPDX-License-Identifier: Apache-2.0
"""What known guests of VSM use, call by call and register by register: Windows' secure kernel, a paravisor in VTL2."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pure.hypercall.fakes import OUTPUT
from tests.pure.vsm.protected import Protected
from tests.pure.vsm.world import OFFSETS, SELF, World
from vmm.backend.hyperv.flags import wanted
from vmm.backend.hyperv.offer import Offer, offer
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.inputs import HV_INPUT_GET_VP_INDEX_FROM_APIC_ID
from vmm.hv.register_bits import HV_REGISTER_VSM_CAPABILITIES, HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.status import HvStatus
from vmm.hvcalls.processors import ProcessorCalls
from vmm.hypercall.dispatcher import Dispatcher
from vmm.vsm.actions import SwitchReason, SwitchVtl
from vmm.vsm.calls import handlers
from vmm.vsm.rights import ALL, READ, WRITE

Config, Capabilities = HV_REGISTER_VSM_PARTITION_CONFIG, HV_REGISTER_VSM_CAPABILITIES
MBEC = 1
READ_AND_WRITE = 0x3
"""A default protection mask."""


def offered(flags: dict[str, str], vtls: int = 2) -> Offer:
    """What a machine with these flags announces."""
    found = wanted(flags)
    assert found is not None
    return offer(found, cpus=2, gpa_bits=40, tsc_hz=2_000_000_000, tsc_known=True, vtls=vtls)


# ---- Windows' secure kernel ----------------------------------------------------------------------------


@pytest.mark.tlfs("WIN-001")
@pytest.mark.parametrize("vsm", [True, False])
def test_access_vsm_is_there_with_vtls_and_with_what_it_needs(vsm: bool) -> None:
    """EBX 16 and 17, EAX 2 of leaf 0x40000003."""
    flags = {"hv-passthrough": "on"} | ({"hv-vsm": "on"} if vsm else {})
    leaf = next(each for each in offered(flags).leaves if each.leaf == 0x4000_0003)

    assert (leaf.ebx >> 16 & 1, leaf.ebx >> 17 & 1, leaf.eax >> 2 & 1) == (vsm, 1, 1)


@pytest.mark.tlfs("WIN-002")
def test_no_mbec_and_starts_that_can_be_denied() -> None:
    vsm = offered({"hv-passthrough": "on", "hv-vsm": "on"}).vsm
    assert vsm is not None
    caller = World(config_bits=vsm.config_bits, mbec_vtls=vsm.mbec_vtls).caller()

    told = Capabilities(caller.read(Name.HvRegisterVsmCapabilities))

    assert (told.MbecVtlMask, told.DenyLowerVtlStartup) == (0, 1)
    assert caller.enable_partition_vtl(1, MBEC) == HvStatus.INVALID_PARAMETER
    assert caller.enable_partition_vtl(1) == HvStatus.SUCCESS


USED_ANYWHERE = (
    Name.HvRegisterVsmCodePageOffsets,
    Name.HvRegisterVsmPartitionStatus,
    Name.HvRegisterVsmVpStatus,
    Name.HvRegisterVsmCapabilities,
)
USED_OF_ITS_OWN = {
    Name.HvRegisterVsmPartitionConfig: Config.make(EnableVtlProtection=1, DefaultVtlProtectionMask=0xF),
    Name.HvRegisterVsmVpSecureConfigVtl0: 2,  # TlbLocked
    Name.HvRegisterVsmVina: 0x130,
    Name.HvX64RegisterCrInterceptControl: 0x1000,  # writes of APIC_BASE
    Name.HvX64RegisterCrInterceptCr0Mask: 0x8001_0001,
    Name.HvX64RegisterCrInterceptCr4Mask: 0x20,
    Name.HvX64RegisterCrInterceptIa32MiscEnableMask: 1,
}
USED_OF_VTL0 = {
    Name.HvX64RegisterRip: 0xFFFF_8000_0010_0000,
    Name.HvX64RegisterRsp: 0xFFFF_8000_0020_0000,
    Name.HvX64RegisterRflags: 0x202,
    Name.HvX64RegisterCr0: 0x8001_0033,
    Name.HvX64RegisterCr4: 0x6A0,
    Name.HvX64RegisterEfer: 0xD01,
    Name.HvX64RegisterLstar: 0xFFFF_8000_0030_0000,
}


@pytest.mark.tlfs("WIN-006")
def test_the_registers_that_a_secure_kernel_uses_do_what_they_say() -> None:
    world = World().enable(1)
    world.enter(0, 1)
    caller = world.caller()

    assert caller.get(*USED_ANYWHERE) == HvStatus.SUCCESS
    assert caller.values(4) == [OFFSETS, 0x1_0003, 0x3_0001, caller.read(Name.HvRegisterVsmCapabilities)]
    for name, value in USED_OF_ITS_OWN.items():
        assert caller.set((name, int(value))) == HvStatus.SUCCESS, name.name
        assert caller.read(name) == value, name.name
    for name, value in USED_OF_VTL0.items():
        assert caller.set((name, value), vtl=0) == HvStatus.SUCCESS, name.name
        assert world.services.registers[0, 0, name] == value == caller.read(name, vtl=0), name.name


# ---- machines that ran one -------------------------------------------------------------------------------


@pytest.mark.tlfs("WIN-013")
def test_the_flags_of_the_first_machine_that_ran_one() -> None:
    names = (
        "vpindex",
        "synic",
        "stimer",
        "stimer-direct",
        "vapic",
        "time",
        "xmm-input",
        "xmm-output",
        "tlbflush",
    )
    said = offered({f"hv-{name}": "on" for name in (*names, "vsm")})

    privileges, features = said.msrs.privileges, said.msrs.features
    assert said.vsm is not None and privileges.AccessVsm
    assert privileges.AccessVpIndex and privileges.AccessSynicRegs and privileges.AccessSyntheticTimerRegs
    assert privileges.AccessIntrCtrlRegs and privileges.AccessPartitionReferenceCounter
    assert privileges.AccessPartitionReferenceTsc and privileges.FastHypercallOutput
    assert features.DirectSyntheticTimers and features.XmmRegistersForFastHypercallAvailable
    assert features.FastHypercallOutputAvailable
    assert {Code.HvCallFlushVirtualAddressSpace, Code.HvCallFlushVirtualAddressListEx} <= said.wanted.codes


# ---- a paravisor in VTL2 -----------------------------------------------------------------------------------


@pytest.mark.tlfs("OHCL-002")
def test_vtl2_finds_its_entries_and_configures_itself_by_name() -> None:
    machine = Protected(2)
    partition, caller = machine.world.partition, machine.caller()
    config = Config.make(
        EnableVtlProtection=1, DefaultVtlProtectionMask=READ_AND_WRITE, InterceptPage=1, DenyLowerVtlStartup=1
    )

    assert caller.read(Name.HvRegisterVsmCodePageOffsets) == OFFSETS
    assert caller.set((Name.HvRegisterVsmPartitionConfig, int(config)), vtl=2) == HvStatus.SUCCESS

    assert caller.read(Name.HvRegisterVsmPartitionConfig, vtl=2) == config
    assert [machine.of(vtl, 5) for vtl in (0, 1, 2)] == [[READ | WRITE], [READ | WRITE], [ALL]]
    assert partition.config(2).InterceptPage and partition.start_denied(1, 1)
    machine.world.leave(0)
    assert machine.caller().get(Name.HvRegisterVsmPartitionConfig, vtl=2) == HvStatus.ACCESS_DENIED


class ApicIds:
    """Processors whose APIC ids are twice their index."""

    def vp_of_apic_id(self, apic_id: int) -> int | None:
        return apic_id // 2 if apic_id in (0, 2) else None


@pytest.mark.tlfs("OHCL-005")
def test_vtl2_starts_itself_on_another_processor() -> None:
    world = World(maximum_vtl=2).enable(2)
    world.enter(0, 2)
    processors: Any = ApicIds()
    world.dispatcher = Dispatcher(
        handlers(world.partition)
        | {Code.HvCallGetVpIndexFromApicId: ProcessorCalls(processors).vp_index_from_apic_id}
    )
    caller = world.caller()

    header = HV_INPUT_GET_VP_INDEX_FROM_APIC_ID(SELF, 0).pack()
    ids = b"".join(apic_id.to_bytes(4, "little") for apic_id in (2, 0))
    assert caller.status(Code.HvCallGetVpIndexFromApicId, header + ids, 2) == HvStatus.SUCCESS
    assert caller.memory.read(OUTPUT, 8) == bytes((1, 0, 0, 0, 0, 0, 0, 0))
    assert caller.enable_vp_vtl(1, 2) == HvStatus.SUCCESS
    assert caller.enable_vp_vtl(1, 2) == HvStatus.VTL_ALREADY_ENABLED
    assert not world.partition.vps[1].started
    assert caller.start_vp(1, 2) == HvStatus.SUCCESS

    assert (world.partition.vps[1].active, world.partition.vps[1].started) == (2, True)


@pytest.mark.tlfs("OHCL-010")
def test_vtl2_is_entered_for_three_reasons_and_left_by_fast_returns() -> None:
    world = World(maximum_vtl=2).enable(2)
    vp, page = world.partition.vps[0], world.services.pages[0, 2]
    fast = SwitchVtl(0, 2, 0, SwitchReason.RETURN)  # loads nothing

    world.caller().call()
    assert page.entry_reason == 1
    assert world.caller().vtl_return(1) == fast
    world.enter(0, 2)
    assert page.entry_reason == 2
    assert world.caller().vtl_return(1) == fast
    vp.enter(2, SwitchReason.INTERCEPT)
    assert page.entry_reason == 3
    assert world.caller().vtl_return(1) == fast
