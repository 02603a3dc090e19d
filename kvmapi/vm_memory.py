# SPDX-License-Identifier: Apache-2.0
"""`VmMemory`: the memory ioctls of a VM: slots, attributes, guest_memfd, dirty pages, coalesced writes."""

from __future__ import annotations

import ctypes

from kvmapi.attributes import AttributeFd
from kvmapi.uapi.kvm_ioctl import (
    KVM_CLEAR_DIRTY_LOG,
    KVM_CREATE_GUEST_MEMFD,
    KVM_GET_DIRTY_LOG,
    KVM_GET_NR_MMU_PAGES,
    KVM_REGISTER_COALESCED_MMIO,
    KVM_RESET_DIRTY_RINGS,
    KVM_SET_IDENTITY_MAP_ADDR,
    KVM_SET_MEMORY_ATTRIBUTES,
    KVM_SET_NR_MMU_PAGES,
    KVM_SET_TSS_ADDR,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION2,
    KVM_UNREGISTER_COALESCED_MMIO,
)
from kvmapi.uapi.kvm_memory import (
    kvm_clear_dirty_log,
    kvm_coalesced_mmio_zone,
    kvm_create_guest_memfd,
    kvm_dirty_log,
    kvm_memory_attributes,
    kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
)
from kvmapi.uapi.layout import build, u64


class VmMemory(AttributeFd):
    """Guest memory. `gpa` is a guest physical address, sizes are bytes, both multiples of 4096."""

    __slots__ = ()

    def set_user_memory_region(
        self, slot: int, gpa: int, size: int, userspace_addr: int, flags: int = 0
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION (api.rst 4.35): put `size` bytes of this process at `gpa`. KVM_CAP_USER_MEMORY.

        `slot` is below KVM_CAP_NR_MEMSLOTS (bits 16-31: address space, with KVM_CAP_MULTI_ADDRESS_SPACE);
        size 0 deletes it. `flags`: KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY (KVM_CAP_READONLY_MEM). The
        memory must stay mapped, KVM does not pin it. Raises KvmError EEXIST when it overlaps another slot.
        """
        region = build(
            kvm_userspace_memory_region,
            slot=slot,
            flags=flags,
            guest_phys_addr=gpa,
            memory_size=size,
            userspace_addr=userspace_addr,
        )
        self._ioctl(
            KVM_SET_USER_MEMORY_REGION,
            region,
            slot=slot,
            gpa=gpa,
            size=size,
            addr=userspace_addr,
            flags=flags,
        )

    def set_user_memory_region2(
        self,
        slot: int,
        gpa: int,
        size: int,
        userspace_addr: int,
        flags: int = 0,
        guest_memfd: int = 0,
        guest_memfd_offset: int = 0,
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION2 (api.rst 4.140): the same, with private memory. KVM_CAP_USER_MEMORY2.

        With KVM_MEM_GUEST_MEMFD, private pages come from `guest_memfd` at `guest_memfd_offset`, shared ones
        from `userspace_addr`; that needs a VM type with private memory.
        """
        region = build(
            kvm_userspace_memory_region2,
            slot=slot,
            flags=flags,
            guest_phys_addr=gpa,
            memory_size=size,
            userspace_addr=userspace_addr,
            guest_memfd=guest_memfd,
            guest_memfd_offset=guest_memfd_offset,
        )
        self._ioctl(
            KVM_SET_USER_MEMORY_REGION2,
            region,
            slot=slot,
            gpa=gpa,
            size=size,
            addr=userspace_addr,
            flags=flags,
        )

    def create_guest_memfd(self, size: int, flags: int = 0) -> int:
        """KVM_CREATE_GUEST_MEMFD (api.rst 4.142): an fd for guest-private memory. KVM_CAP_GUEST_MEMFD.

        The caller closes the fd; slots that use it keep the memory.
        """
        argument = build(kvm_create_guest_memfd, size=size, flags=flags)
        return self._ioctl(KVM_CREATE_GUEST_MEMFD, argument, size=size, flags=flags)

    def set_memory_attributes(self, gpa: int, size: int, attributes: int) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES (api.rst 4.141): attributes of [gpa, gpa + size). KVM_CAP_MEMORY_ATTRIBUTES.

        `attributes` lies in the mask that `check_extension(KVM_CAP_MEMORY_ATTRIBUTES)` of this VM gives:
        KVM_MEMORY_ATTRIBUTE_PRIVATE, and NR, NW, NX of `kvmapi.uapi.vsm` on a kernel with VSM. There is no
        way to read them back.
        """
        argument = build(kvm_memory_attributes, address=gpa, size=size, attributes=attributes)
        self._ioctl(KVM_SET_MEMORY_ATTRIBUTES, argument, gpa=gpa, size=size, attributes=attributes)

    def get_dirty_log(self, slot: int, pages: int) -> bytearray:
        """KVM_GET_DIRTY_LOG (api.rst 4.8): the dirty bitmap of a slot of `pages` pages, bit 0 its first page.

        The slot needs KVM_MEM_LOG_DIRTY_PAGES. Reading clears the log, unless
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is enabled. The answer has `pages` bits, rounded up to 8 bytes.
        """
        bitmap = bytearray(_bitmap_bytes(pages))
        pinned = (ctypes.c_char * len(bitmap)).from_buffer(bitmap)
        argument = build(kvm_dirty_log, slot=slot, dirty_bitmap=ctypes.addressof(pinned))
        self._ioctl(KVM_GET_DIRTY_LOG, argument, slot=slot, pages=pages)
        return bitmap

    def clear_dirty_log(self, slot: int, first_page: int, pages: int, bitmap: bytes | bytearray) -> None:
        """KVM_CLEAR_DIRTY_LOG (api.rst 4.117): forget pages whose bits are set in `bitmap`.

        Capability: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, enabled. `first_page` and `pages` are multiples of 64,
        except that the range may end with the slot. Raises ValueError for a bitmap that is too short.
        """
        if len(bitmap) < _bitmap_bytes(pages):
            raise ValueError(
                f"clear_dirty_log: {pages} pages need a bitmap of {_bitmap_bytes(pages)} bytes, got {len(bitmap)}"
            )
        pinned = (ctypes.c_char * len(bitmap)).from_buffer_copy(bitmap)
        argument = build(
            kvm_clear_dirty_log,
            slot=slot,
            first_page=first_page,
            num_pages=pages,
            dirty_bitmap=ctypes.addressof(pinned),
        )
        self._ioctl(KVM_CLEAR_DIRTY_LOG, argument, slot=slot, first_page=first_page, pages=pages)

    def reset_dirty_rings(self) -> int:
        """KVM_RESET_DIRTY_RINGS (api.rst 8.29): take back harvested entries; how many. KVM_CAP_DIRTY_LOG_RING."""
        return self._ioctl(KVM_RESET_DIRTY_RINGS)

    def register_coalesced_mmio(self, gpa: int, size: int) -> None:
        """KVM_REGISTER_COALESCED_MMIO (api.rst 4.116): queue writes to [gpa, gpa + size). KVM_CAP_COALESCED_MMIO.

        Queued writes do not exit; take them with `KvmRun.coalesced` at the next exit.
        """
        self._zone(KVM_REGISTER_COALESCED_MMIO, gpa, size, 0)

    def unregister_coalesced_mmio(self, gpa: int, size: int) -> None:
        """KVM_UNREGISTER_COALESCED_MMIO (api.rst 4.116): the zones inside [gpa, gpa + size) exit again."""
        self._zone(KVM_UNREGISTER_COALESCED_MMIO, gpa, size, 0)

    def register_coalesced_pio(self, port: int, size: int) -> None:
        """KVM_REGISTER_COALESCED_MMIO for ports (api.rst 4.116). KVM_CAP_COALESCED_PIO."""
        self._zone(KVM_REGISTER_COALESCED_MMIO, port, size, 1)

    def unregister_coalesced_pio(self, port: int, size: int) -> None:
        """KVM_UNREGISTER_COALESCED_MMIO for ports (api.rst 4.116)."""
        self._zone(KVM_UNREGISTER_COALESCED_MMIO, port, size, 1)

    def _zone(self, request: int, address: int, size: int, pio: int) -> None:
        argument = build(kvm_coalesced_mmio_zone, addr=address, size=size, pio=pio)
        self._ioctl(request, argument, addr=address, size=size, pio=pio)

    def set_tss_addr(self, gpa: int) -> None:
        """KVM_SET_TSS_ADDR (api.rst 4.36): three pages below 4 GiB that KVM uses on Intel. KVM_CAP_SET_TSS_ADDR.

        They must overlap no slot and no MMIO. On AMD the call is harmless.
        """
        self._ioctl(KVM_SET_TSS_ADDR, gpa, gpa=gpa)

    def set_identity_map_addr(self, gpa: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR (api.rst 4.40): one page for KVM on Intel, before the first vCPU.

        Capability: KVM_CAP_SET_IDENTITY_MAP_ADDR. 0 chooses the default, 0xfffbc000.
        """
        self._ioctl(KVM_SET_IDENTITY_MAP_ADDR, u64(gpa), gpa=gpa)

    def set_nr_mmu_pages(self, pages: int) -> None:
        """KVM_SET_NR_MMU_PAGES: limit KVM's page tables to `pages`. KVM_CAP_MMU_SHADOW_CACHE_CONTROL."""
        self._ioctl(KVM_SET_NR_MMU_PAGES, pages, pages=pages)

    def get_nr_mmu_pages(self) -> int:
        """KVM_GET_NR_MMU_PAGES: that limit. Gone from newer kernels, which raise KvmUnsupportedError."""
        return self._ioctl(KVM_GET_NR_MMU_PAGES)


def _bitmap_bytes(pages: int) -> int:
    return (pages + 63) // 64 * 8
