# SPDX-License-Identifier: Apache-2.0
"""A machine with VTLs over a scripted KVM, whose hypercalls are made as their exits would come."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TypeVar

from kvmapi import Kvm, Vcpu
from kvmapi.fake import FakeKvm
from tests.pure.backend.hyperv.test_caller import Control, Ram
from tests.pure.devices.fakes import FakeClock
from tests.pure.vsm.world import CONTEXT
from vmm.backend import kick
from vmm.backend.emulation.emulator import Emulator
from vmm.backend.hyperv import flags, interface, page_code
from vmm.backend.hyperv.caller import Caller
from vmm.backend.hyperv.offer import offer
from vmm.backend.outcome import Outcome
from vmm.backend.partition import VmOptions, VtlVm
from vmm.backend.protection.host import HostProtection
from vmm.backend.protection.view import RamPages
from vmm.backend.vp import VirtualProcessor
from vmm.backend.vsm.startup_signals import CarriedOutByKvm, StartupSignals
from vmm.backend.vsm.vtls import Vtls
from vmm.bus import MmioBus, PortBus, access
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hypercall.outside import UnprotectedMemory
from vmm.vsm.device_memory import DeviceMemory

PAGE_GPA, INPUT = 0x5000, 0x6000
GUEST_OS_ID, HYPERCALL = 0x4000_0000, 0x4000_0001
MSR_ERROR_U8, MSR_INDEX_U32, MSR_DATA_U64 = 32, 11, 6
FAST = 1 << 16
SELF, VTL1 = (1 << 64) - 1, 1
IRR, SPIV = 0x200, 0xF0
VECTOR = 0x31
AGAIN = 0x1234  # RAX keeps the caller's value


class Mapping:
    address = 0x10000


class Rig:
    """Two VPs of a machine with VTLs; their hypercalls are made as their exits would come."""

    def __init__(self, fake: FakeKvm, kvm: Kvm) -> None:
        self.fake, self.kvm, self.ram = fake, kvm, Ram()
        self.vm = kvm.create_vm()
        self.vps = [
            VirtualProcessor(number, self.vm.create_vcpu(number), PortBus(), MmioBus(), self.ended)
            for number in range(2)
        ]
        for vp in self.vps:
            vp.emulator = Emulator(vp.vcpu, UnprotectedMemory(self.ram))
        self.vms: list[VtlVm] = []
        machine = interface.Machine(
            vm=self.vm,
            processors=self.vps,
            apic_ids=[0, 1],
            memory=self.ram,
            clock=FakeClock(),
            control=Control(),
            ports=PortBus(),
            notice=self.unexpected,
            higher=interface.HigherVms(
                lambda vtl: self.make_vm(vtl), self.add_vcpu, has_xcr0=True, signals=self.signals()
            ),
            protection=self.protection(),
            device_memory=DeviceMemory(self.ram),
        )
        self.machine = machine
        wanted = flags.wanted({flags.PASSTHROUGH: "on", flags.VSM: "on"})
        assert wanted is not None
        said = offer(wanted, cpus=2, gpa_bits=40, tsc_hz=2_000_000_000, tsc_known=True)
        self.hyperv = interface.HypervInterface(machine, said)
        assert self.hyperv.vtls is not None
        self.vtls: Vtls = self.hyperv.vtls
        for vp in self.vps:
            self.ring_0(vp.vcpu)
        self.place_page(0)

    def protection(self) -> HostProtection | None:
        """What this machine enforces rights to memory by."""
        return None

    def signals(self) -> StartupSignals:
        return CarriedOutByKvm()

    def make_vm(self, vtl: int) -> tuple[VtlVm, RamPages | None]:
        vm = VtlVm(self.kvm, vtl, Mapping(), [], VmOptions(split_irqchip=True, pit=False))
        self.vms.append(vm)
        return vm, None

    def add_vcpu(self, vm: VtlVm, vp: int) -> Vcpu:
        return vm.add_vcpu(vp, [], [], None, 0)

    def ended(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)

    def unexpected(self, line: str) -> None:
        raise AssertionError(line)

    def ring_0(self, vcpu: Vcpu) -> None:
        sregs = vcpu.run.sregs
        sregs.cs.l, sregs.efer, sregs.cr0 = 1, 1 << 10, 1
        vcpu.set_sregs(sregs)

    def caller(self, vp: int) -> Caller:
        """Who gets the hypercalls of what the VP runs now."""
        hypercall = self.vps[vp].handlers[access(True, 1, page_code.PORT)]
        assert isinstance(hypercall, MethodType)  # as all handlers are
        caller = hypercall.__self__
        assert isinstance(caller, Caller) and caller.vcpu is self.vps[vp].vcpu
        return caller

    def write_msr(self, vp: int, msr: int, value: int) -> bool:
        run = self.vps[vp].vcpu.run
        run.u8[MSR_ERROR_U8], run.u32[MSR_INDEX_U32], run.u64[MSR_DATA_U64] = 0, msr, value
        self.caller(vp).write_msr()
        return not run.u8[MSR_ERROR_U8]

    def place_page(self, vp: int) -> None:
        assert self.write_msr(vp, GUEST_OS_ID, 1) and self.write_msr(vp, HYPERCALL, PAGE_GPA | 1)

    def call(self, vp: int, control: int, first: int = 0, second: int = 0) -> int:
        """RAX after a hypercall of what the VP runs."""
        caller, regs = self.caller(vp), self.vps[vp].vcpu.run.regs
        regs.rax, regs.rcx, regs.rdx, regs.r8, regs.rip = AGAIN, control, first, second, PAGE_GPA
        caller.hypercall()
        return int(regs.rax)

    def enable(self, vp: int, *, caller: int = 0) -> int:
        """HvCallEnableVpVtl of VTL1."""
        self.ram.write(INPUT, struct.pack("<QIB3x", SELF, vp, VTL1) + CONTEXT.pack())
        return self.call(caller, Code.HvCallEnableVpVtl, INPUT)

    def with_vtl1(self) -> None:
        assert self.call(0, Code.HvCallEnablePartitionVtl | FAST, SELF, VTL1) == 0
        assert self.enable(0) == 0

    def vcpu(self, vp: int, vtl: int) -> Vcpu:
        return self.vtls.schedulers[vp].vtls[vtl].vcpu

    def switch(self, vp: int, code: Code, control: int = 0) -> None:
        run = self.vps[vp].vcpu.run
        run.regs.rax, run.regs.rcx, run.regs.rip = control, int(code), PAGE_GPA
        self.caller(vp).hypercall()

    def interrupt(self, vp: int, vtl: int) -> None:
        """An interrupt comes to the local APIC."""
        lapic = self.vcpu(vp, vtl).get_lapic()
        lapic.regs[IRR + VECTOR // 32 * 16 + VECTOR % 32 // 8] |= 1 << VECTOR % 8
        self.vcpu(vp, vtl).set_lapic(lapic)


R = TypeVar("R", bound=Rig)


@contextmanager
def a_rig(kind: type[R]) -> Iterator[R]:
    kick.install()
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm:
        rig = kind(fake, kvm)
        yield rig
        rig.hyperv.close()
