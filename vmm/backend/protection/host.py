# SPDX-License-Identifier: Apache-2.0
"""How a machine's host enforces the rights of VTLs to memory: one object a machine, made by `choose`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from kvmapi import Vcpu, Vm
from vmm.backend.hyperv.mapped_overlays import OverlayView
from vmm.backend.protection.attributes import Attributes
from vmm.backend.protection.faults import Alias, AttributeFaults
from vmm.backend.protection.view import RamPages
from vmm.backend.vp import VirtualProcessor
from vmm.vsm.outside import Enforcement, MemoryIntercepts, RightsChange
from vmm.vsm.protections import MemoryProtections

Handlers = dict[int, Callable[[], None]]


class HostProtection(Protocol):
    """One machine's."""

    over_overlays: bool
    """Whether its handlers are to be put over those of overlay pages that may only be read, or below them."""

    @property
    def enforcement(self) -> Enforcement:
        """What the table of rights tells of its changes."""

    def adopt(self, vtl: int, vm: Vm, view: RamPages | None, restricted: Iterable[RightsChange]) -> None:
        """A VTL's VM, which runs nothing yet, its mapping of RAM, and what the VTL may not do. Called before anything
        else of the VTL, with the protections' lock held.

        Errors: `KvmError`, `OSError`.
        """

    def drop_higher(self) -> None:
        """Reset: the VMs of all VTLs above 0 are about to be closed, and VTL0 begins anew. All VPs are frozen."""

    def covering(self, vtl: int, view: OverlayView) -> OverlayView:
        """`view`, the VTL's, by which pages of overlays are put in the place of RAM: its own have rights of their own,
        and those of the RAM come back with it; the RAM's bind it in those of higher VTLs."""

    def attach(
        self,
        processor: VirtualProcessor,
        vcpu: Vcpu,
        vtl: int,
        handlers: Handlers,
        protections: MemoryProtections,
        intercepts: MemoryIntercepts,
    ) -> None:
        """Have refused accesses of a VTL of a VP handled. `handlers` are that VTL's; others are put over them later."""


class AttributeProtection:
    """By memory attributes of a kernel with VSM."""

    over_overlays = False  # the attributes of a page say nothing of an overlay on it

    def __init__(
        self, aliases: Sequence[Alias], gpa_of: Callable[[int], int], *, tells_instruction: bool
    ) -> None:
        """gpa_of: address of the RAM at an offset of a view. tells_instruction: see `AttributeFaults`."""
        self.enforcement = Attributes(aliases)
        self.drop_higher = self.enforcement.drop_higher
        self._aliases = aliases
        self._gpa_of = gpa_of
        self._tells_instruction = tells_instruction

    def adopt(self, vtl: int, vm: Vm, view: RamPages | None, restricted: Iterable[RightsChange]) -> None:
        """See `HostProtection`."""
        self.enforcement.adopt(vtl, vm, restricted)

    def covering(self, vtl: int, view: OverlayView) -> OverlayView:
        """See `HostProtection`."""
        return _CoveringView(view, vtl, self.enforcement, self._gpa_of)

    def attach(
        self,
        processor: VirtualProcessor,
        vcpu: Vcpu,
        vtl: int,
        handlers: Handlers,
        protections: MemoryProtections,
        intercepts: MemoryIntercepts,
    ) -> None:
        """See `HostProtection`."""
        AttributeFaults(
            processor,
            vcpu,
            vtl,
            protections,
            intercepts,
            self._aliases,
            self.enforcement.tell_again,
            tells_instruction=self._tells_instruction,
        ).attach(handlers)


class _CoveringView:
    """A view whose overlay pages are free of attributes while they are seen."""

    def __init__(
        self, view: OverlayView, vtl: int, attributes: Attributes, gpa_of: Callable[[int], int]
    ) -> None:
        self.offset_of = view.offset_of
        self._view = view
        self._vtl = vtl
        self._attributes = attributes
        self._gpa_of = gpa_of

    def put_over(self, offset: int, fd: int, fd_offset: int, *, writable: bool) -> None:
        """First the other page, then the right to use it: RAM is never bare."""
        self._view.put_over(offset, fd, fd_offset, writable=writable)
        self._attributes.covered(self._vtl, self._gpa_of(offset))

    def put_from_above(self, offset: int, fd: int, fd_offset: int) -> None:
        """The attributes stay those of RAM."""
        self._view.put_from_above(offset, fd, fd_offset)

    def put_back(self, offset: int) -> None:
        """First the rights of RAM, then RAM."""
        self._attributes.uncovered(self._vtl, self._gpa_of(offset))
        self._view.put_back(offset)
