# SPDX-License-Identifier: Apache-2.0
"""HvCallGetVpRegisters and HvCallSetVpRegisters over a KVM that keeps what it is given."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import MethodType

import pytest

from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from tests.pure.backend.hyperv.test_caller import INPUT, ONE_REP, OUTPUT, SELF_PARTITION, SELF_VP, Rig, a_rig
from vmm.backend.hyperv.flags import EVERYTHING
from vmm.backend.hyperv.vp_registers import NOT_OFFERED, RegisterCalls
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.registers import HvRegisterName as Register
from vmm.hv.status import HvStatus
from vmm.hvcpuid import HvFeature

PE = 1
EXCEPTION, INTERRUPT, NMI = 3, 0, 2
GP, PF, DF, DB = 13, 14, 8, 1
NO_VALUE = int.from_bytes(b"\xee" * 16, "little")


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig() as made:
        yield made


@pytest.fixture
def attentive(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig whose second VP does at once what it is kicked for."""
    monkeypatch.setattr(rig.vps[1], "kick", rig.vps[1].after_kick)  # no thread runs it here
    return rig


def offered(rig: Rig) -> RegisterCalls:
    handler = rig.hyperv.dispatcher._handled[Code.HvCallGetVpRegisters].handler
    assert isinstance(handler, MethodType) and isinstance(handler.__self__, RegisterCalls)
    return handler.__self__


def value(rig: Rig, register: int, vp: int = SELF_VP) -> int:
    result, values = rig.registers(register, vp=vp)
    assert result == ONE_REP, hex(result)
    return values[0]


# ---- which registers there are ---------------------------------------------------------------------------


def test_every_register_is_there_or_said_to_be_missing(rig: Rig) -> None:
    calls = offered(rig)
    missing = tuple(start for starts in NOT_OFFERED.values() for start in starts)

    for register in Register:
        there = int(register) in calls.readable | calls.writable
        assert there != register.name.startswith(missing), register.name


def test_no_reason_is_left_over() -> None:
    names = [register.name for register in Register]

    assert [
        s for starts in NOT_OFFERED.values() for s in starts if not any(n.startswith(s) for n in names)
    ] == []


def test_access_is_what_the_table_says(rig: Rig) -> None:
    calls = offered(rig)

    assert all(register.access.readable for register in Register if int(register) in calls.readable)
    assert all(register.access.writable for register in Register if int(register) in calls.writable)


@pytest.mark.tlfs("REG-006")
@pytest.mark.parametrize("register", [0x7777_7777, 0xACAC_ACAC, int(Register.HvRegisterVsmVina)])
def test_an_unknown_register(rig: Rig, register: int) -> None:
    assert rig.registers(register)[0] == HvStatus.INVALID_PARAMETER
    assert rig.set_register(register, 0) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("REG-006")
def test_an_msr_that_the_processor_model_lacks(rig: Rig) -> None:
    rig.fake.refused_msrs.add(0xDA0)

    assert rig.registers(Register.HvX64RegisterXss)[0] == HvStatus.INVALID_PARAMETER
    assert rig.set_register(Register.HvX64RegisterXss, 0) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("REG-005")
@pytest.mark.parametrize(
    ("partition", "vp", "status"),
    [
        (42, 0, HvStatus.INVALID_PARTITION_ID),
        (SELF_PARTITION, 2, HvStatus.INVALID_VP_INDEX),
        (SELF_PARTITION, 0xACAC_ACAC, HvStatus.INVALID_VP_INDEX),
        (SELF_PARTITION, 0xFFFF_FFFF, HvStatus.INVALID_VP_INDEX),  # HV_ANY_VP is nobody's index
    ],
)
def test_whose_registers_nobody_has(rig: Rig, partition: int, vp: int, status: HvStatus) -> None:
    rig.ram.write(INPUT, struct.pack("<QIB3xI28x", partition, vp, 0, Register.HvX64RegisterRbx))

    assert rig.call(Code.HvCallGetVpRegisters | ONE_REP, INPUT, OUTPUT) == status
    assert rig.call(Code.HvCallSetVpRegisters | ONE_REP, INPUT) == status


@pytest.mark.tlfs("REG-001")
def test_a_list_of_the_largest_size(rig: Rig) -> None:
    """256 values fill a page; the names are handled in slices, so the call is made again until it is done."""
    names = [Register.HvRegisterVpIndex, Register.HvRegisterGuestOsId] * 128
    rig.ram.write(INPUT, struct.pack("<QIB3x256I", SELF_PARTITION, SELF_VP, 0, *names))
    control = Code.HvCallGetVpRegisters | 256 * ONE_REP

    for _ in range(4):
        result = rig.call(control, INPUT, OUTPUT)
        control = rig.run.regs.rcx

    assert result == 256 * ONE_REP
    assert rig.ram.read(OUTPUT, 4096) == struct.pack("<QQQQ", 0, 0, 1, 0) * 128


def set_registers(rig: Rig, *values: tuple[int, int]) -> int:
    """One HvCallSetVpRegisters of the caller's own."""
    elements = b"".join(struct.pack("<I12x", name) + value.to_bytes(16, "little") for name, value in values)
    rig.ram.write(INPUT, struct.pack("<QIB3x", SELF_PARTITION, SELF_VP, 0) + elements)
    return rig.call(Code.HvCallSetVpRegisters | len(values) * ONE_REP, INPUT)


@pytest.mark.tlfs("REG-008", "APIC-002")
@pytest.mark.parametrize(
    ("register", "number"),
    [
        (Register.HvX64RegisterCr3, 0x9000),
        (Register.HvX64RegisterEfer, 0x500),
        (Register.HvX64RegisterTr, 0x8B << 112 | 0x1000),
    ],
)
def test_the_task_priority_outlives_the_next_register(rig: Rig, register: int, number: int) -> None:
    assert set_registers(rig, (Register.HvX64RegisterSyntheticTpr, 0x5A), (register, number)) == 2 * ONE_REP

    tpr, cr8 = Register.HvX64RegisterSyntheticTpr, Register.HvX64RegisterCr8
    assert rig.registers(tpr, cr8, register) == (3 * ONE_REP, [0x5A, 5, number])
    assert rig.vps[0].vcpu.get_sregs().cr8 == 5


def test_what_waits_for_the_next_entry_outlives_a_register_that_is_set_at_once(rig: Rig) -> None:
    """CR2, which a VTL switch leaves to KVM_RUN, and a TPR that the guest has just written as an MSR."""
    run = rig.run
    run.sregs.cr2 = 0x1234
    assert rig.write_msr(0x4000_0072, 0x60)
    rig.ram.write(INPUT, struct.pack("<QIB3xI12xQQ", SELF_PARTITION, SELF_VP, 0, 0x40002, 0x9000, 0))
    run.regs.rcx, run.regs.rdx, run.regs.rip = Code.HvCallSetVpRegisters | ONE_REP, INPUT, 0x5000

    rig.caller.hypercall()

    kvm = rig.vps[0].vcpu.get_sregs()
    assert (kvm.cr2, kvm.cr3, kvm.cr8) == (run.sregs.cr2, run.sregs.cr3, run.sregs.cr8) == (0x1234, 0x9000, 6)


@pytest.mark.tlfs("REG-002")
def test_two_elements_of_a_set_are_32_bytes_each(rig: Rig) -> None:
    element = struct.Struct("<I12xQQ")
    rig.ram.write(
        INPUT,
        struct.pack("<QIB3x", SELF_PARTITION, SELF_VP, 0)
        + element.pack(Register.HvX64RegisterRbx, 0x1111, 0)
        + element.pack(Register.HvX64RegisterRsi, 0x2222, 0),
    )

    assert rig.call(Code.HvCallSetVpRegisters | 2 * ONE_REP, INPUT) == 2 * ONE_REP
    assert (rig.run.regs.rbx, rig.run.regs.rsi) == (0x1111, 0x2222)


# ---- values ----------------------------------------------------------------------------------------------


@pytest.mark.tlfs("REG-007")
@pytest.mark.parametrize(
    "register",
    [
        Register.HvRegisterVpIndex,
        Register.HvRegisterTimeRefCount,
        Register.HvRegisterPrivilegesAndFeaturesInfo,
        Register.HvX64RegisterMsrMtrrCap,
        Register.HvX64RegisterInitialApicId,
        Register.HvRegisterInternalActivityState,
        Register.HvX64RegisterApicVersion,
        Register.MsrMcUpdatePatchLevel,
        Register.HvX64RegisterTscAdjust,
    ],
)
def test_a_register_that_is_only_read(rig: Rig, register: Register) -> None:
    assert rig.set_register(register, 0) == HvStatus.INVALID_PARAMETER


@pytest.mark.tlfs("REG-007", "REG-012")
@pytest.mark.parametrize(
    ("register", "refused"),
    [
        (Register.HvX64RegisterCr0, 1 << 31),  # PG without PE
        (Register.HvX64RegisterCr4, 1 << 63),
        (Register.HvX64RegisterEfer, 1 << 1),
        (Register.HvX64RegisterPat, 2),
        (Register.HvX64RegisterRflags, 1 << 3),
        (Register.HvX64RegisterLstar, 1 << 60),
        (Register.HvX64RegisterRbx, 1 << 64),
        (Register.HvRegisterSint0, 5),  # a vector below 16
    ],
)
def test_a_value_that_is_refused_changes_nothing(rig: Rig, register: Register, refused: int) -> None:
    before = value(rig, register)

    assert rig.set_register(register, refused) == HvStatus.INVALID_REGISTER_VALUE
    assert value(rig, register) == before


def test_a_synthetic_msr_without_its_privilege_is_denied(rig: Rig) -> None:
    assert rig.registers(Register.HvRegisterGuestIdle)[0] == HvStatus.ACCESS_DENIED
    assert rig.set_register(Register.HvRegisterGuestIdle, 0) == HvStatus.ACCESS_DENIED


@pytest.mark.tlfs("REG-012", "MISC-003")
def test_reading_the_idle_register_puts_no_vp_to_sleep() -> None:
    with a_rig(also=frozenset({HvFeature.IDLE})) as rig:
        assert value(rig, Register.HvRegisterGuestIdle) == 0
        assert rig.vps[0].vcpu.get_mp_state() == k.KVM_MP_STATE_RUNNABLE
        assert rig.read_msr(0x4000_00F0) == 0
        assert rig.vps[0].vcpu.get_mp_state() == k.KVM_MP_STATE_HALTED


@pytest.mark.tlfs("REG-007")
def test_the_idle_register_is_only_read_as_its_msr_is() -> None:
    with a_rig(also=frozenset({HvFeature.IDLE})) as rig:
        assert rig.set_register(Register.HvRegisterGuestIdle, 0) == HvStatus.INVALID_PARAMETER


def test_an_address_is_as_wide_as_the_paging_mode(rig: Rig) -> None:
    wide, la57 = 1 << 55, 1 << 12

    assert rig.set_register(Register.HvX64RegisterLstar, wide) == HvStatus.INVALID_REGISTER_VALUE
    assert rig.set_register(Register.HvX64RegisterCr4, la57) == ONE_REP
    assert rig.set_register(Register.HvX64RegisterLstar, wide) == ONE_REP


def test_clock_frequencies(rig: Rig) -> None:
    assert value(rig, Register.HvRegisterProcessorClockFrequency) == 2_000_000_000
    assert value(rig, Register.HvRegisterInterruptClockFrequency) == 1_000_000_000


@pytest.mark.parametrize(
    ("register", "number"),
    [
        (Register.HvX64RegisterFpMmx7, 0x4000_C000_0000_0000_0000),  # 3.0
        (Register.HvX64RegisterFpControlStatus, 0x027F),
        (Register.HvX64RegisterXmmControlStatus, 0x1F80 << 64),
        (Register.HvX64RegisterXmm15, 1 << 127 | 1),
        (Register.HvX64RegisterYmm3High, 1 << 126 | 3),
        (Register.HvX64RegisterXfem, 7),
        (Register.HvX64RegisterDr0, 0x1234),
        (Register.HvX64RegisterTscAux, 3),
        (Register.HvX64RegisterMsrMtrrFix4kF0000, 0x0606_0606_0606_0606),
    ],
)
def test_what_is_set_is_read_again(rig: Rig, register: Register, number: int) -> None:
    assert rig.set_register(register, number) == ONE_REP
    assert value(rig, register) == number


def test_the_low_half_of_a_ymm_register_is_the_xmm_register(rig: Rig) -> None:
    rig.set_register(Register.HvX64RegisterXmm3, 0x77)

    assert value(rig, Register.HvX64RegisterYmm3Low) == 0x77


@pytest.mark.tlfs("REG-016")
def test_segment_attributes_are_in_the_order_of_vmx(rig: Rig) -> None:
    """Type 11, S, P, L, G: 0xA09B, as kvm-unit-tests read CS."""
    code = 0xA09B << 112 | 8 << 96 | 0xFFFF_FFFF << 64

    assert rig.set_register(Register.HvX64RegisterCs, code) == ONE_REP

    cs = rig.vps[0].vcpu.get_sregs().cs
    assert (cs.type, cs.s, cs.dpl, cs.present, cs.avl, cs.l, cs.db, cs.g) == (11, 1, 0, 1, 0, 1, 0, 1)
    assert (cs.selector, cs.limit, cs.base, cs.unusable) == (8, 0xFFFF_FFFF, 0, 0)
    assert value(rig, Register.HvX64RegisterCs) == code


@pytest.mark.tlfs("REG-016")
def test_a_segment_without_present_is_unusable(rig: Rig) -> None:
    assert rig.set_register(Register.HvX64RegisterLdtr, 0x0002 << 112) == ONE_REP
    assert rig.vps[0].vcpu.get_sregs().ldt.unusable == 1

    # A processor says unusable and may leave Present set.
    rig.run.sregs.ldt.present = 1
    assert value(rig, Register.HvX64RegisterLdtr) >> 112 & 0x80 == 0


def test_local_apic_registers(rig: Rig) -> None:
    lapic = x86.kvm_lapic_state()
    lapic.regs[0x80] = 0x40  # TPR
    lapic.regs[0x300], lapic.regs[0x313] = 0x51, 0x02  # ICR low, high
    rig.vps[0].vcpu.set_lapic(lapic)

    assert value(rig, Register.HvX64RegisterApicTpr) == 0x40
    assert value(rig, Register.HvX64RegisterApicIcr) == 0x0200_0000_0000_0051


# ---- events ----------------------------------------------------------------------------------------------


def events(rig: Rig, vp: int = 0) -> x86.kvm_vcpu_events:
    return rig.vps[vp].vcpu.get_vcpu_events()


def event(vector: int, code: int | None = None, parameter: int = 0) -> int:
    """HV_X64_PENDING_EXCEPTION_EVENT."""
    deliver = 0 if code is None else 1 << 8 | code << 32
    return 1 | deliver | vector << 16 | parameter << 64


@pytest.mark.tlfs("REG-014")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 0),
        ({"exception.injected": 1, "exception.nr": GP, "exception.has_error_code": 1, "exception.error_code": 5},
         1 | EXCEPTION << 1 | 1 << 4 | GP << 16 | 5 << 32),
        ({"exception.pending": 1, "exception.nr": 6}, 1 | EXCEPTION << 1 | 6 << 16),
        ({"exception.injected": 1, "exception.nr": 3}, 1 | 6 << 1 | 3 << 16),
        ({"nmi.injected": 1}, 1 | NMI << 1 | 2 << 16),
        ({"interrupt.injected": 1, "interrupt.nr": 0x51}, 1 | INTERRUPT << 1 | 0x51 << 16),
        ({"interrupt.injected": 1, "interrupt.nr": 0x80, "interrupt.soft": 1}, 1 | 4 << 1 | 0x80 << 16),
    ],
    ids=str,
)  # fmt: skip
def test_an_event_in_flight_is_the_pending_interruption(
    rig: Rig, change: dict[str, int], expected: int
) -> None:
    state = x86.kvm_vcpu_events()
    for path, number in change.items():
        part, field = path.split(".")
        setattr(getattr(state, part), field, number)
    rig.vps[0].vcpu.set_vcpu_events(state)

    assert value(rig, Register.HvRegisterPendingInterruption) == expected


@pytest.mark.tlfs("REG-014")
def test_a_pending_interruption_can_be_put_back_and_taken_away(rig: Rig) -> None:
    for number in (1 | EXCEPTION << 1 | 6 << 16, 1 | NMI << 1 | 2 << 16, 1 | INTERRUPT << 1 | 0x51 << 16, 0):
        assert rig.set_register(Register.HvRegisterPendingInterruption, number) == ONE_REP
        assert value(rig, Register.HvRegisterPendingInterruption) == number
    for number in (
        1 | 4 << 1 | 0x80 << 16,
        1 | INTERRUPT << 1 | 256 << 16,
        1 | EXCEPTION << 1 | 1 << 4 | 6 << 16,
    ):
        status = rig.set_register(Register.HvRegisterPendingInterruption, number)
        assert status == HvStatus.INVALID_REGISTER_VALUE


@pytest.mark.tlfs("REG-014")
def test_interrupt_state(rig: Rig) -> None:
    for state in (3, 1, 2, 0):
        assert rig.set_register(Register.HvRegisterInterruptState, state) == ONE_REP
        assert value(rig, Register.HvRegisterInterruptState) == state


@pytest.mark.tlfs("REG-013")
def test_an_exception_for_a_vp_that_halts(attentive: Rig) -> None:
    rig = attentive
    vcpu = rig.vps[1].vcpu
    sregs = vcpu.get_sregs()
    sregs.cr0 = PE
    vcpu.set_sregs(sregs)
    vcpu.set_mp_state(k.KVM_MP_STATE_HALTED)

    assert rig.set_register(Register.HvRegisterPendingEvent0, event(PF, 2, 0x1234), vp=1) == ONE_REP

    exception = events(rig, 1).exception
    assert (exception.injected, exception.nr, exception.has_error_code, exception.error_code) == (1, PF, 1, 2)
    assert vcpu.get_sregs().cr2 == 0x1234
    assert vcpu.get_mp_state() == k.KVM_MP_STATE_RUNNABLE
    assert value(rig, Register.HvRegisterPendingEvent0, vp=1) == event(PF, 2, 0x1234)


@pytest.mark.tlfs("REG-013")
@pytest.mark.parametrize(
    ("first", "second", "delivered"),
    [
        (event(GP, 1), event(11, 2), DF),
        (event(PF, 1), event(GP, 2), DF),
        (event(PF, 1), event(PF, 2), DF),
        (event(GP, 1), event(PF, 2), PF),
        (event(6), event(GP, 2), GP),
        (event(GP, 1), event(6), 6),
    ],
)
def test_two_exceptions_make_what_a_processor_makes_of_them(
    rig: Rig, first: int, second: int, delivered: int
) -> None:
    assert rig.set_register(Register.HvRegisterPendingEvent0, first) == ONE_REP
    assert rig.set_register(Register.HvRegisterPendingEvent0, second) == ONE_REP

    assert events(rig).exception.nr == delivered


@pytest.mark.tlfs("REG-013")
@pytest.mark.parametrize(
    "refused",
    [
        event(GP),  # without its error code
        event(6, 0),  # with one that it does not have
        event(2),  # NMI is no exception
        event(9),
        event(32),
        event(0xFFFF),
        event(6) | 1 << 1,  # another kind of event
    ],
    ids=hex,
)
def test_events_that_are_none(rig: Rig, refused: int) -> None:
    assert rig.set_register(Register.HvRegisterPendingEvent0, refused) == HvStatus.INVALID_REGISTER_VALUE
    assert not events(rig).exception.injected


def test_the_parameter_of_a_debug_exception_goes_to_dr6(rig: Rig) -> None:
    assert rig.set_register(Register.HvRegisterPendingEvent0, event(DB, parameter=0xFFFF_4FF0)) == ONE_REP
    assert value(rig, Register.HvX64RegisterDr6) == 0xFFFF_4FF0


@pytest.mark.parametrize(
    ("state", "activity"),
    [
        (k.KVM_MP_STATE_RUNNABLE, 0),
        (k.KVM_MP_STATE_UNINITIALIZED, 1),
        (k.KVM_MP_STATE_INIT_RECEIVED, 1),
        (k.KVM_MP_STATE_HALTED, 2),
    ],
)
def test_activity(attentive: Rig, state: int, activity: int) -> None:
    attentive.vps[1].vcpu.set_mp_state(state)

    assert value(attentive, Register.HvRegisterInternalActivityState, vp=1) == activity


# ---- another VP's ----------------------------------------------------------------------------------------


@pytest.mark.tlfs("REG-015")
def test_another_vps_registers_are_its_own(attentive: Rig) -> None:
    rig = attentive
    regs, sregs = rig.vps[1].vcpu.get_regs(), rig.vps[1].vcpu.get_sregs()
    regs.rbx, sregs.cr3 = 0x2B2B, 0xB000
    rig.vps[1].vcpu.set_regs(regs)
    rig.vps[1].vcpu.set_sregs(sregs)
    rig.run.regs.rbx, rig.run.sregs.cr3 = 0x1B1B, 0xA000

    result, values = rig.registers(
        Register.HvX64RegisterRbx, Register.HvX64RegisterCr3, Register.HvRegisterVpIndex, vp=1
    )

    assert (result, values) == (3 * ONE_REP, [0x2B2B, 0xB000, 1])


@pytest.mark.tlfs("REG-015")
def test_another_vps_registers_are_set(attentive: Rig) -> None:
    rig = attentive

    assert rig.set_register(Register.HvX64RegisterRbx, 0x3333, vp=1) == ONE_REP
    assert rig.set_register(Register.HvX64RegisterCr3, 0xC000, vp=1) == ONE_REP

    other = rig.vps[1].vcpu
    assert other.run.regs.rbx == 0x3333 and other.run.u64[296 // 8] & 1  # goes in with the next entry
    assert other.get_sregs().cr3 == 0xC000
    assert value(rig, Register.HvX64RegisterRbx, vp=1) == 0x3333


@pytest.mark.tlfs("REG-015")
def test_a_vp_that_does_not_come_out_in_time_makes_the_caller_ask_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, values = rig.registers(Register.HvX64RegisterRbx, vp=1)
    assert (result, values) == (0x1234, [NO_VALUE])  # RAX as it was: the call is made again
    rig.vps[1].after_kick()
    regs = rig.vps[1].vcpu.get_regs()
    regs.rbx = 0x3333  # it has run since: what it had is no answer to a call from now
    rig.vps[1].vcpu.set_regs(regs)

    monkeypatch.setattr(rig.vps[1], "kick", rig.vps[1].after_kick)

    assert rig.registers(Register.HvX64RegisterRbx, vp=1) == (ONE_REP, [0x3333])


# ---- address space ---------------------------------------------------------------------------------------


@pytest.mark.tlfs("TLB-006")
def test_switching_the_address_space(rig: Rig) -> None:
    fast = 1 << 16

    assert rig.call(Code.HvCallSwitchVirtualAddressSpace | fast, 0xD000) == 0
    assert rig.vps[0].vcpu.get_sregs().cr3 == rig.run.sregs.cr3 == 0xD000
    refused = rig.call(Code.HvCallSwitchVirtualAddressSpace | fast, 1 << 40)
    assert (refused, rig.run.sregs.cr3) == (HvStatus.INVALID_PARAMETER, 0xD000)


def test_all_calls_of_the_offer_have_handlers(rig: Rig) -> None:
    assert rig.hyperv.dispatcher.codes == {int(code) for code in EVERYTHING.codes}
