# SPDX-License-Identifier: Apache-2.0
"""linux/kvm.h: guest memory: slots, attributes, guest_memfd, dirty tracking, coalesced MMIO."""

from kvmapi.uapi.layout import Structure, Union, fields, flexible_array, layout, u8, u32, u64


@layout(
    size=32, offsets={"slot": 0, "flags": 4, "guest_phys_addr": 8, "memory_size": 16, "userspace_addr": 24}
)
class kvm_userspace_memory_region(Structure):
    """KVM_SET_USER_MEMORY_REGION: a slot; sizes in bytes, size 0 deletes it."""

    __slots__ = ()
    _fields_ = [("slot", u32), ("flags", u32), *fields(u64, "guest_phys_addr memory_size userspace_addr")]


@layout(size=160, offsets={"slot": 0, "guest_phys_addr": 8, "guest_memfd": 40, "pad2": 48})
class kvm_userspace_memory_region2(Structure):
    """KVM_SET_USER_MEMORY_REGION2: a slot that may have private memory (guest_memfd) too."""

    __slots__ = ()
    _fields_ = [
        ("slot", u32),
        ("flags", u32),
        *fields(u64, "guest_phys_addr memory_size userspace_addr guest_memfd_offset"),
        ("guest_memfd", u32),
        ("pad1", u32),
        ("pad2", u64 * 14),
    ]


KVM_MEM_LOG_DIRTY_PAGES = 1 << 0
KVM_MEM_READONLY = 1 << 1
KVM_MEM_GUEST_MEMFD = 1 << 2


@layout(size=4, offsets={"pad": 0, "pio": 0}, inside="kvm_coalesced_mmio_zone")
class kvm_coalesced_pio(Union):
    """1 for ports; older kernels call it pad."""

    __slots__ = ()
    _fields_ = [("pad", u32), ("pio", u32)]


@layout(size=16, offsets={"addr": 0, "size": 8})
class kvm_coalesced_mmio_zone(Structure):
    """KVM_REGISTER_COALESCED_MMIO: writes to [addr, addr + size) are queued; `pio` 1 for ports."""

    __slots__ = ()
    _anonymous_ = ("kind",)
    _fields_ = [("addr", u64), ("size", u32), ("kind", kvm_coalesced_pio)]


@layout(size=24, offsets={"phys_addr": 0, "len": 8, "data": 16})
class kvm_coalesced_mmio(Structure):
    """A queued write: `len` bytes of `data` at `phys_addr`, a port when `pio` is 1."""

    __slots__ = ()
    _anonymous_ = ("kind",)
    _fields_ = [("phys_addr", u64), ("len", u32), ("kind", kvm_coalesced_pio), ("data", u8 * 8)]


@layout(size=8, offsets={"first": 0, "last": 4})
class kvm_coalesced_mmio_ring(Structure):
    """Head of the ring of queued writes: read at `first`, KVM writes at `last`."""

    __slots__ = ()
    _fields_ = [("first", u32), ("last", u32)]


make_kvm_coalesced_mmio_ring = flexible_array(kvm_coalesced_mmio_ring, "coalesced_mmio", kvm_coalesced_mmio)

# KVM_COALESCED_MMIO_MAX with its PAGE_SIZE of 4096.
KVM_COALESCED_MMIO_MAX = (4096 - 8) // 24


@layout(size=8, offsets={"dirty_bitmap": 0, "padding2": 0}, inside="kvm_dirty_log")
class kvm_dirty_bitmap(Union):
    """An address. C declares a pointer."""

    __slots__ = ()
    _fields_ = [("dirty_bitmap", u64), ("padding2", u64)]


@layout(size=16, offsets={"slot": 0, "padding1": 4})
class kvm_dirty_log(Structure):
    """KVM_GET_DIRTY_LOG: `dirty_bitmap` is the address of one bit per page."""

    __slots__ = ()
    _anonymous_ = ("bitmap",)
    _fields_ = [("slot", u32), ("padding1", u32), ("bitmap", kvm_dirty_bitmap)]


@layout(size=24, offsets={"slot": 0, "num_pages": 4, "first_page": 8})
class kvm_clear_dirty_log(Structure):
    """KVM_CLEAR_DIRTY_LOG: forget the pages whose bits are set."""

    __slots__ = ()
    _anonymous_ = ("bitmap",)
    _fields_ = [("slot", u32), ("num_pages", u32), ("first_page", u64), ("bitmap", kvm_dirty_bitmap)]


KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1 << 0
KVM_DIRTY_LOG_INITIALLY_SET = 1 << 1
KVM_DIRTY_GFN_F_DIRTY = 1 << 0
KVM_DIRTY_GFN_F_RESET = 1 << 1
KVM_DIRTY_GFN_F_MASK = 0x3


@layout(size=16, offsets={"flags": 0, "slot": 4, "offset": 8})
class kvm_dirty_gfn(Structure):
    """An entry of the dirty ring: page `offset` of `slot` (address space in its upper 16 bits)."""

    __slots__ = ()
    _fields_ = [("flags", u32), ("slot", u32), ("offset", u64)]


@layout(size=16, offsets={"addr": 0, "size": 8})
class kvm_enc_region(Structure):
    """KVM_MEMORY_ENCRYPT_REG_REGION: memory of an encrypted guest, to be pinned."""

    __slots__ = ()
    _fields_ = [("addr", u64), ("size", u64)]


@layout(size=32, offsets={"address": 0, "size": 8, "attributes": 16, "flags": 24})
class kvm_memory_attributes(Structure):
    """KVM_SET_MEMORY_ATTRIBUTES: attributes of [address, address + size), bytes, page aligned."""

    __slots__ = ()
    _fields_ = [*fields(u64, "address size attributes flags")]


KVM_MEMORY_ATTRIBUTE_PRIVATE = 1 << 3


@layout(size=64, offsets={"size": 0, "flags": 8, "reserved": 16})
class kvm_create_guest_memfd(Structure):
    """KVM_CREATE_GUEST_MEMFD: `size` bytes of memory that only guests can reach."""

    __slots__ = ()
    _fields_ = [("size", u64), ("flags", u64), ("reserved", u64 * 6)]


@layout(size=64, offsets={"gpa": 0, "size": 8, "flags": 16, "padding": 24})
class kvm_pre_fault_memory(Structure):
    """KVM_PRE_FAULT_MEMORY: map [gpa, gpa + size) now; updated to what is left."""

    __slots__ = ()
    _fields_ = [*fields(u64, "gpa size flags"), ("padding", u64 * 5)]
