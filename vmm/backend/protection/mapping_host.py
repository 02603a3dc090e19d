# SPDX-License-Identifier: Apache-2.0
"""`MappingProtection`: a machine's protection by the mappings of its VTLs' VMs (`vmm.backend.protection.host`).

What it needs of the machine beside the protocol:

- `show(vtl, pages)` as soon as the mapping for a VTL's VM is made, before `adopt` of that VTL and before an overlay is
  shown: `pages` is the mapping's `RamView`. For VTL0 too.
- `use(processors)` before the first `attach`: the VPs of the machine.
- `covering` returns the view that overlays have to go through, whatever is passed.
- `attach` comes last, over `RefusedWrites`.
- No huge pages of the host (`mapping.huge_pages_refusal`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kvmapi import Vcpu, Vm
from vmm.backend.hyperv.mapped_overlays import OverlayView
from vmm.backend.protection.alone import Alone
from vmm.backend.protection.faults import Alias
from vmm.backend.protection.mapping import Mapping
from vmm.backend.protection.mapping_faults import MappingFaults
from vmm.backend.protection.stepping import Stepper
from vmm.backend.protection.view import ProtectedView, RamPages
from vmm.backend.vp import VirtualProcessor
from vmm.hv.status import HvStatus
from vmm.hypercall.outside import ProcessorMemory
from vmm.outside import GuestMemory
from vmm.vsm.memory import VtlMemory
from vmm.vsm.outside import MemoryIntercepts, RightsChange
from vmm.vsm.protections import MemoryProtections

_VTL0: Final = 0


class MappingProtection:
    """One machine's. See the module for the order of calls."""

    def __init__(
        self,
        ram: GuestMemory,
        blocks: Sequence[tuple[int, int, int]],
        aliases: Sequence[Alias],
        *,
        hardware: bool,
    ) -> None:
        """ram: all of it. blocks: RAM as `(gpa, size, offset in each mapping)`. hardware: `KvmModules.hardware`."""
        self.enforcement = Mapping()
        self._ram = ram
        self._blocks = blocks
        self._aliases = aliases
        self._hardware = hardware
        self._alone: Alone | None = None

    def use(self, processors: Sequence[VirtualProcessor]) -> None:
        """The VPs of the machine; they have not started."""
        self._alone = Alone(processors)

    def show(self, vtl: int, pages: RamPages) -> None:
        """A VTL's mapping of RAM, with all rights. No VM uses it yet."""
        self.enforcement.add(vtl, ProtectedView(pages, self._ram, self._blocks))

    def adopt(self, vtl: int, vm: Vm, restricted: Iterable[RightsChange]) -> None:
        """See `HostProtection`. Errors: `OSError` where the host has no room for so many areas."""
        changes = list(restricted)
        if changes and self.enforcement.apply(vtl, changes) is not HvStatus.SUCCESS:
            raise OSError(
                f"the mapping of VTL{vtl} needs {len(changes)} areas of memory, more than vm.max_map_count leaves: "
                "raise that, or give VTLs longer runs of pages with equal rights"
            )

    def drop_higher(self) -> None:
        """See `HostProtection`."""
        for vtl in [vtl for vtl in self.enforcement.views if vtl != _VTL0]:
            self.enforcement.remove(vtl)

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
        assert self._alone is not None  # `use` comes first
        view = self.enforcement.views[vtl]
        memory: ProcessorMemory = VtlMemory(self._ram, protections, vtl)
        stepper = Stepper(processor, vcpu, view, memory, self._alone, hardware=self._hardware)
        MappingFaults(
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
        ).attach(handlers)
