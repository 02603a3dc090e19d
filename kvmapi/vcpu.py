# SPDX-License-Identifier: Apache-2.0
"""`Vcpu`: a virtual processor (api.rst, "vcpu ioctls")."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kvmapi.enable_cap import enabling
from kvmapi.errors import EHWPOISON, KvmClosedError, KvmError, KvmUnsupportedError
from kvmapi.run import PAGE_SIZE, KvmRun
from kvmapi.seam import RunCall, Seam
from kvmapi.stats import Stats
from kvmapi.uapi.kvm_ioctl import (
    KVM_ENABLE_CAP,
    KVM_GET_STATS_FD,
    KVM_GET_TSC_KHZ,
    KVM_INTERRUPT,
    KVM_KVMCLOCK_CTRL,
    KVM_NMI,
    KVM_PRE_FAULT_MEMORY,
    KVM_RUN,
    KVM_SET_GUEST_DEBUG,
    KVM_SET_SIGNAL_MASK,
    KVM_SET_TSC_KHZ,
    KVM_SET_VAPIC_ADDR,
    KVM_SMI,
    KVM_TPR_ACCESS_REPORTING,
    KVM_TRANSLATE,
    KVM_X86_SET_MCE,
    KVM_X86_SETUP_MCE,
    KVM_XEN_VCPU_GET_ATTR,
    KVM_XEN_VCPU_SET_ATTR,
)
from kvmapi.uapi.kvm_memory import kvm_dirty_gfn, kvm_pre_fault_memory
from kvmapi.uapi.kvm_vcpu import (
    kvm_guest_debug,
    kvm_interrupt,
    kvm_signal_mask,
    kvm_tpr_access_ctl,
    kvm_translation,
    kvm_vapic_addr,
    make_kvm_signal_mask,
)
from kvmapi.uapi.layout import build, u64
from kvmapi.uapi.x86_board import KVM_DIRTY_LOG_PAGE_OFFSET
from kvmapi.uapi.x86_vcpu import kvm_x86_mce
from kvmapi.uapi.x86_xen import kvm_xen_vcpu_attr
from kvmapi.vcpu_state import VcpuState

if TYPE_CHECKING:
    from kvmapi.vm import Vm

# errnos with which KVM_RUN comes back in the normal course of events: a signal or immediate_exit; a vCPU that
# is not runnable yet (INIT/SIPI); memory that the guest may not touch, or that has a hardware error.
RETURNS = frozenset({0, errno.EINTR, errno.EAGAIN, errno.EFAULT, EHWPOISON})


class Vcpu(VcpuState):
    """A vCPU and its mapping `run`. Register and state ioctls are in `VcpuState`.

    >>> from kvmapi import Kvm
    >>> with Kvm.open() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
    ...     vcpu.run.immediate_exit = True
    ...     vcpu.run_once()
    4

    Only one thread at a time may run it; KVM wants it to be the same thread for as long as possible.

    `run_call` is KVM_RUN for a hot loop: with `call, fd, request = vcpu.run_call`, `call(fd, request)` returns 0 or
    raises a plain OSError, whatever the errno. Its owner may put another one in its place, which counts for instance;
    `run_once` does not go that way.
    """

    __slots__ = ("_bare_run_call", "_dirty_ring", "_vm", "run", "run_call", "vcpu_id")

    run_call: RunCall

    def __init__(self, seam: Seam, fd: int, vm: Vm, vcpu_id: int) -> None:
        super().__init__(seam, fd, f"vCPU {vcpu_id}", vm)
        self._vm = vm
        self.vcpu_id = vcpu_id
        self._dirty_ring: mmap.mmap | None = None
        try:
            mapping = seam.mmap(fd, vm.run_size)
        except OSError as error:
            self._fd = -1
            seam.close(fd)
            raise KvmError(error.errno or 0, "mmap", {"size": vm.run_size}, self._label) from error
        self.run = KvmRun(mapping, self._label)
        self.run_call = self._bare_run_call = seam.run_call(fd)

    def run_once(self) -> int:
        """KVM_RUN (api.rst 4.10): run the guest until it needs us. Returns 0 or one of these errnos.

        | result | meaning |
        |---|---|
        | 0 | `run.exit_reason` tells why |
        | EINTR | a signal arrived or `immediate_exit` was set; `exit_reason` tells nothing |
        | EAGAIN | the vCPU waits for INIT/SIPI, or was taken out of such a wait; run again |
        | EFAULT | the guest touched memory that is not there or forbidden; with `exit_reason` |
        | | KVM_EXIT_MEMORY_FAULT the rest of the page tells where |
        | EHWPOISON | the same for memory with a hardware error |

        Any other errno is raised as KvmError. A loop that counts every microsecond calls `run_call`.
        """
        try:
            call, fd, request = self._bare_run_call
            return call(fd, request)
        except OSError as error:
            number = error.errno or 0
            self.check_run(number)
            return number

    def check_run(self, number: int) -> None:
        """Raise the KvmError for an errno of `run_call` that is none of the normal ones; else do nothing."""
        if number not in RETURNS:
            if self.closed:
                raise KvmClosedError("KVM_RUN", self._label)
            raise KvmError(number, "KVM_RUN", None, self._label)

    def _release(self) -> None:
        # Whoever looks run_call up from now on must not run what gets this fd number next. A thread that bound
        # it to a local of its own has to be stopped before.
        def closed(fd: int, request: int) -> int:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

        self.run_call = self._bare_run_call = closed, -1, KVM_RUN
        self.run.close()
        ring, self._dirty_ring = self._dirty_ring, None
        if ring is not None:
            # An array that is still held keeps its pages mapped, and closes them when it goes.
            with contextlib.suppress(BufferError):
                ring.close()

    def enable_cap(self, cap: int, *args: int, flags: int = 0) -> int:
        """KVM_ENABLE_CAP (api.rst 4.37, 6): turn on `cap` with up to four arguments. KVM_CAP_ENABLE_CAP."""
        argument = enabling(cap, args, flags)
        return self._ioctl(KVM_ENABLE_CAP, argument, cap=cap, args=args, flags=flags)

    def translate(self, linear_address: int) -> kvm_translation:
        """KVM_TRANSLATE (api.rst 4.15): the guest physical address; look at `.valid` first.

        No access check is made and no accessed or dirty bit is set.
        """
        argument = build(kvm_translation, linear_address=linear_address)
        answer: kvm_translation = self._filled(KVM_TRANSLATE, argument, linear_address=linear_address)
        return answer

    def interrupt(self, vector: int) -> None:
        """KVM_INTERRUPT (api.rst 4.16): inject `vector`. Only without in-kernel irqchip, else KvmError ENXIO."""
        self._ioctl(KVM_INTERRUPT, build(kvm_interrupt, irq=vector), vector=vector)

    def nmi(self) -> None:
        """KVM_NMI (api.rst 4.64): queue a non-maskable interrupt. KVM_CAP_USER_NMI."""
        self._ioctl(KVM_NMI)

    def smi(self) -> None:
        """KVM_SMI (api.rst 4.96): queue a system management interrupt. KVM_CAP_X86_SMM."""
        self._ioctl(KVM_SMI)

    def set_guest_debug(self, control: int, debugreg: Sequence[int] = ()) -> None:
        """KVM_SET_GUEST_DEBUG (api.rst 4.87): KVM_GUESTDBG_* in `control`. KVM_CAP_SET_GUEST_DEBUG.

        `debugreg`: up to 8 values, DR0-DR3 first and DR7 last, for KVM_GUESTDBG_USE_HW_BP.
        """
        argument = build(kvm_guest_debug, control=control)
        argument.arch.debugreg[: len(debugreg)] = debugreg
        self._ioctl(KVM_SET_GUEST_DEBUG, argument, control=control)

    def set_signal_mask(self, blocked: Iterable[int] | None) -> None:
        """KVM_SET_SIGNAL_MASK (api.rst 4.21): signals blocked while in KVM_RUN; None keeps the thread's mask.

        With a signal blocked outside and let through here, a kick needs no handler: KVM_RUN returns EINTR and
        the signal stays pending.
        """
        if blocked is None:
            self._ioctl(KVM_SET_SIGNAL_MASK, 0, mask=None)
            return
        mask = sum(1 << (number - 1) for number in set(blocked))
        # KVM wants the 8 bytes of the kernel's own sigset_t.
        argument: kvm_signal_mask = make_kvm_signal_mask(8)()
        argument.len = 8
        argument.sigset[:] = list(mask.to_bytes(8, "little"))
        self._ioctl(KVM_SET_SIGNAL_MASK, argument, mask=mask)

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ (api.rst 4.55): the guest's TSC frequency; 0 is the host's. KVM_CAP_TSC_CONTROL."""
        self._ioctl(KVM_SET_TSC_KHZ, khz, khz=khz)

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ (api.rst 4.56). KVM_CAP_GET_TSC_KHZ; KvmError EIO when the host's TSC is not constant."""
        return self._ioctl(KVM_GET_TSC_KHZ)

    def kvmclock_ctrl(self) -> None:
        """KVM_KVMCLOCK_CTRL (api.rst 4.70): tell the guest it was paused. KVM_CAP_KVMCLOCK_CTRL.

        Raises KvmError EINVAL when the guest uses no kvmclock.
        """
        self._ioctl(KVM_KVMCLOCK_CTRL)

    def tpr_access_reporting(self, enabled: bool) -> None:
        """KVM_TPR_ACCESS_REPORTING: exit with KVM_EXIT_TPR_ACCESS on each access. KVM_CAP_VAPIC."""
        self._ioctl(
            KVM_TPR_ACCESS_REPORTING, build(kvm_tpr_access_ctl, enabled=int(enabled)), enabled=enabled
        )

    def set_vapic_addr(self, gpa: int) -> None:
        """KVM_SET_VAPIC_ADDR: where the guest keeps its TPR shadow. KVM_CAP_VAPIC."""
        self._ioctl(KVM_SET_VAPIC_ADDR, build(kvm_vapic_addr, vapic_addr=gpa), gpa=gpa)

    def setup_mce(self, mcg_cap: int) -> None:
        """KVM_X86_SETUP_MCE (api.rst 4.105): banks and bits within `Kvm.mce_cap_supported()`. KVM_CAP_MCE."""
        self._ioctl(KVM_X86_SETUP_MCE, u64(mcg_cap), mcg_cap=mcg_cap)

    def set_mce(self, mce: kvm_x86_mce) -> None:
        """KVM_X86_SET_MCE (api.rst 4.106): inject a machine check. KVM_CAP_MCE, after `setup_mce`."""
        self._ioctl(KVM_X86_SET_MCE, mce, bank=mce.bank, status=mce.status)

    def xen_vcpu_get_attr(self, kind: int) -> kvm_xen_vcpu_attr:
        """KVM_XEN_VCPU_GET_ATTR (api.rst 4.129): attribute KVM_XEN_VCPU_ATTR_TYPE_*."""
        attr: kvm_xen_vcpu_attr = self._filled(
            KVM_XEN_VCPU_GET_ATTR, build(kvm_xen_vcpu_attr, type=kind), type=kind
        )
        return attr

    def xen_vcpu_set_attr(self, attr: kvm_xen_vcpu_attr) -> None:
        """KVM_XEN_VCPU_SET_ATTR (api.rst 4.128)."""
        self._ioctl(KVM_XEN_VCPU_SET_ATTR, attr, type=attr.type)

    def pre_fault_memory(self, gpa: int, size: int) -> int:
        """KVM_PRE_FAULT_MEMORY (api.rst 4.143): map [gpa, gpa + size) now; bytes not done. KVM_CAP_PRE_FAULT_MEMORY.

        Returns 0 when all is mapped; a signal may stop it before.
        """
        argument = build(kvm_pre_fault_memory, gpa=gpa, size=size)
        self._ioctl(KVM_PRE_FAULT_MEMORY, argument, gpa=gpa, size=size)
        return int(argument.size)

    def stats(self) -> Stats:
        """KVM_GET_STATS_FD (api.rst 4.133): the vCPU's counters. KVM_CAP_BINARY_STATS_FD."""
        fd = self._ioctl(KVM_GET_STATS_FD)
        return Stats(self._seam, fd, f"Stats of {self._label}", self)

    def dirty_ring(self) -> Any:
        """The vCPU's ring of dirty pages, an array of kvm_dirty_gfn (api.rst 8.29). KVM_CAP_DIRTY_LOG_RING.

        Only after `Vm.enable_cap(KVM_CAP_DIRTY_LOG_RING, bytes)` or the _ACQ_REL form, before the first vCPU.
        Take entries in order while KVM_DIRTY_GFN_F_DIRTY is set, mark them KVM_DIRTY_GFN_F_RESET, then
        `Vm.reset_dirty_rings()`. The array holds the mapping: drop it before `close()`.
        """
        size = self._vm.dirty_ring_bytes
        if not size:
            # KVM would map pages that are not there, and the first access would be a SIGBUS.
            raise KvmUnsupportedError(
                errno.ENXIO,
                "mmap",
                {"pages": "dirty ring"},
                self._label,
                "This VM has no dirty ring: call Vm.enable_cap(KVM_CAP_DIRTY_LOG_RING, bytes) before create_vcpu()",
            )
        if self._dirty_ring is None:
            try:
                self._dirty_ring = self._seam.mmap(self.fileno(), size, KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE)
            except OSError as error:
                raise KvmError(
                    error.errno or 0, "mmap", {"size": size, "pages": "dirty ring"}, self._label
                ) from error
        return (kvm_dirty_gfn * (size // ctypes.sizeof(kvm_dirty_gfn))).from_buffer(self._dirty_ring)
