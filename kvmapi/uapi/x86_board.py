# SPDX-License-Identifier: Apache-2.0
"""asm/kvm.h: the in-kernel interrupt controllers and timer, and where the pages of a vCPU's mapping lie."""

from kvmapi.uapi.layout import Structure, Union, fields, layout, s64, u8, u16, u32, u64

# Page numbers within the mapping of a vCPU fd.

KVM_PIO_PAGE_OFFSET = 1
KVM_COALESCED_MMIO_PAGE_OFFSET = 2
KVM_DIRTY_LOG_PAGE_OFFSET = 64


@layout(size=16, offsets={"last_irr": 0, "elcr_mask": 15})
class kvm_pic_state(Structure):
    """One 8259. `elcr` is the edge/level register, `elcr_mask` its writable bits."""

    __slots__ = ()
    _fields_ = [
        *fields(u8, "last_irr irr imr isr priority_add irq_base read_reg_select poll special_mask"),
        *fields(u8, "init_state auto_eoi rotate_on_auto_eoi special_fully_nested_mode init4 elcr"),
        *fields(u8, "elcr_mask"),
    ]


KVM_IOAPIC_NUM_PINS = 24


@layout(size=8, offsets={"vector": 0, "reserved": 3, "dest_id": 7}, inside="kvm_ioapic_state")
class kvm_ioapic_redirect_fields(Structure):
    """A redirection table entry, field by field."""

    __slots__ = ()
    _fields_ = [
        ("vector", u8),
        ("delivery_mode", u8, 3),
        ("dest_mode", u8, 1),
        ("delivery_status", u8, 1),
        ("polarity", u8, 1),
        ("remote_irr", u8, 1),
        ("trig_mode", u8, 1),
        ("mask", u8, 1),
        ("reserve", u8, 7),
        ("reserved", u8 * 4),
        ("dest_id", u8),
    ]


@layout(size=8, offsets={"bits": 0, "fields": 0}, inside="kvm_ioapic_state")
class kvm_ioapic_redirect(Union):
    """A redirection table entry: 64 bits, or their fields."""

    __slots__ = ()
    _fields_ = [("bits", u64), ("fields", kvm_ioapic_redirect_fields)]


@layout(size=216, offsets={"base_address": 0, "ioregsel": 8, "id": 12, "irr": 16, "pad": 20, "redirtbl": 24})
class kvm_ioapic_state(Structure):
    """The I/O APIC."""

    __slots__ = ()
    _fields_ = [
        ("base_address", u64),
        *fields(u32, "ioregsel id irr pad"),
        ("redirtbl", kvm_ioapic_redirect * KVM_IOAPIC_NUM_PINS),
    ]


KVM_IRQCHIP_PIC_MASTER = 0
KVM_IRQCHIP_PIC_SLAVE = 1
KVM_IRQCHIP_IOAPIC = 2

KVM_NR_IRQCHIPS = 3

KVM_APIC_REG_SIZE = 0x400


@layout(size=1024, offsets={"regs": 0})
class kvm_lapic_state(Structure):
    """KVM_GET_LAPIC, KVM_SET_LAPIC: the register page of a local APIC, 16 bytes per register."""

    __slots__ = ()
    _fields_ = [("regs", u8 * KVM_APIC_REG_SIZE)]


@layout(size=24, offsets={"count": 0, "latched_count": 4, "count_latched": 6, "count_load_time": 16})
class kvm_pit_channel_state(Structure):
    """One channel of the 8254; `count_load_time` is in nanoseconds of the host's clock."""

    __slots__ = ()
    _fields_ = [
        ("count", u32),
        ("latched_count", u16),
        *fields(u8, "count_latched status_latched status read_state write_state write_latch rw_mode mode"),
        *fields(u8, "bcd gate"),
        ("count_load_time", s64),
    ]


@layout(size=72, offsets={"channels": 0})
class kvm_pit_state(Structure):
    """KVM_GET_PIT, KVM_SET_PIT (superseded by kvm_pit_state2)."""

    __slots__ = ()
    _fields_ = [("channels", kvm_pit_channel_state * 3)]


KVM_PIT_FLAGS_HPET_LEGACY = 0x00000001
KVM_PIT_FLAGS_SPEAKER_DATA_ON = 0x00000002


@layout(size=112, offsets={"channels": 0, "flags": 72, "reserved": 76})
class kvm_pit_state2(Structure):
    """KVM_GET_PIT2, KVM_SET_PIT2: the three channels and KVM_PIT_FLAGS_*."""

    __slots__ = ()
    _fields_ = [("channels", kvm_pit_channel_state * 3), ("flags", u32), ("reserved", u32 * 9)]


@layout(size=32, offsets={"pit_reinject": 0, "reserved": 1})
class kvm_reinject_control(Structure):
    """KVM_REINJECT_CONTROL: 1 lets lost timer ticks be delivered late, 0 drops them."""

    __slots__ = ()
    _fields_ = [("pit_reinject", u8), ("reserved", u8 * 31)]
