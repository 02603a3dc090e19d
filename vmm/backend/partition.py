# SPDX-License-Identifier: Apache-2.0
"""The KVM side of a machine: the VM, its memory slots, its interrupt controllers and its VPs.

A partition has one KVM VM per VTL over the same guest memory: a `VtlVm` each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kvmapi import Kvm, Vcpu, Vm, routes
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from vmm.backend import kick

# KVM on Intel without "unrestricted guest" needs four guest pages of its own; QEMU's places, below the BIOS.
IDENTITY_MAP_GPA = 0xFEFFC000
TSS_GPA = 0xFEFFD000

KVM_X2APIC_API_FLAGS = x86.KVM_X2APIC_API_USE_32BIT_IDS | x86.KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK


class RamMapping(Protocol):
    """A mapping of guest RAM in this process, made for one KVM VM."""

    address: int


@dataclass(frozen=True)
class Slot:
    """A memory slot: `size` bytes at guest physical `gpa`, found at `offset` of the mapping.

    readonly: the guest's writes go to the MMIO bus, where nobody decodes them.
    """

    gpa: int
    size: int
    offset: int
    readonly: bool = False


@dataclass(frozen=True)
class VmOptions:
    """split_irqchip: only the local APICs in the kernel. pit: an in-kernel i8254 (never with split_irqchip).

    cpu_pm: HLT, PAUSE and MWAIT stay in the guest, as far as this KVM can. wide_apic_ids: APIC ids have 32 bits in
    interrupt messages, as far as this KVM can. Not for processors without x2APIC: of several that give themselves
    the same xAPIC id KVM then interrupts only the first, not all (`kvm_recalculate_phys_map` of Linux' lapic.c).
    """

    split_irqchip: bool = False
    pit: bool = True
    cpu_pm: bool = False
    wide_apic_ids: bool = True


_PIC_PORTS = (0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1)
_PIT_PORTS = (0x40, 0x41, 0x42, 0x43, 0x61)


def ports_in_kernel(options: VmOptions) -> frozenset[int]:
    """Ports that KVM's own interrupt controllers and timer decode: their accesses never reach the VMM."""
    if options.split_irqchip:
        return frozenset()
    return frozenset(_PIC_PORTS + (_PIT_PORTS if options.pit else ()))


class VtlVm:
    """One VTL's KVM VM: its own mapping of RAM, interrupt controllers and vCPUs. A context manager."""

    def __init__(
        self, kvm: Kvm, vtl: int, mapping: RamMapping, slots: Sequence[Slot], options: VmOptions
    ) -> None:
        self.vtl = vtl
        self.mapping = mapping
        self.vcpus: list[Vcpu] = []
        self._made: dict[int, Vcpu] = {}
        """By APIC id, which KVM gives to no further vCPU of the VM."""
        self.vm: Vm = kvm.create_vm()
        try:
            self.vm.set_identity_map_addr(IDENTITY_MAP_GPA)
            self.vm.set_tss_addr(TSS_GPA)
            if options.wide_apic_ids:
                self._take_wide_apic_ids()
            if options.cpu_pm and (exits := self.vm.check_extension(k.KVM_CAP_X86_DISABLE_EXITS)):
                self.vm.enable_cap(k.KVM_CAP_X86_DISABLE_EXITS, exits & k.KVM_X86_DISABLE_VALID_EXITS)
            if options.split_irqchip:
                self.vm.enable_cap(k.KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS)
            else:
                self.vm.create_irqchip()
                self.vm.set_gsi_routing(pc_routes())
                if options.pit:
                    # The dummy speaker answers port 0x61, whose bits say when the PIT's channel 2 is done.
                    self.vm.create_pit2(k.KVM_PIT_SPEAKER_DUMMY)
            for number, slot in enumerate(slots):
                flags = k.KVM_MEM_READONLY if slot.readonly else 0
                address = mapping.address + slot.offset
                self.vm.set_user_memory_region(number, slot.gpa, slot.size, address, flags)
        except BaseException:
            self.vm.close()
            raise

    def __enter__(self) -> VtlVm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the vCPUs and the VM. Idempotent. No VP thread may still run."""
        self.vm.close()

    def _take_wide_apic_ids(self) -> None:
        if self.vm.check_extension(k.KVM_CAP_X2APIC_API) & KVM_X2APIC_API_FLAGS == KVM_X2APIC_API_FLAGS:
            self.vm.enable_cap(k.KVM_CAP_X2APIC_API, KVM_X2APIC_API_FLAGS)

    def add_vcpu(
        self,
        apic_id: int,
        cpuid: Sequence[x86.kvm_cpuid_entry2],
        msrs: Sequence[tuple[int, int]],
        tsc_khz: int | None,
        mcg_cap: int,
    ) -> Vcpu:
        """A vCPU with this APIC id, CPUID, MSRs `(index, value)`, TSC frequency (None: the host's) and
        machine-check banks (0: none). Errors: `KvmError`; it can be tried again, as long as
        it has not run.
        """
        vcpu = self._made.get(apic_id)
        if vcpu is None:
            vcpu = self._made[apic_id] = self.vm.create_vcpu(apic_id)
        if tsc_khz is not None:
            vcpu.set_tsc_khz(tsc_khz)
        vcpu.set_cpuid2(list(cpuid))
        if mcg_cap:
            vcpu.setup_mce(mcg_cap)
        if msrs:
            vcpu.set_msrs(list(msrs))
        if vcpu not in self.vcpus:
            self.vcpus.append(vcpu)
        return vcpu


IOAPIC_PINS = 24


def pc_routes() -> list[k.kvm_irq_routing_entry]:
    """GSIs as a PC wires them: 0-15 also to the 8259s, and the PIT's GSI 0 to IOAPIC pin 2.

    KVM's own default leads GSI 0 to pin 0, which contradicts the MADT's interrupt source override.
    """
    pics = [(gsi, x86.KVM_IRQCHIP_PIC_MASTER, gsi) for gsi in range(8)]
    pics += [(gsi, x86.KVM_IRQCHIP_PIC_SLAVE, gsi - 8) for gsi in range(8, 16)]
    ioapic = [(gsi, x86.KVM_IRQCHIP_IOAPIC, gsi or 2) for gsi in range(IOAPIC_PINS) if gsi != 2]
    return [routes.to_chip(gsi, chip, pin) for gsi, chip, pin in (*pics, *ioapic)]


class GsiLine:
    """An input pin of the in-kernel interrupt controllers (`vmm.outside.InterruptLine`), by GSI."""

    def __init__(self, vm: Vm, gsi: int) -> None:
        self._vm = vm
        self._gsi = gsi

    def set_level(self, level: bool) -> None:
        """Drive the pin high or low."""
        self._vm.irq_line(self._gsi, int(level))

    def pulse(self) -> None:
        """Drive the pin high, then low."""
        self._vm.irq_line(self._gsi, 1)
        self._vm.irq_line(self._gsi, 0)


@dataclass(frozen=True)
class ChipState:
    """The in-kernel PICs, IOAPIC and PIT, as `KVM_GET_IRQCHIP` and `KVM_GET_PIT2` give them."""

    chips: tuple[k.kvm_irqchip, ...]
    pit: x86.kvm_pit_state2 | None


def take_chips(vm: Vm, options: VmOptions) -> ChipState:
    """Read the in-kernel interrupt controllers; nothing where the irqchip is split."""
    if options.split_irqchip:
        return ChipState((), None)
    chips = (x86.KVM_IRQCHIP_PIC_MASTER, x86.KVM_IRQCHIP_PIC_SLAVE, x86.KVM_IRQCHIP_IOAPIC)
    return ChipState(tuple(vm.get_irqchip(chip) for chip in chips), vm.get_pit2() if options.pit else None)


def put_chips(vm: Vm, state: ChipState) -> None:
    """Write back what `take_chips` read."""
    for chip in state.chips:
        vm.set_irqchip(chip)
    if state.pit is not None:
        vm.set_pit2(state.pit)


def prepare_host() -> None:
    """What the process needs once before any VP thread: the kick signal's handler. Main thread only."""
    kick.install()
