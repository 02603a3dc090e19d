# SPDX-License-Identifier: Apache-2.0
"""`MappingProtection`: a machine's protection by the mappings of its VTLs' VMs (`vmm.backend.protection.host`).

All overlays of a VTL go through the view that `covering` returns. Its handlers come over those of `RefusedWrites`,
which takes an EFAULT without an address for a write to an overlay. Not with huge pages of the host (`choose`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kvmapi import Vcpu, Vm
from vmm.backend.hyperv.mapped_overlays import OverlayView
from vmm.backend.protection.alone import Alone
from vmm.backend.protection.faults import Alias
from vmm.backend.protection.mapping import MOST_EMULATED, Mapping
from vmm.backend.protection.mapping_faults import MappingFaults
from vmm.backend.protection.stepping import Stepper
from vmm.backend.protection.stuck import StuckWatch
from vmm.backend.protection.view import ProtectedView, RamPages
from vmm.backend.vp import VirtualProcessor
from vmm.hv.status import HvStatus
from vmm.hypercall.outside import ProcessorMemory
from vmm.outside import Clock, ProcessorRam
from vmm.vsm.memory import VtlMemory
from vmm.vsm.outside import MemoryIntercepts, RightsChange
from vmm.vsm.protections import MemoryProtections

_VTL0: Final = 0


class MappingProtection:
    """One machine's."""

    over_overlays = True

    def __init__(
        self,
        ram: ProcessorRam,
        blocks: Sequence[tuple[int, int, int]],
        aliases: Sequence[Alias],
        processors: Sequence[VirtualProcessor],
        clock: Clock,
        *,
        hardware: bool,
    ) -> None:
        """ram: all of it. blocks: RAM as `(gpa, size, offset in each mapping)`. hardware: `KvmModules.hardware`."""
        if hardware:
            self.enforcement, self._watch = Mapping(), None
        else:
            self.enforcement = Mapping(most_without_execute=MOST_EMULATED, changed=self._rights_changed)
            self._watch = StuckWatch(clock, self.enforcement.restricts)
        self._ram = ram
        self._blocks = blocks
        self._aliases = aliases
        self._hardware = hardware
        self._alone = Alone(processors)
        self._of_vtl0: dict[int, MappingFaults] = {}

    def adopt(self, vtl: int, vm: Vm, view: RamPages | None, restricted: Iterable[RightsChange]) -> None:
        """See `HostProtection`. Errors: `OSError` where the host has no room for so many areas."""
        assert view is not None  # no huge pages
        self.enforcement.add(vtl, ProtectedView(view, self._ram, self._blocks))
        changes = list(restricted)
        if changes and self.enforcement.apply(vtl, changes) is not HvStatus.SUCCESS:
            self.enforcement.remove(vtl)
            raise OSError(
                errno.ENOMEM,
                f"the mapping of VTL{vtl} needs {len(changes)} areas of memory, more than vm.max_map_count leaves: "
                "raise that, or give VTLs longer runs of pages with equal rights",
            )

    def drop_higher(self) -> None:
        """See `HostProtection`."""
        for vtl in [vtl for vtl in self.enforcement.views if vtl != _VTL0]:
            self.enforcement.remove(vtl)
        for faults in self._of_vtl0.values():
            faults.reset()
        if self._watch is not None:
            self._watch.forget_higher()

    def covering(self, vtl: int, view: OverlayView) -> OverlayView:
        """See `HostProtection`."""
        return self.enforcement.views[vtl]

    def attach(
        self,
        processor: VirtualProcessor,
        vcpu: Vcpu,
        vtl: int,
        handlers: dict[int, Callable[[], None]],
        protections: MemoryProtections,
        intercepts: MemoryIntercepts,
    ) -> None:
        """See `HostProtection`."""
        view = self.enforcement.views[vtl]
        memory: ProcessorMemory = VtlMemory(self._ram, protections, vtl)
        stepper = Stepper(processor, vcpu, view, memory, self._alone, hardware=self._hardware)
        faults = MappingFaults(
            processor,
            vcpu,
            vtl,
            view,
            memory,
            protections,
            intercepts,
            stepper,
            self._aliases,
            hardware=self._hardware,
        )
        faults.attach(handlers)
        if vtl == _VTL0:
            self._of_vtl0[processor.index] = faults
        if self._watch is not None:
            self._watch.watch(processor, vtl, faults)

    def _rights_changed(self) -> None:
        assert self._watch is not None
        self._watch.rights_changed()
