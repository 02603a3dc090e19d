# SPDX-License-Identifier: Apache-2.0
"""Entries for `Vm.set_gsi_routing`, and the table of a PC."""

from __future__ import annotations

from kvmapi.uapi.kvm_irq import (
    KVM_IRQ_ROUTING_HV_SINT,
    KVM_IRQ_ROUTING_IRQCHIP,
    KVM_IRQ_ROUTING_MSI,
    KVM_IRQ_ROUTING_XEN_EVTCHN,
    KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
    kvm_irq_routing_entry,
)
from kvmapi.uapi.layout import build
from kvmapi.uapi.x86_board import (
    KVM_IOAPIC_NUM_PINS,
    KVM_IRQCHIP_IOAPIC,
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
)


def to_chip(gsi: int, chip: int, pin: int) -> kvm_irq_routing_entry:
    """`gsi` drives `pin` of `chip`, KVM_IRQCHIP_*."""
    entry: kvm_irq_routing_entry = build(kvm_irq_routing_entry, gsi=gsi, type=KVM_IRQ_ROUTING_IRQCHIP)
    entry.u.irqchip.irqchip = chip
    entry.u.irqchip.pin = pin
    return entry


def to_msi(gsi: int, address: int, data: int) -> kvm_irq_routing_entry:
    """`gsi` sends the MSI `data` to `address` (64 bits)."""
    entry: kvm_irq_routing_entry = build(kvm_irq_routing_entry, gsi=gsi, type=KVM_IRQ_ROUTING_MSI)
    entry.u.msi.address_lo = address & 0xFFFF_FFFF
    entry.u.msi.address_hi = address >> 32
    entry.u.msi.data = data
    return entry


def to_hv_sint(gsi: int, vcpu: int, sint: int) -> kvm_irq_routing_entry:
    """`gsi` raises SINT `sint` of the vCPU with index `vcpu` (KVM_CAP_HYPERV_SYNIC)."""
    entry: kvm_irq_routing_entry = build(kvm_irq_routing_entry, gsi=gsi, type=KVM_IRQ_ROUTING_HV_SINT)
    entry.u.hv_sint.vcpu = vcpu
    entry.u.hv_sint.sint = sint
    return entry


def to_xen_evtchn(gsi: int, vcpu: int, port: int) -> kvm_irq_routing_entry:
    """`gsi` raises Xen event channel `port` on `vcpu`."""
    entry: kvm_irq_routing_entry = build(kvm_irq_routing_entry, gsi=gsi, type=KVM_IRQ_ROUTING_XEN_EVTCHN)
    entry.u.xen_evtchn.port = port
    entry.u.xen_evtchn.vcpu = vcpu
    entry.u.xen_evtchn.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL
    return entry


def pc_default() -> list[kvm_irq_routing_entry]:
    """The table KVM_CREATE_IRQCHIP sets up: GSI n is pin n of the I/O APIC, and of the PICs below 16.

    The cascade, pin 2 of the master PIC, is GSI 2 there as well; KVM's I/O APIC gets the timer (GSI 0) at
    pin 0 and leaves the usual re-route to pin 2 to the VMM.
    """
    entries: list[kvm_irq_routing_entry] = []
    for gsi in range(KVM_IOAPIC_NUM_PINS):
        entries.append(to_chip(gsi, KVM_IRQCHIP_IOAPIC, gsi))
        if gsi < 16:
            chip = KVM_IRQCHIP_PIC_MASTER if gsi < 8 else KVM_IRQCHIP_PIC_SLAVE
            entries.append(to_chip(gsi, chip, gsi % 8))
    return entries
