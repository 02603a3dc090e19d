# SPDX-License-Identifier: Apache-2.0
"""`VmInterrupts`: the in-kernel irqchip and PIT of a VM, interrupt lines and routes, irqfd and ioeventfd."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Any

from kvmapi.attributes import AttributeFd
from kvmapi.uapi.kvm_ioctl import (
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_PIT,
    KVM_CREATE_PIT2,
    KVM_GET_IRQCHIP,
    KVM_GET_PIT,
    KVM_GET_PIT2,
    KVM_IOEVENTFD,
    KVM_IRQ_LINE,
    KVM_IRQ_LINE_STATUS,
    KVM_IRQFD,
    KVM_REINJECT_CONTROL,
    KVM_SET_BOOT_CPU_ID,
    KVM_SET_GSI_ROUTING,
    KVM_SET_IRQCHIP,
    KVM_SET_PIT,
    KVM_SET_PIT2,
    KVM_SIGNAL_MSI,
)
from kvmapi.uapi.kvm_irq import (
    KVM_IOEVENTFD_FLAG_DATAMATCH,
    KVM_IOEVENTFD_FLAG_DEASSIGN,
    KVM_IOEVENTFD_FLAG_PIO,
    KVM_IRQFD_FLAG_DEASSIGN,
    KVM_IRQFD_FLAG_RESAMPLE,
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_irq_routing_entry,
    kvm_irqchip,
    kvm_irqfd,
    kvm_msi,
    kvm_pit_config,
    make_kvm_irq_routing,
)
from kvmapi.uapi.layout import build
from kvmapi.uapi.x86_board import kvm_pit_state, kvm_pit_state2, kvm_reinject_control

_IRQ_LEVEL = Struct("<II")


class VmInterrupts(AttributeFd):
    """Interrupt controllers in the kernel. A GSI is a global interrupt number: 0-15 PIC and I/O APIC, -23 I/O APIC."""

    __slots__ = ()

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP (api.rst 4.24): two PICs, an I/O APIC, a local APIC per vCPU. KVM_CAP_IRQCHIP.

        Before the first vCPU. The split form (local APICs only) is
        `enable_cap(KVM_CAP_SPLIT_IRQCHIP, number_of_gsis)`.
        """
        self._ioctl(KVM_CREATE_IRQCHIP)

    def create_pit2(self, flags: int = 0) -> None:
        """KVM_CREATE_PIT2 (api.rst 4.71): the 8254. KVM_CAP_PIT2; after `create_irqchip`.

        `flags`: KVM_PIT_SPEAKER_DUMMY makes KVM answer port 0x61.
        """
        self._ioctl(KVM_CREATE_PIT2, build(kvm_pit_config, flags=flags), flags=flags)

    def create_pit(self) -> None:
        """KVM_CREATE_PIT: the older form of `create_pit2`, with the speaker port."""
        self._ioctl(KVM_CREATE_PIT)

    def get_irqchip(self, chip_id: int) -> kvm_irqchip:
        """KVM_GET_IRQCHIP (api.rst 4.26): state of chip KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE or _IOAPIC."""
        chip: kvm_irqchip = self._filled(
            KVM_GET_IRQCHIP, build(kvm_irqchip, chip_id=chip_id), chip_id=chip_id
        )
        return chip

    def set_irqchip(self, chip: kvm_irqchip) -> None:
        """KVM_SET_IRQCHIP (api.rst 4.27): `chip.chip_id` says which."""
        self._ioctl(KVM_SET_IRQCHIP, chip, chip_id=chip.chip_id)

    def get_pit2(self) -> kvm_pit_state2:
        """KVM_GET_PIT2 (api.rst 4.72). KVM_CAP_PIT_STATE2."""
        state: kvm_pit_state2 = self._filled(KVM_GET_PIT2, kvm_pit_state2())
        return state

    def set_pit2(self, state: kvm_pit_state2) -> None:
        """KVM_SET_PIT2 (api.rst 4.73). KVM_CAP_PIT_STATE2."""
        self._ioctl(KVM_SET_PIT2, state)

    def get_pit(self) -> kvm_pit_state:
        """KVM_GET_PIT: the older form of `get_pit2`."""
        state: kvm_pit_state = self._filled(KVM_GET_PIT, kvm_pit_state())
        return state

    def set_pit(self, state: kvm_pit_state) -> None:
        """KVM_SET_PIT: the older form of `set_pit2`."""
        self._ioctl(KVM_SET_PIT, state)

    def reinject_control(self, reinject: bool) -> None:
        """KVM_REINJECT_CONTROL (api.rst 4.99): whether lost PIT ticks come late or never.

        Capability: KVM_CAP_REINJECT_CONTROL; after `create_pit2`.
        """
        argument = build(kvm_reinject_control, pit_reinject=int(reinject))
        self._ioctl(KVM_REINJECT_CONTROL, argument, reinject=reinject)

    def irq_line(self, gsi: int, level: int) -> None:
        """KVM_IRQ_LINE (api.rst 4.25): drive GSI `gsi` to `level`, 0 or 1. KVM_CAP_IRQCHIP.

        An edge-triggered interrupt is a 1 followed by a 0. Thread-safe.
        """
        self._ioctl(KVM_IRQ_LINE, bytearray(_IRQ_LEVEL.pack(gsi, level)), gsi=gsi, level=level)

    def irq_line_status(self, gsi: int, level: int) -> int:
        """KVM_IRQ_LINE_STATUS: the same, and what became of it. KVM_CAP_IRQ_INJECT_STATUS.

        More than 0: delivered to so many CPUs; 0: merged with one not yet handled; less than 0: masked.
        """
        argument = build(kvm_irq_level, irq=gsi, level=level)
        self._ioctl(KVM_IRQ_LINE_STATUS, argument, gsi=gsi, level=level)
        return int(argument.status)

    def signal_msi(self, address: int, data: int, devid: int | None = None) -> int:
        """KVM_SIGNAL_MSI (api.rst 4.71): deliver an MSI now. KVM_CAP_SIGNAL_MSI; needs local APICs in the kernel.

        More than 0: delivered; 0: the guest blocks it. `address` has 64 bits, its upper half holds the rest of
        a 32-bit APIC id when KVM_CAP_X2APIC_API is enabled with KVM_X2APIC_API_USE_32BIT_IDS.
        """
        argument = build(kvm_msi, address_lo=address & 0xFFFF_FFFF, address_hi=address >> 32, data=data)
        if devid is not None:
            argument.devid = devid
            argument.flags = 1  # KVM_MSI_VALID_DEVID
        return self._ioctl(KVM_SIGNAL_MSI, argument, address=address, data=data)

    def set_gsi_routing(self, entries: Iterable[kvm_irq_routing_entry]) -> None:
        """KVM_SET_GSI_ROUTING (api.rst 4.52): replace the whole routing table. KVM_CAP_IRQ_ROUTING.

        `kvmapi.routes` makes entries. A GSI may have several; without this call KVM has the PC's default.
        """
        table = list(entries)
        argument = make_kvm_irq_routing(len(table))()
        argument.nr = len(table)
        for position, entry in enumerate(table):
            argument.entries[position] = entry
        self._ioctl(KVM_SET_GSI_ROUTING, argument, entries=len(table))

    def irqfd(self, fd: int, gsi: int, resamplefd: int | None = None, deassign: bool = False) -> None:
        """KVM_IRQFD (api.rst 4.75): a write to eventfd `fd` raises GSI `gsi` with no exit. KVM_CAP_IRQFD.

        `resamplefd`, an eventfd too, makes it level-triggered: it is signalled at the guest's EOI
        (KVM_CAP_IRQFD_RESAMPLE). `deassign` undoes it. KVM keeps the eventfd; the caller may close its fd.
        """
        flags = KVM_IRQFD_FLAG_DEASSIGN if deassign else 0
        values: dict[str, Any] = {"fd": fd, "gsi": gsi}
        if resamplefd is not None:
            flags |= KVM_IRQFD_FLAG_RESAMPLE
            values["resamplefd"] = resamplefd
        self._ioctl(KVM_IRQFD, build(kvm_irqfd, flags=flags, **values), **values, flags=flags)

    def ioeventfd(
        self,
        fd: int,
        address: int,
        size: int,
        datamatch: int | None = None,
        pio: bool = False,
        deassign: bool = False,
    ) -> None:
        """KVM_IOEVENTFD (api.rst 4.59): a guest write to `address` signals eventfd `fd`, no exit. KVM_CAP_IOEVENTFD.

        `size` 1, 2, 4 or 8 bytes, or 0 for any (KVM_CAP_IOEVENTFD_ANY_LENGTH); `datamatch` only for that
        value; `pio` for a port. `deassign` takes the same operands. A read still exits.
        """
        flags = (
            (KVM_IOEVENTFD_FLAG_DATAMATCH if datamatch is not None else 0)
            | (KVM_IOEVENTFD_FLAG_PIO if pio else 0)
            | (KVM_IOEVENTFD_FLAG_DEASSIGN if deassign else 0)
        )
        argument = build(kvm_ioeventfd, datamatch=datamatch or 0, addr=address, len=size, fd=fd, flags=flags)
        self._ioctl(KVM_IOEVENTFD, argument, fd=fd, addr=address, len=size, flags=flags)

    def set_boot_cpu_id(self, vcpu_id: int) -> None:
        """KVM_SET_BOOT_CPU_ID (api.rst 4.41): which vCPU starts, 0 unless told. KVM_CAP_SET_BOOT_CPU_ID."""
        self._ioctl(KVM_SET_BOOT_CPU_ID, vcpu_id, vcpu_id=vcpu_id)
