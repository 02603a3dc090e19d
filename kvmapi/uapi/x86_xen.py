# SPDX-License-Identifier: Apache-2.0
"""asm/kvm.h: KVM as a Xen host."""

from kvmapi.uapi.layout import Structure, Union, fields, layout, s32, u8, u16, u32, u64

KVM_XEN_HVM_CONFIG_HYPERCALL_MSR = 1 << 0
KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL = 1 << 1
KVM_XEN_HVM_CONFIG_SHARED_INFO = 1 << 2
KVM_XEN_HVM_CONFIG_RUNSTATE = 1 << 3
KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL = 1 << 4
KVM_XEN_HVM_CONFIG_EVTCHN_SEND = 1 << 5
KVM_XEN_HVM_CONFIG_RUNSTATE_UPDATE_FLAG = 1 << 6
KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE = 1 << 7
KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA = 1 << 8


@layout(
    size=56,
    offsets={
        "flags": 0,
        "msr": 4,
        "blob_addr_32": 8,
        "blob_addr_64": 16,
        "blob_size_32": 24,
        "blob_size_64": 25,
        "pad2": 26,
    },
)
class kvm_xen_hvm_config(Structure):
    """KVM_XEN_HVM_CONFIG: the hypercall MSR, and the hypercall page's contents or who handles it."""

    __slots__ = ()
    _fields_ = [
        ("flags", u32),
        ("msr", u32),
        ("blob_addr_32", u64),
        ("blob_addr_64", u64),
        ("blob_size_32", u8),
        ("blob_size_64", u8),
        ("pad2", u8 * 30),
    ]


KVM_XEN_INVALID_GFN = 0xFFFF_FFFF_FFFF_FFFF

KVM_XEN_EVTCHN_DEASSIGN = 1 << 0
KVM_XEN_EVTCHN_UPDATE = 1 << 1
KVM_XEN_EVTCHN_RESET = 1 << 2


@layout(size=8, offsets={"gfn": 0, "hva": 0}, inside="kvm_xen_hvm_attr")
class kvm_xen_hvm_attr_shared_info(Union):
    """Where the shared info page is."""

    __slots__ = ()
    _fields_ = [("gfn", u64), ("hva", u64)]


@layout(size=12, offsets={"port": 0, "vcpu": 4, "priority": 8}, inside="kvm_xen_hvm_attr")
class kvm_xen_hvm_attr_evtchn_port(Structure):
    """Delivery to a port of the guest itself."""

    __slots__ = ()
    _fields_ = [*fields(u32, "port vcpu priority")]


@layout(size=8, offsets={"port": 0, "fd": 4}, inside="kvm_xen_hvm_attr")
class kvm_xen_hvm_attr_evtchn_eventfd(Structure):
    """Delivery to an eventfd; `port` is 0."""

    __slots__ = ()
    _fields_ = [("port", u32), ("fd", s32)]


@layout(size=16, offsets={"port": 0, "eventfd": 0, "padding": 0}, inside="kvm_xen_hvm_attr")
class kvm_xen_hvm_attr_evtchn_deliver(Union):
    """Where an event goes."""

    __slots__ = ()
    _fields_ = [
        ("port", kvm_xen_hvm_attr_evtchn_port),
        ("eventfd", kvm_xen_hvm_attr_evtchn_eventfd),
        ("padding", u32 * 4),
    ]


@layout(size=28, offsets={"send_port": 0, "type": 4, "flags": 8, "deliver": 12}, inside="kvm_xen_hvm_attr")
class kvm_xen_hvm_attr_evtchn(Structure):
    """An event channel that the guest sends on."""

    __slots__ = ()
    _fields_ = [*fields(u32, "send_port type flags"), ("deliver", kvm_xen_hvm_attr_evtchn_deliver)]


@layout(
    size=64,
    offsets={
        "long_mode": 0,
        "vector": 0,
        "runstate_update_flag": 0,
        "shared_info": 0,
        "evtchn": 0,
        "xen_version": 0,
        "pad": 0,
    },
    inside="kvm_xen_hvm_attr",
)
class kvm_xen_hvm_attr_u(Union):
    """The value, by type."""

    __slots__ = ()
    _fields_ = [
        *fields(u8, "long_mode vector runstate_update_flag"),
        ("shared_info", kvm_xen_hvm_attr_shared_info),
        ("evtchn", kvm_xen_hvm_attr_evtchn),
        ("xen_version", u32),
        ("pad", u64 * 8),
    ]


@layout(size=72, offsets={"type": 0, "pad": 2, "u": 8})
class kvm_xen_hvm_attr(Structure):
    """KVM_XEN_HVM_GET_ATTR, KVM_XEN_HVM_SET_ATTR: one attribute of the VM."""

    __slots__ = ()
    _fields_ = [("type", u16), ("pad", u16 * 3), ("u", kvm_xen_hvm_attr_u)]


KVM_XEN_ATTR_TYPE_LONG_MODE = 0x0
KVM_XEN_ATTR_TYPE_SHARED_INFO = 0x1
KVM_XEN_ATTR_TYPE_UPCALL_VECTOR = 0x2
KVM_XEN_ATTR_TYPE_EVTCHN = 0x3
KVM_XEN_ATTR_TYPE_XEN_VERSION = 0x4
KVM_XEN_ATTR_TYPE_RUNSTATE_UPDATE_FLAG = 0x5
KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA = 0x6

KVM_XEN_INVALID_GPA = 0xFFFF_FFFF_FFFF_FFFF


@layout(
    size=48,
    offsets={
        "state": 0,
        "state_entry_time": 8,
        "time_running": 16,
        "time_runnable": 24,
        "time_blocked": 32,
        "time_offline": 40,
    },
    inside="kvm_xen_vcpu_attr",
)
class kvm_xen_vcpu_attr_runstate(Structure):
    """Run state and the nanoseconds spent in each."""

    __slots__ = ()
    _fields_ = [*fields(u64, "state state_entry_time time_running time_runnable time_blocked time_offline")]


@layout(size=16, offsets={"port": 0, "priority": 4, "expires_ns": 8}, inside="kvm_xen_vcpu_attr")
class kvm_xen_vcpu_attr_timer(Structure):
    """The singleshot timer."""

    __slots__ = ()
    _fields_ = [("port", u32), ("priority", u32), ("expires_ns", u64)]


@layout(
    size=64,
    offsets={"gpa": 0, "hva": 0, "pad": 0, "runstate": 0, "vcpu_id": 0, "timer": 0, "vector": 0},
    inside="kvm_xen_vcpu_attr",
)
class kvm_xen_vcpu_attr_u(Union):
    """The value, by type."""

    __slots__ = ()
    _fields_ = [
        ("gpa", u64),
        ("hva", u64),
        ("pad", u64 * 8),
        ("runstate", kvm_xen_vcpu_attr_runstate),
        ("vcpu_id", u32),
        ("timer", kvm_xen_vcpu_attr_timer),
        ("vector", u8),
    ]


@layout(size=72, offsets={"type": 0, "pad": 2, "u": 8})
class kvm_xen_vcpu_attr(Structure):
    """KVM_XEN_VCPU_GET_ATTR, KVM_XEN_VCPU_SET_ATTR: one attribute of a vCPU."""

    __slots__ = ()
    _fields_ = [("type", u16), ("pad", u16 * 3), ("u", kvm_xen_vcpu_attr_u)]


KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO = 0x0
KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO = 0x1
KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR = 0x2
KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT = 0x3
KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA = 0x4
KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADJUST = 0x5
KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID = 0x6
KVM_XEN_VCPU_ATTR_TYPE_TIMER = 0x7
KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR = 0x8
KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA = 0x9
