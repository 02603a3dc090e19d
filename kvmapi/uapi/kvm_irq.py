# SPDX-License-Identifier: Apache-2.0
"""linux/kvm.h: interrupts: lines, chips, routing, MSIs, and eventfds that stand for them."""

from kvmapi.uapi.layout import Structure, Union, fields, flexible_array, layout, s32, u8, u32, u64
from kvmapi.uapi.x86_board import kvm_ioapic_state, kvm_pic_state


@layout(size=4, offsets={"irq": 0, "status": 0}, inside="kvm_irq_level")
class kvm_irq_level_number(Union):
    """In: the GSI. Out, from KVM_IRQ_LINE_STATUS: what became of it."""

    __slots__ = ()
    _fields_ = [("irq", u32), ("status", s32)]


@layout(size=8, offsets={"level": 4})
class kvm_irq_level(Structure):
    """KVM_IRQ_LINE: drive line `irq` (a GSI) to `level`, 0 or 1."""

    __slots__ = ()
    _anonymous_ = ("number",)
    _fields_ = [("number", kvm_irq_level_number), ("level", u32)]


@layout(size=512, offsets={"dummy": 0, "pic": 0, "ioapic": 0}, inside="kvm_irqchip")
class kvm_irqchip_chip(Union):
    """By `chip_id`."""

    __slots__ = ()
    _fields_ = [("dummy", u8 * 512), ("pic", kvm_pic_state), ("ioapic", kvm_ioapic_state)]


@layout(size=520, offsets={"chip_id": 0, "pad": 4, "chip": 8})
class kvm_irqchip(Structure):
    """KVM_GET_IRQCHIP, KVM_SET_IRQCHIP: one chip, KVM_IRQCHIP_*."""

    __slots__ = ()
    _fields_ = [("chip_id", u32), ("pad", u32), ("chip", kvm_irqchip_chip)]


@layout(size=64, offsets={"flags": 0, "pad": 4})
class kvm_pit_config(Structure):
    """KVM_CREATE_PIT2: `flags` KVM_PIT_SPEAKER_DUMMY lets KVM answer port 0x61."""

    __slots__ = ()
    _fields_ = [("flags", u32), ("pad", u32 * 15)]


KVM_PIT_SPEAKER_DUMMY = 1

KVM_IOEVENTFD_FLAG_DATAMATCH = 1 << 0
KVM_IOEVENTFD_FLAG_PIO = 1 << 1
KVM_IOEVENTFD_FLAG_DEASSIGN = 1 << 2
KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY = 1 << 3
KVM_IOEVENTFD_VALID_FLAG_MASK = (1 << 5) - 1


@layout(size=64, offsets={"datamatch": 0, "addr": 8, "len": 16, "fd": 20, "flags": 24, "pad": 28})
class kvm_ioeventfd(Structure):
    """KVM_IOEVENTFD: a guest write of `len` bytes (0: any length) to `addr` signals `fd`."""

    __slots__ = ()
    _fields_ = [
        ("datamatch", u64),
        ("addr", u64),
        ("len", u32),
        ("fd", s32),
        ("flags", u32),
        ("pad", u8 * 36),
    ]


@layout(size=8, offsets={"irqchip": 0, "pin": 4})
class kvm_irq_routing_irqchip(Structure):
    """A route to a pin of an in-kernel chip."""

    __slots__ = ()
    _fields_ = [("irqchip", u32), ("pin", u32)]


@layout(size=4, offsets={"pad": 0, "devid": 0}, inside="kvm_irq_routing_msi")
class kvm_irq_routing_msi_devid(Union):
    """Device id, only with KVM_MSI_VALID_DEVID."""

    __slots__ = ()
    _fields_ = [("pad", u32), ("devid", u32)]


@layout(size=16, offsets={"address_lo": 0, "address_hi": 4, "data": 8})
class kvm_irq_routing_msi(Structure):
    """A route to a message-signalled interrupt."""

    __slots__ = ()
    _anonymous_ = ("device",)
    _fields_ = [*fields(u32, "address_lo address_hi data"), ("device", kvm_irq_routing_msi_devid)]


@layout(
    size=32,
    offsets={"ind_addr": 0, "summary_addr": 8, "ind_offset": 16, "summary_offset": 24, "adapter_id": 28},
)
class kvm_irq_routing_s390_adapter(Structure):
    """Not for x86; here because it sizes the union."""

    __slots__ = ()
    _fields_ = [
        *fields(u64, "ind_addr summary_addr ind_offset"),
        ("summary_offset", u32),
        ("adapter_id", u32),
    ]


@layout(size=8, offsets={"vcpu": 0, "sint": 4})
class kvm_irq_routing_hv_sint(Structure):
    """A route to SINT `sint` of vCPU index `vcpu`."""

    __slots__ = ()
    _fields_ = [("vcpu", u32), ("sint", u32)]


@layout(size=12, offsets={"port": 0, "vcpu": 4, "priority": 8})
class kvm_irq_routing_xen_evtchn(Structure):
    """A route to a Xen event channel."""

    __slots__ = ()
    _fields_ = [*fields(u32, "port vcpu priority")]


KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL = 0xFFFF_FFFF

KVM_IRQ_ROUTING_IRQCHIP = 1
KVM_IRQ_ROUTING_MSI = 2
KVM_IRQ_ROUTING_S390_ADAPTER = 3
KVM_IRQ_ROUTING_HV_SINT = 4
KVM_IRQ_ROUTING_XEN_EVTCHN = 5


@layout(
    size=32,
    offsets={"irqchip": 0, "msi": 0, "adapter": 0, "hv_sint": 0, "xen_evtchn": 0, "pad": 0},
    inside="kvm_irq_routing_entry",
)
class kvm_irq_routing_entry_u(Union):
    """By `type`."""

    __slots__ = ()
    _fields_ = [
        ("irqchip", kvm_irq_routing_irqchip),
        ("msi", kvm_irq_routing_msi),
        ("adapter", kvm_irq_routing_s390_adapter),
        ("hv_sint", kvm_irq_routing_hv_sint),
        ("xen_evtchn", kvm_irq_routing_xen_evtchn),
        ("pad", u32 * 8),
    ]


@layout(size=48, offsets={"gsi": 0, "type": 4, "flags": 8, "pad": 12, "u": 16})
class kvm_irq_routing_entry(Structure):
    """Where GSI `gsi` goes."""

    __slots__ = ()
    _fields_ = [*fields(u32, "gsi type flags pad"), ("u", kvm_irq_routing_entry_u)]


@layout(size=8, offsets={"nr": 0, "flags": 4})
class kvm_irq_routing(Structure):
    """KVM_SET_GSI_ROUTING: the whole table, `nr` entries follow."""

    __slots__ = ()
    _fields_ = [("nr", u32), ("flags", u32)]


make_kvm_irq_routing = flexible_array(kvm_irq_routing, "entries", kvm_irq_routing_entry)

KVM_IRQFD_FLAG_DEASSIGN = 1 << 0
KVM_IRQFD_FLAG_RESAMPLE = 1 << 1


@layout(size=32, offsets={"fd": 0, "gsi": 4, "flags": 8, "resamplefd": 12, "pad": 16})
class kvm_irqfd(Structure):
    """KVM_IRQFD: a write to eventfd `fd` raises `gsi`."""

    __slots__ = ()
    _fields_ = [*fields(u32, "fd gsi flags resamplefd"), ("pad", u8 * 16)]


KVM_MSI_VALID_DEVID = 1 << 0


@layout(size=32, offsets={"address_lo": 0, "address_hi": 4, "data": 8, "flags": 12, "devid": 16, "pad": 20})
class kvm_msi(Structure):
    """KVM_SIGNAL_MSI: deliver an MSI now."""

    __slots__ = ()
    _fields_ = [*fields(u32, "address_lo address_hi data flags devid"), ("pad", u8 * 12)]
