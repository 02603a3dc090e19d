# SPDX-License-Identifier: Apache-2.0
"""linux/kvm.h: devices made by KVM_CREATE_DEVICE, attributes of any KVM fd, statistics fds."""

from kvmapi.uapi.layout import Structure, fields, flexible_array, layout, s16, u8, u16, u32, u64

KVM_CREATE_DEVICE_TEST = 1


@layout(size=12, offsets={"type": 0, "fd": 4, "flags": 8})
class kvm_create_device(Structure):
    """KVM_CREATE_DEVICE: a device of `type`; `fd` is filled in."""

    __slots__ = ()
    _fields_ = [*fields(u32, "type fd flags")]


@layout(size=24, offsets={"flags": 0, "group": 4, "attr": 8, "addr": 16})
class kvm_device_attr(Structure):
    """KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR: value at address `addr`."""

    __slots__ = ()
    _fields_ = [("flags", u32), ("group", u32), ("attr", u64), ("addr", u64)]


KVM_DEV_VFIO_FILE = 1
KVM_DEV_VFIO_FILE_ADD = 1
KVM_DEV_VFIO_FILE_DEL = 2
KVM_DEV_VFIO_GROUP = KVM_DEV_VFIO_FILE
KVM_DEV_VFIO_GROUP_ADD = KVM_DEV_VFIO_FILE_ADD
KVM_DEV_VFIO_GROUP_DEL = KVM_DEV_VFIO_FILE_DEL
KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE = 3

KVM_DEV_TYPE_FSL_MPIC_20 = 1
KVM_DEV_TYPE_FSL_MPIC_42 = 2
KVM_DEV_TYPE_XICS = 3
KVM_DEV_TYPE_VFIO = 4
KVM_DEV_TYPE_ARM_VGIC_V2 = 5
KVM_DEV_TYPE_FLIC = 6
KVM_DEV_TYPE_ARM_VGIC_V3 = 7
KVM_DEV_TYPE_ARM_VGIC_ITS = 8
KVM_DEV_TYPE_XIVE = 9
KVM_DEV_TYPE_ARM_PV_TIME = 10
KVM_DEV_TYPE_RISCV_AIA = 11
KVM_DEV_TYPE_MAX = 12


@layout(
    size=24,
    offsets={
        "flags": 0,
        "name_size": 4,
        "num_desc": 8,
        "id_offset": 12,
        "desc_offset": 16,
        "data_offset": 20,
    },
)
class kvm_stats_header(Structure):
    """The start of a statistics fd: where its id, descriptors and data lie (bytes)."""

    __slots__ = ()
    _fields_ = [*fields(u32, "flags name_size num_desc id_offset desc_offset data_offset")]


KVM_STATS_TYPE_SHIFT = 0
KVM_STATS_TYPE_MASK = 0xF << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_CUMULATIVE = 0x0 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_INSTANT = 0x1 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_PEAK = 0x2 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_LINEAR_HIST = 0x3 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_LOG_HIST = 0x4 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_MAX = KVM_STATS_TYPE_LOG_HIST
KVM_STATS_UNIT_SHIFT = 4
KVM_STATS_UNIT_MASK = 0xF << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_NONE = 0x0 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_BYTES = 0x1 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_SECONDS = 0x2 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_CYCLES = 0x3 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_BOOLEAN = 0x4 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_MAX = KVM_STATS_UNIT_BOOLEAN
KVM_STATS_BASE_SHIFT = 8
KVM_STATS_BASE_MASK = 0xF << KVM_STATS_BASE_SHIFT
KVM_STATS_BASE_POW10 = 0x0 << KVM_STATS_BASE_SHIFT
KVM_STATS_BASE_POW2 = 0x1 << KVM_STATS_BASE_SHIFT
KVM_STATS_BASE_MAX = KVM_STATS_BASE_POW2


@layout(size=16, offsets={"flags": 0, "exponent": 4, "size": 6, "offset": 8, "bucket_size": 12})
class kvm_stats_desc(Structure):
    """A statistic: `size` values of 8 bytes at `offset` in the data block; its name follows."""

    __slots__ = ()
    _fields_ = [("flags", u32), ("exponent", s16), ("size", u16), ("offset", u32), ("bucket_size", u32)]


make_kvm_stats_desc = flexible_array(kvm_stats_desc, "name", u8)
