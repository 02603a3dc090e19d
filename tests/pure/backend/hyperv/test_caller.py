# SPDX-License-Identifier: Apache-2.0
"""From an exit to the dispatcher and back into kvm_run; registers by hypercall."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from tests.pure.devices.fakes import FakeClock
from vmm.backend import kick
from vmm.backend.hyperv import interface, page_code
from vmm.backend.hyperv.caller import Caller
from vmm.backend.hyperv.flags import EVERYTHING
from vmm.backend.hyperv.offer import offer
from vmm.backend.hyperv.transport import PORT_WRITE, Transport
from vmm.backend.outcome import Outcome
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus, access
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.registers import HvRegisterName as Register
from vmm.hv.status import HvStatus
from vmm.hvcpuid import HvFeature
from vmm.hypercall.call import AGAIN
from vmm.outside import Buffer, GuestMemoryError

PAGE_GPA, INPUT, OUTPUT = 0x5000, 0x6000, 0x7000
PAGE_GVA = 0xFFFF_8000_0000_0000 + PAGE_GPA
RAM_BYTES = 0x10000
FAST, ONE_REP = 1 << 16, 1 << 32
SELF_PARTITION, SELF_VP = (1 << 64) - 1, 0xFFFF_FFFE
DIRTY_U64 = 296 // 8
SYNC_REGS = 1
MSR_ERROR_U8, MSR_INDEX_U32, MSR_DATA_U64 = 32, 11, 6
GUEST_OS_ID, HYPERCALL, VP_INDEX = 0x4000_0000, 0x4000_0001, 0x4000_0002


class Ram:
    """64 KiB of RAM at 0."""

    def __init__(self) -> None:
        self.data = bytearray(RAM_BYTES)
        self._pin = (ctypes.c_uint8 * RAM_BYTES).from_buffer(self.data)

    def _check(self, gpa: int, size: int) -> None:
        if not 0 <= gpa <= gpa + size <= RAM_BYTES:
            raise GuestMemoryError(f"[{gpa:#x}, {gpa + size:#x}) is no RAM")

    def read(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size)
        return bytes(self.data[gpa : gpa + size])

    def write(self, gpa: int, data: Buffer) -> None:
        self._check(gpa, len(data))
        self.data[gpa : gpa + len(data)] = data

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        found = self.read(gpa, len(expected))
        if found == expected:
            self.write(gpa, new)
        return found

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        self.write(gpa, bytes([value]) * size)

    def ranges(self) -> list[tuple[int, int]]:
        return [(0, RAM_BYTES)]

    def view(self, gpa: int, size: int) -> memoryview:
        self._check(gpa, size)
        return memoryview(self.data)[gpa : gpa + size]

    def host_address(self, gpa: int, size: int) -> int:
        self._check(gpa, size)
        return ctypes.addressof(self._pin) + gpa


class Control:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was not expected")


class Rig:
    """Two VPs with the whole interface; the first is at the hypercall page's trap, in 64-bit ring 0."""

    def __init__(
        self,
        fake: FakeKvm,
        kvm: Kvm,
        transport: Transport = PORT_WRITE,
        also: frozenset[HvFeature] = frozenset(),
    ) -> None:
        self.fake, self.ram = fake, Ram()
        self.vm = kvm.create_vm()
        self.vps = [
            VirtualProcessor(number, self.vm.create_vcpu(number), PortBus(), MmioBus(), self.ended)
            for number in range(2)
        ]
        self.ports = PortBus()
        machine = interface.Machine(
            vm=self.vm,
            processors=self.vps,
            apic_ids=[0, 1],
            memory=self.ram,
            clock=FakeClock(),
            control=Control(),
            ports=self.ports,
            notice=self.unexpected,
        )
        said = offer(
            replace(EVERYTHING, exits=transport.exits, features=EVERYTHING.features | also),
            cpus=2,
            gpa_bits=40,
            tsc_hz=2_000_000_000,
            tsc_known=True,
            transport=transport,
        )
        self.hyperv = interface.HypervInterface(machine, said)
        self.caller: Caller = self.hyperv.callers[0]
        self.run = self.vps[0].vcpu.run
        self.run.sregs.cs.l, self.run.sregs.efer, self.run.sregs.cr0 = 1, 1 << 10, 1
        self.vps[0].vcpu.set_sregs(self.run.sregs)
        assert self.write_msr(GUEST_OS_ID, 1)
        assert self.write_msr(HYPERCALL, PAGE_GPA | 1)

    def ended(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)

    def unexpected(self, line: str) -> None:
        raise AssertionError(line)

    def call(self, control: int, first: int = 0, second: int = 0, *, at: int = page_code.CALL) -> int:
        """A hypercall; RAX after it."""
        regs = self.run.regs
        regs.rax, regs.rcx, regs.rdx, regs.r8, regs.rip = 0x1234, control, first, second, PAGE_GVA + at
        self.run.u64[DIRTY_U64] = 0
        self.caller.hypercall()
        return int(regs.rax)

    def read_msr(self, msr: int) -> int | None:
        self.run.u8[MSR_ERROR_U8] = 0
        self.run.u32[MSR_INDEX_U32] = msr
        self.caller.read_msr()
        return None if self.run.u8[MSR_ERROR_U8] else self.run.u64[MSR_DATA_U64]

    def write_msr(self, msr: int, value: int) -> bool:
        self.run.u8[MSR_ERROR_U8] = 0
        self.run.u32[MSR_INDEX_U32] = msr
        self.run.u64[MSR_DATA_U64] = value
        self.caller.write_msr()
        return not self.run.u8[MSR_ERROR_U8]

    def registers(self, *names: int, vp: int = SELF_VP) -> tuple[int, list[int]]:
        """Slow HvCallGetVpRegisters: (result, values)."""
        self.ram.write(INPUT, struct.pack(f"<QIB3x{len(names)}I", SELF_PARTITION, vp, 0, *names))
        self.ram.fill(OUTPUT, 16 * len(names), 0xEE)
        result = self.call(Code.HvCallGetVpRegisters | len(names) * ONE_REP, INPUT, OUTPUT)
        block = self.ram.read(OUTPUT, 16 * len(names))
        return result, [int.from_bytes(block[at : at + 16], "little") for at in range(0, len(block), 16)]

    def set_register(self, name: int, value: int, vp: int = SELF_VP) -> int:
        self.ram.write(
            INPUT, struct.pack("<QIB3xI12x", SELF_PARTITION, vp, 0, name) + value.to_bytes(16, "little")
        )
        return self.call(Code.HvCallSetVpRegisters | ONE_REP, INPUT)


@contextmanager
def a_rig(transport: Transport = PORT_WRITE, also: frozenset[HvFeature] = frozenset()) -> Iterator[Rig]:
    """also: features beside those that are there by default."""
    kick.install()
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm:
        rig = Rig(fake, kvm, transport, also)
        yield rig
        rig.hyperv.close()
        del rig.caller, rig.hyperv  # their views of kvm_run go before the mapping


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig() as made:
        yield made


def test_the_page_shows_the_code(rig: Rig) -> None:
    assert rig.ram.read(PAGE_GPA, len(page_code.CODE)) == page_code.CODE


@pytest.mark.parametrize("at", sorted(page_code.AT_TRAP))
def test_a_finished_call_leaves_rip_wherever_kvm_left_it(rig: Rig, at: int) -> None:
    assert rig.call(Code.HvCallNotifyLongSpinWait | FAST, at=at) == 0

    assert rig.run.regs.rip == PAGE_GVA + at
    assert rig.run.u64[DIRTY_U64] == SYNC_REGS


def test_a_write_from_elsewhere_is_no_hypercall(rig: Rig) -> None:
    assert rig.call(Code.HvCallNotifyLongSpinWait | FAST, at=0x123) == 0x1234
    assert rig.run.u64[DIRTY_U64] == 0


def test_a_call_to_be_made_again_goes_on_at_that_entry(rig: Rig) -> None:
    handler = rig.hyperv.dispatcher._handled[Code.HvCallNotifyLongSpinWait]
    handler.handler = lambda context, call: (AGAIN, 0, None)

    assert rig.call(Code.HvCallNotifyLongSpinWait | FAST, at=2) == 0x1234

    assert rig.run.regs.rip == PAGE_GVA + page_code.AGAIN


@pytest.mark.parametrize("change", ["ring 3", "real mode", "no page"])
def test_who_may_not_call_goes_on_at_the_invalid_opcode(rig: Rig, change: str) -> None:
    if change == "ring 3":
        rig.run.sregs.ss.dpl = 3
    elif change == "real mode":
        rig.run.sregs.cr0 = rig.run.sregs.efer = rig.run.sregs.cs.l = 0
    else:
        rig.write_msr(GUEST_OS_ID, 0)

    assert rig.call(Code.HvCallNotifyLongSpinWait | FAST) == 0x1234

    assert rig.run.regs.rip == PAGE_GVA + page_code.REFUSE


def test_a_32_bit_caller_uses_its_own_registers(rig: Rig) -> None:
    rig.run.sregs.cs.l = 0
    regs = rig.run.regs
    regs.rip, regs.rax, regs.rdx = PAGE_GPA, 0x7777, 0  # EDX:EAX is the control word

    rig.caller.hypercall()

    assert (regs.rax, regs.rdx) == (HvStatus.INVALID_HYPERCALL_CODE, 0)


def test_msrs(rig: Rig) -> None:
    assert rig.read_msr(VP_INDEX) == 0
    assert rig.read_msr(HYPERCALL) == PAGE_GPA | 1
    assert rig.read_msr(0x4000_01FF) is None
    assert not rig.write_msr(VP_INDEX, 1)


def test_each_vp_s_write_to_the_port_is_its_own_hypercall(rig: Rig) -> None:
    write = access(True, 1, page_code.PORT)

    assert [vp.handlers[write] for vp in rig.vps] == [caller.hypercall for caller in rig.hyperv.callers]
    assert page_code.PORT in rig.ports.ports and write not in rig.ports.outs


# ---- registers ------------------------------------------------------------------------------------------


def test_registers_of_the_caller(rig: Rig) -> None:
    rig.run.regs.rbx, rig.run.sregs.cr3 = 0xBBBB, 0x9000
    segment = rig.run.sregs.tr
    segment.base, segment.limit, segment.selector, segment.type, segment.present = (
        0x1_0000_0000,
        0x67,
        8,
        11,
        1,
    )
    rig.run.sregs.idt.base, rig.run.sregs.idt.limit = 0x4000, 0xFFF

    result, values = rig.registers(
        Register.HvX64RegisterRbx,
        Register.HvX64RegisterCr3,
        Register.HvX64RegisterTr,
        Register.HvX64RegisterIdtr,
        Register.HvRegisterVpIndex,
    )

    assert result == 5 * ONE_REP
    tr = 0x1_0000_0000 | 0x67 << 64 | 8 << 96 | 0x8B << 112
    assert values == [0xBBBB, 0x9000, tr, 0xFFF << 48 | 0x4000 << 64, 0]


def test_cpuid_as_a_register(rig: Rig) -> None:
    _, (features,) = rig.registers(Register.HvRegisterPrivilegesAndFeaturesInfo)

    assert features & (1 << 64) - 1 == rig.caller.privileges


def test_what_comes_before_an_unknown_register_is_answered(rig: Rig) -> None:
    result, values = rig.registers(Register.HvRegisterGuestOsId, 0x7777_7777, Register.HvRegisterVpIndex)

    assert result == HvStatus.INVALID_PARAMETER | ONE_REP
    assert values == [1, int.from_bytes(b"\xee" * 16, "little"), int.from_bytes(b"\xee" * 16, "little")]


def test_setting_registers(rig: Rig) -> None:
    assert rig.set_register(Register.HvX64RegisterRbx, 0x7777) == ONE_REP
    assert rig.run.regs.rbx == 0x7777
    assert rig.set_register(Register.HvX64RegisterCr3, 0xA000) == ONE_REP
    assert rig.vps[0].vcpu.get_sregs().cr3 == rig.run.sregs.cr3 == 0xA000
    assert rig.set_register(Register.HvX64RegisterXmm2, 1 << 127 | 5) == ONE_REP
    assert rig.registers(Register.HvX64RegisterXmm2) == (ONE_REP, [1 << 127 | 5])
    assert rig.set_register(Register.HvX64RegisterLstar, 0xC000) == ONE_REP
    assert rig.registers(Register.HvX64RegisterLstar) == (ONE_REP, [0xC000])
    assert rig.set_register(Register.HvX64RegisterDr7, 0x401) == ONE_REP
    assert rig.registers(Register.HvX64RegisterDr7) == (ONE_REP, [0x401])


@pytest.mark.parametrize("register", [Register.HvRegisterVpIndex, Register.HvX64RegisterTsc, 0x7777_7777])
def test_registers_that_cannot_be_set(rig: Rig, register: int) -> None:
    assert rig.set_register(register, 1) == HvStatus.INVALID_PARAMETER


def test_a_value_that_kvm_refuses_is_the_guests_error(rig: Rig) -> None:
    rig.fake.fail("KVM_SET_SREGS", 22)

    assert rig.set_register(Register.HvX64RegisterCr4, 1 << 24) == HvStatus.INVALID_REGISTER_VALUE
    assert rig.hyperv.dispatcher.internal_errors == 0


def test_fast_registers_travel_in_xmm(rig: Rig) -> None:
    vcpu = rig.vps[0].vcpu
    area = vcpu.get_xsave()
    address = ctypes.addressof(area)
    ctypes.memmove(address + 160, struct.pack("<I", Register.HvRegisterGuestOsId), 4)  # XMM0
    vcpu.set_xsave(area)

    result = rig.call(Code.HvCallGetVpRegisters | FAST | ONE_REP, SELF_PARTITION, SELF_VP)

    assert result == ONE_REP
    after = bytes(vcpu.get_xsave())
    assert after[160:192] == struct.pack("<I", Register.HvRegisterGuestOsId).ljust(16, b"\0") + b"\1".ljust(
        16, b"\0"
    )
    assert after[512] & 2  # XSTATE_BV says that SSE state is there
    ctypes.memmove(address + 160, struct.pack("<I", Register.HvRegisterVpIndex), 4)
    vcpu.set_xsave(area)  # the guest ran on
    assert rig.call(Code.HvCallGetVpRegisters | FAST | ONE_REP, SELF_PARTITION, SELF_VP) == ONE_REP
    assert bytes(vcpu.get_xsave())[176:192] == bytes(16)
