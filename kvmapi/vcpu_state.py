# SPDX-License-Identifier: Apache-2.0
"""`VcpuState`: the ioctls that read and write the registers and other state of a vCPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from kvmapi import arrays
from kvmapi.attributes import AttributeFd
from kvmapi.errors import KvmTooBigError
from kvmapi.uapi.kvm_ioctl import (
    KVM_GET_CPUID2,
    KVM_GET_DEBUGREGS,
    KVM_GET_FPU,
    KVM_GET_LAPIC,
    KVM_GET_MP_STATE,
    KVM_GET_NESTED_STATE,
    KVM_GET_ONE_REG,
    KVM_GET_REG_LIST,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_GET_SREGS2,
    KVM_GET_SUPPORTED_HV_CPUID,
    KVM_GET_VCPU_EVENTS,
    KVM_GET_XCRS,
    KVM_GET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_SET_CPUID,
    KVM_SET_CPUID2,
    KVM_SET_DEBUGREGS,
    KVM_SET_FPU,
    KVM_SET_LAPIC,
    KVM_SET_MP_STATE,
    KVM_SET_NESTED_STATE,
    KVM_SET_ONE_REG,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SET_SREGS2,
    KVM_SET_VCPU_EVENTS,
    KVM_SET_XCRS,
    KVM_SET_XSAVE,
)
from kvmapi.uapi.kvm_vcpu import kvm_mp_state, kvm_one_reg, make_kvm_reg_list
from kvmapi.uapi.layout import build, u64
from kvmapi.uapi.x86_board import kvm_lapic_state
from kvmapi.uapi.x86_features import (
    KVM_VCPU_TSC_CTRL,
    KVM_VCPU_TSC_OFFSET,
    kvm_cpuid_entry,
    kvm_cpuid_entry2,
    make_kvm_cpuid,
)
from kvmapi.uapi.x86_nested import kvm_nested_state, make_kvm_nested_state
from kvmapi.uapi.x86_vcpu import (
    kvm_debugregs,
    kvm_fpu,
    kvm_regs,
    kvm_sregs,
    kvm_sregs2,
    kvm_vcpu_events,
    kvm_xcrs,
    kvm_xsave,
    make_kvm_xsave,
)


class VcpuState(AttributeFd):
    """State of a vCPU. Each call enters the vCPU and waits until it is not in KVM_RUN: 6 us on a slow host.

    On hot paths let KVM_CAP_SYNC_REGS carry registers (`KvmRun.sync`).
    """

    __slots__ = ()

    def get_regs(self) -> kvm_regs:
        """KVM_GET_REGS (api.rst 4.11): the general registers, RIP, RFLAGS."""
        regs: kvm_regs = self._filled(KVM_GET_REGS, kvm_regs())
        return regs

    def set_regs(self, regs: kvm_regs) -> None:
        """KVM_SET_REGS (api.rst 4.12). Drops an exception that waits to be delivered."""
        self._ioctl(KVM_SET_REGS, regs, rip=regs.rip)

    def get_sregs(self) -> kvm_sregs:
        """KVM_GET_SREGS (api.rst 4.13): segments, tables, control registers, EFER, APIC base."""
        sregs: kvm_sregs = self._filled(KVM_GET_SREGS, kvm_sregs())
        return sregs

    def set_sregs(self, sregs: kvm_sregs) -> None:
        """KVM_SET_SREGS (api.rst 4.14). Raises KvmError EINVAL for control registers that contradict each other."""
        self._ioctl(KVM_SET_SREGS, sregs, cr0=sregs.cr0, cr4=sregs.cr4, efer=sregs.efer)

    def get_sregs2(self) -> kvm_sregs2:
        """KVM_GET_SREGS2 (api.rst 4.131): with PDPTRs. KVM_CAP_SREGS2."""
        sregs: kvm_sregs2 = self._filled(KVM_GET_SREGS2, kvm_sregs2())
        return sregs

    def set_sregs2(self, sregs: kvm_sregs2) -> None:
        """KVM_SET_SREGS2 (api.rst 4.132). KVM_CAP_SREGS2."""
        self._ioctl(KVM_SET_SREGS2, sregs, cr0=sregs.cr0, cr4=sregs.cr4, efer=sregs.efer)

    def get_fpu(self) -> kvm_fpu:
        """KVM_GET_FPU (api.rst 4.22): x87 and SSE registers."""
        fpu: kvm_fpu = self._filled(KVM_GET_FPU, kvm_fpu())
        return fpu

    def set_fpu(self, fpu: kvm_fpu) -> None:
        """KVM_SET_FPU (api.rst 4.23)."""
        self._ioctl(KVM_SET_FPU, fpu)

    def get_xsave(self, into: kvm_xsave | None = None) -> kvm_xsave:
        """KVM_GET_XSAVE (api.rst 4.42): the first 4096 bytes of the XSAVE area. KVM_CAP_XSAVE.

        `into`: an area to fill and return instead of a new one.
        """
        area: kvm_xsave = self._filled(KVM_GET_XSAVE, kvm_xsave() if into is None else into)
        return area

    def get_xsave2(self, size: int) -> Any:
        """KVM_GET_XSAVE2 (api.rst 4.134): all of the XSAVE area. KVM_CAP_XSAVE2.

        `size` in bytes is what `Vm.check_extension(KVM_CAP_XSAVE2)` says; it grows with
        arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM). KVM writes that many bytes, so a smaller `size` is refused.
        """
        if size < 4096 or size % 4:
            raise ValueError(f"get_xsave2: {size} bytes, expected what KVM_CAP_XSAVE2 says: 4096 or more")
        return self._filled(KVM_GET_XSAVE2, make_kvm_xsave((size - 4096) // 4)(), size=size)

    def set_xsave(self, area: Any) -> None:
        """KVM_SET_XSAVE (api.rst 4.43): what `get_xsave` or `get_xsave2` gave; as large as KVM_CAP_XSAVE2 says."""
        self._ioctl(KVM_SET_XSAVE, area)

    def get_xcrs(self) -> kvm_xcrs:
        """KVM_GET_XCRS (api.rst 4.44): XCR0. KVM_CAP_XCRS."""
        xcrs: kvm_xcrs = self._filled(KVM_GET_XCRS, kvm_xcrs())
        return xcrs

    def set_xcrs(self, xcrs: kvm_xcrs) -> None:
        """KVM_SET_XCRS (api.rst 4.45). KVM_CAP_XCRS; the guest's CPUID must offer the bits."""
        self._ioctl(KVM_SET_XCRS, xcrs)

    def get_msrs(self, indices: Iterable[int]) -> list[tuple[int, int]]:
        """KVM_GET_MSRS (api.rst 4.18): `(index, value)` of each MSR, any number of them.

        Raises KvmMsrError with the first index that KVM refuses and what was read before it.
        """
        return arrays.read_msrs(self._ioctl, indices, self._label)

    def set_msrs(self, pairs: Iterable[tuple[int, int]]) -> None:
        """KVM_SET_MSRS (api.rst 4.19): `(index, value)` pairs in order. MSR filters do not apply.

        Raises KvmMsrError with the first index that KVM refuses; those before it are set.
        """
        arrays.write_msrs(self._ioctl, pairs, self._label)

    def get_vcpu_events(self) -> kvm_vcpu_events:
        """KVM_GET_VCPU_EVENTS (api.rst 4.31): exceptions, interrupts, NMIs, SMIs under way. KVM_CAP_VCPU_EVENTS."""
        events: kvm_vcpu_events = self._filled(KVM_GET_VCPU_EVENTS, kvm_vcpu_events())
        return events

    def set_vcpu_events(self, events: kvm_vcpu_events) -> None:
        """KVM_SET_VCPU_EVENTS (api.rst 4.32): `flags` say which optional members count. KVM_CAP_VCPU_EVENTS."""
        self._ioctl(KVM_SET_VCPU_EVENTS, events, flags=events.flags)

    def get_debugregs(self) -> kvm_debugregs:
        """KVM_GET_DEBUGREGS (api.rst 4.33): DR0-DR3, DR6, DR7. KVM_CAP_DEBUGREGS."""
        regs: kvm_debugregs = self._filled(KVM_GET_DEBUGREGS, kvm_debugregs())
        return regs

    def set_debugregs(self, regs: kvm_debugregs) -> None:
        """KVM_SET_DEBUGREGS (api.rst 4.34). KVM_CAP_DEBUGREGS."""
        self._ioctl(KVM_SET_DEBUGREGS, regs, dr6=regs.dr6, dr7=regs.dr7)

    def get_lapic(self) -> kvm_lapic_state:
        """KVM_GET_LAPIC (api.rst 4.57): the local APIC's register page. KVM_CAP_IRQCHIP."""
        lapic: kvm_lapic_state = self._filled(KVM_GET_LAPIC, kvm_lapic_state())
        return lapic

    def set_lapic(self, lapic: kvm_lapic_state) -> None:
        """KVM_SET_LAPIC (api.rst 4.58). KVM_CAP_IRQCHIP."""
        self._ioctl(KVM_SET_LAPIC, lapic)

    def get_mp_state(self) -> int:
        """KVM_GET_MP_STATE (api.rst 4.38): KVM_MP_STATE_*. KVM_CAP_MP_STATE."""
        return int(self._filled(KVM_GET_MP_STATE, kvm_mp_state()).mp_state)

    def set_mp_state(self, state: int) -> None:
        """KVM_SET_MP_STATE (api.rst 4.39). KVM_CAP_MP_STATE; only RUNNABLE without in-kernel local APIC."""
        self._ioctl(KVM_SET_MP_STATE, build(kvm_mp_state, mp_state=state), mp_state=state)

    def get_cpuid2(self) -> list[kvm_cpuid_entry2]:
        """KVM_GET_CPUID2 (api.rst 4.20): the leaves this vCPU shows its guest. KVM_CAP_EXT_CPUID."""
        return arrays.cpuid_leaves(self._ioctl, KVM_GET_CPUID2)

    def set_cpuid2(self, leaves: Sequence[kvm_cpuid_entry2]) -> None:
        """KVM_SET_CPUID2 (api.rst 4.20): at most 256 leaves, before the first KVM_RUN. KVM_CAP_EXT_CPUID."""
        self._ioctl(KVM_SET_CPUID2, arrays.cpuid2(leaves), leaves=len(leaves))

    def set_cpuid(self, leaves: Sequence[kvm_cpuid_entry]) -> None:
        """KVM_SET_CPUID (api.rst 4.20): the older form, without sub-leaves."""
        argument = make_kvm_cpuid(len(leaves))()
        argument.nent = len(leaves)
        for position, leaf in enumerate(leaves):
            argument.entries[position] = leaf
        self._ioctl(KVM_SET_CPUID, argument, leaves=len(leaves))

    def supported_hv_cpuid(self) -> list[kvm_cpuid_entry2]:
        """KVM_GET_SUPPORTED_HV_CPUID (api.rst 4.118): Hyper-V leaves for this vCPU. KVM_CAP_HYPERV_CPUID."""
        return arrays.cpuid_leaves(self._ioctl, KVM_GET_SUPPORTED_HV_CPUID)

    def get_nested_state(self, size: int) -> Any:
        """KVM_GET_NESTED_STATE (api.rst 4.114): the guest's own hypervisor. KVM_CAP_NESTED_STATE.

        `size` in bytes is what `check_extension(KVM_CAP_NESTED_STATE)` says; `.size` of the answer tells how
        much of it counts.
        """
        head = 128
        if size < head:
            raise ValueError(
                f"get_nested_state: {size} bytes, expected what KVM_CAP_NESTED_STATE says, {head} or more"
            )
        argument = make_kvm_nested_state(size - head)()
        argument.size = size
        try:
            return self._filled(KVM_GET_NESTED_STATE, argument, size=size)
        except KvmTooBigError as error:
            error.hint = f"The state takes {argument.size} bytes, room was made for {size}. " + error.hint
            raise

    def set_nested_state(self, state: kvm_nested_state) -> None:
        """KVM_SET_NESTED_STATE (api.rst 4.115), after the other registers. KVM_CAP_NESTED_STATE."""
        self._ioctl(KVM_SET_NESTED_STATE, state, format=state.format, size=state.size)

    def get_one_reg(self, register: int) -> int:
        """KVM_GET_ONE_REG (api.rst 4.69): a register by its 64-bit id, at most 8 bytes. KVM_CAP_ONE_REG.

        Linux 6.12 has none of these on x86 (KvmError EINVAL); later ones have a few.
        """
        value = u64()
        argument = build(kvm_one_reg, id=register, addr=ctypes.addressof(value))
        self._ioctl(KVM_GET_ONE_REG, argument, id=register)
        return value.value

    def set_one_reg(self, register: int, value: int) -> None:
        """KVM_SET_ONE_REG (api.rst 4.68). As `get_one_reg`."""
        kept = u64(value)
        argument = build(kvm_one_reg, id=register, addr=ctypes.addressof(kept))
        self._ioctl(KVM_SET_ONE_REG, argument, id=register, value=value)

    def get_reg_list(self) -> list[int]:
        """KVM_GET_REG_LIST (api.rst 4.84): the ids that `get_one_reg` takes. As `get_one_reg`."""
        filled = arrays.growing(self._ioctl, KVM_GET_REG_LIST, make_kvm_reg_list, "n", 16)
        return list(filled.reg[: filled.n])

    def get_tsc_offset(self) -> int:
        """The guest's TSC minus the host's (devices/vcpu.rst, KVM_VCPU_TSC_OFFSET). KVM_CAP_VCPU_ATTRIBUTES."""
        return int(self.get_device_attr(KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET))

    def set_tsc_offset(self, offset: int) -> None:
        """Set that offset, modulo 2**64: equal offsets are how vCPUs' TSCs agree."""
        self.set_device_attr(KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, offset & 0xFFFF_FFFF_FFFF_FFFF)
