# SPDX-License-Identifier: Apache-2.0
"""Flush calls: a whole address space or a list of ranges, for a mask or a sparse set of VPs (TLFS 9.4).

| flag | effect |
|---|---|
| AllProcessors | every VP; mask or set are not looked at |
| AllVirtualAddressSpaces | the address space is not looked at |
| NonGlobalMappingsOnly | global translations stay; not for lists |
| others | refused: CPUID announces neither extended ranges nor flushes for another VTL |

They flush for the caller's VTL. A slice of a list is one flush.

Implements: TLB-001, TLB-002
"""

from __future__ import annotations

from typing import Any, Final

from vmm.hv.constants import HV_FLUSH_MAX_ADDITIONAL_PAGES, HV_PAGE_SIZE
from vmm.hv.inputs import HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE, HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE_EX
from vmm.hv.memory_bits import HV_FLUSH_FLAGS
from vmm.hv.status import HvStatus
from vmm.hvcalls.outside import Processors, TlbFlush, Tlbs, VpContext
from vmm.hvcalls.vp_sets import of_set
from vmm.hypercall.call import AGAIN, CallInput, Reply, failed

_ALL_PROCESSORS: Final = HV_FLUSH_FLAGS.AllProcessors.mask
_ALL_SPACES: Final = HV_FLUSH_FLAGS.AllVirtualAddressSpaces.mask
_NON_GLOBAL: Final = HV_FLUSH_FLAGS.NonGlobalMappingsOnly.mask
_SPACE_FLAGS: Final = _ALL_PROCESSORS | _ALL_SPACES | _NON_GLOBAL
_LIST_FLAGS: Final = _ALL_PROCESSORS | _ALL_SPACES

Ranges = tuple[tuple[int, int], ...]


class TlbCalls:
    """The handlers. Thread-safe."""

    def __init__(self, processors: Processors, tlbs: Tlbs) -> None:
        self._processors = processors
        self._tlbs = tlbs

    def flush_space(
        self, context: VpContext, call: CallInput[HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE, Any]
    ) -> Reply:
        """All translations of an address space, VPs 0 to 63 by a mask."""
        header = call.header
        status, vps = self._by_mask(context, header.Flags, _SPACE_FLAGS, header.ProcessorMask)
        if status:
            return failed(status)
        return self._flush(context, header.AddressSpace, header.Flags, vps, None)

    def flush_list(
        self, context: VpContext, call: CallInput[HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE, int]
    ) -> Reply:
        """Ranges of an address space, VPs 0 to 63 by a mask."""
        header = call.header
        status, vps = self._by_mask(context, header.Flags, _LIST_FLAGS, header.ProcessorMask)
        if status:
            return failed(status)
        return self._flush(context, header.AddressSpace, header.Flags, vps, _ranges(call))

    def flush_space_ex(
        self, context: VpContext, call: CallInput[HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE_EX, Any]
    ) -> Reply:
        """All translations of an address space, VPs by a sparse set."""
        status, vps = self._by_set(context, call, _SPACE_FLAGS)
        if status:
            return failed(status)
        header = call.header
        return self._flush(context, header.AddressSpace, header.Flags, vps, None)

    def flush_list_ex(
        self, context: VpContext, call: CallInput[HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE_EX, int]
    ) -> Reply:
        """Ranges of an address space, VPs by a sparse set."""
        status, vps = self._by_set(context, call, _LIST_FLAGS)
        if status:
            return failed(status)
        header = call.header
        return self._flush(context, header.AddressSpace, header.Flags, vps, _ranges(call))

    def _by_mask(self, context: VpContext, flags: int, allowed: int, mask: int) -> tuple[HvStatus, int]:
        existing = self._processors.vp_mask(context.vtl)
        if flags & ~allowed:
            return HvStatus.INVALID_PARAMETER, 0
        if flags & _ALL_PROCESSORS:
            return HvStatus.SUCCESS, existing
        return _not_empty(mask, mask & existing)

    def _by_set(
        self,
        context: VpContext,
        call: CallInput[HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE_EX, Any],
        allowed: int,
    ) -> tuple[HvStatus, int]:
        header = call.header
        existing = self._processors.vp_mask(context.vtl)
        if header.Flags & ~allowed:
            return HvStatus.INVALID_PARAMETER, 0
        if header.Flags & _ALL_PROCESSORS:
            return HvStatus.SUCCESS, existing
        status, vps = of_set(header.VpSet, call.variable, existing)
        if status:
            return status, 0
        return _not_empty(vps or any(call.variable), vps)

    def _flush(
        self, context: VpContext, address_space: int, flags: int, vps: int, ranges: Ranges | None
    ) -> Reply:
        request = TlbFlush(
            context.vtl,
            vps,
            None if flags & _ALL_SPACES else address_space,
            not flags & _NON_GLOBAL,
            ranges,
        )
        # Nothing to do where the guest named only VPs that do not exist.
        if vps and not self._tlbs.flush(context.vp, request):
            return AGAIN, 0, None
        return HvStatus.SUCCESS, len(ranges or ()), None


def _not_empty(named: int | bool, vps: int) -> tuple[HvStatus, int]:
    """A flush that names nobody at all is a mistake of the caller's."""
    return (HvStatus.SUCCESS, vps) if named else (HvStatus.INVALID_PARAMETER, 0)


def _ranges(call: CallInput[Any, int]) -> Ranges:
    """HV_GVA_RANGE elements: page and further pages."""
    return tuple(
        [
            (element & -HV_PAGE_SIZE, (element & HV_FLUSH_MAX_ADDITIONAL_PAGES) + 1)
            for element in call.elements
        ]
    )
