# SPDX-License-Identifier: Apache-2.0
"""A guest's write to a page that it may only read: the hypercall page (TLFS 3.13), an overlay of a higher VTL. #GP.

| where | how the write comes to the VMM | RIP of the #GP |
|---|---|---|
| KVM emulates the instruction | KVM_EXIT_MMIO with the address | behind the instruction |
| the same, with LOCK | KVM_EXIT_INTERNAL_ERROR: it cannot | at the instruction |
| the processor writes; patched KVM | EFAULT, KVM_EXIT_MEMORY_FAULT with the address | at the instruction |
| the processor writes; upstream KVM | EFAULT without an address | at the instruction |

With LOCK the address is found by decoding. In the last case it is not told: while such a page is shown the access is
taken for one to it; without one, EFAULT ends the run as ever. Where a VTL's mapping refuses more than these pages,
`vmm.backend.protection.mapping_faults` looks first whether it is a write to one. Memory attributes bind a page of a
higher VTL: an access that the VTL's rights refuse is left to whoever tells of it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from kvmapi import Vcpu
from kvmapi.uapi import kvm as k
from kvmapi.uapi.vsm import KVM_MEMORY_EXIT_FLAG_WRITE
from kvmapi.uapi.x86 import DF_VECTOR, GP_VECTOR, KVM_VCPUEVENT_VALID_SHADOW
from vmm.backend.hyperv.event_registers import makes_double_fault
from vmm.backend.vp import REFUSED_ACCESS, VirtualProcessor
from vmm.hv.constants import HV_PAGE_SHIFT
from vmm.vsm.rights import WRITE

if TYPE_CHECKING:
    from vmm.backend.emulation.processor import Cpuid
    from vmm.hypercall.outside import ProcessorMemory

# struct kvm_run: mmio.phys_addr u64 @32, mmio.is_write u8 @52; memory_fault.flags u64 @32, gpa u64 @40;
# internal.suberror u32 @32
_MMIO_GPA_U64: Final = 32 // 8
_MMIO_IS_WRITE_U8: Final = 52
_FAULT_FLAGS_U64: Final = 32 // 8
_FAULT_GPA_U64: Final = 40 // 8
_EXIT_REASON_U32: Final = 8 // 4
_SUBERROR_U32: Final = 32 // 4


class Refusing(Protocol):
    """`vmm.backend.hyperv.mapped_overlays.MappedOverlays`, as far as it is looked at here."""

    @property
    def refused(self) -> frozenset[tuple[int, int]]:
        """`(VTL, guest page number)` of the VTL's own pages that are shown now and may only be read."""

    @property
    def from_above(self) -> frozenset[tuple[int, int]]:
        """Likewise of pages of higher VTLs."""


Allowed = Callable[[int], bool]
"""Whether the VTL may write the page of RAM with that number."""


class RefusedWrites:
    """The exits of one VTL of one VP. `attach` puts the handlers in place; they run on the VP's thread."""

    def __init__(
        self,
        processor: VirtualProcessor,
        vcpu: Vcpu,
        handlers: dict[int, Callable[[], None]],
        vtl: int,
        overlays: Refusing,
        allowed: Allowed | None = None,
        memory: ProcessorMemory | None = None,
    ) -> None:
        """vcpu, handlers: those of the VTL. allowed: asked where rights may be what an EFAULT is about, which tells the
        access then; None where somebody else has looked before. memory: the VTL's; None where somebody else finds the
        accesses that KVM's emulator gives up."""
        self._processor = processor
        self._vcpu = vcpu
        self._handlers = handlers
        self._vtl = vtl
        self._overlays = overlays
        self._allowed = allowed
        self._other_mmio = handlers[k.KVM_EXIT_MMIO]
        self._other_fault = handlers.get(REFUSED_ACCESS, self._unexpected)
        self._memory = memory
        self._other_error = handlers[k.KVM_EXIT_INTERNAL_ERROR]
        self._cpuid: Cpuid | None = None

    def attach(self) -> None:
        """The VP's thread has not started."""
        self._handlers[k.KVM_EXIT_MMIO] = self.mmio
        self._handlers[REFUSED_ACCESS] = self.fault
        if self._memory is not None:
            self._handlers[k.KVM_EXIT_INTERNAL_ERROR] = self.internal_error

    def mmio(self) -> None:
        """KVM_EXIT_MMIO."""
        run = self._vcpu.run
        if run.u8[_MMIO_IS_WRITE_U8] and self._shown(run.u64[_MMIO_GPA_U64] >> HV_PAGE_SHIFT):
            self._general_protection()
        else:
            self._other_mmio()

    def fault(self) -> None:
        """KVM_RUN failed with EFAULT."""
        refused, from_above = self._overlays.refused, self._overlays.from_above
        run = self._vcpu.run
        if run.u32[_EXIT_REASON_U32] == k.KVM_EXIT_MEMORY_FAULT:
            page = self._vtl, run.u64[_FAULT_GPA_U64] >> HV_PAGE_SHIFT
            mine = page in refused or (page in from_above and self._is_no_matter_of_rights(page[1]))
        else:
            mine = self._shows_any()
        if mine:
            self._general_protection()
        else:
            self._other_fault()

    def internal_error(self) -> None:
        """KVM_EXIT_INTERNAL_ERROR: an access with LOCK is not one that KVM's emulator makes as KVM_EXIT_MMIO."""
        emulation = self._vcpu.run.u32[_SUBERROR_U32] == k.KVM_INTERNAL_ERROR_EMULATION
        if not (emulation and self._shows_any() and self._take_back_write()):
            self._other_error()
            return
        self._general_protection()

    def _take_back_write(self) -> bool:
        """Whether the instruction at RIP writes such a page; nothing of it, nor KVM's #UD, is left then."""
        # Most guests never come here, so what decodes instructions is loaded with the first need.
        from vmm.backend.emulation.processor import Cpuid, Processor
        from vmm.backend.protection.touches import of_instruction
        from vmm.backend.protection.unfinished import put_registers

        assert self._memory is not None  # or the exit is somebody else's
        if self._cpuid is None:
            self._cpuid = Cpuid(self._vcpu.get_cpuid2())
        cpu = Processor(self._vcpu, self._memory, self._cpuid)
        touches = of_instruction(cpu, self._memory).touches
        if not any(touch.wanted == WRITE and self._shown(touch.gpa >> HV_PAGE_SHIFT) for touch in touches):
            return False
        put_registers(self._vcpu, cpu.regs, cpu.sregs)
        return True

    def _shown(self, gpn: int) -> bool:
        """Whether a page that the VTL may only read is there."""
        page, overlays = (self._vtl, gpn), self._overlays
        return page in overlays.refused or page in overlays.from_above

    def _shows_any(self) -> bool:
        """Whether there is one anywhere."""
        return any(vtl == self._vtl for vtl, _ in self._overlays.refused | self._overlays.from_above)

    def _is_no_matter_of_rights(self, gpn: int) -> bool:
        if self._allowed is None:
            return True
        return bool(self._vcpu.run.u64[_FAULT_FLAGS_U64] & KVM_MEMORY_EXIT_FLAG_WRITE) and self._allowed(gpn)

    def _unexpected(self) -> None:
        self._processor.run_failed(errno.EFAULT)

    def _general_protection(self) -> None:
        """With an exception in delivery, which has found its stack there, it is what a processor makes of the two."""
        events = self._vcpu.get_vcpu_events()
        exception, vector = events.exception, GP_VECTOR
        if exception.injected:
            if exception.nr == DF_VECTOR:
                self._handlers[k.KVM_EXIT_SHUTDOWN]()
                return
            if makes_double_fault(exception.nr, GP_VECTOR):
                vector = DF_VECTOR
        exception.injected, exception.pending, exception.nr = 1, 0, vector
        exception.has_error_code, exception.error_code = 1, 0
        # No NMI or SMI that came since the GET is lost by writing them back.
        events.flags = KVM_VCPUEVENT_VALID_SHADOW
        self._vcpu.set_vcpu_events(events)
