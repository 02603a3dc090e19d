# SPDX-License-Identifier: Apache-2.0
"""HvCallTranslateVirtualAddress and its Ex form: what a VP's page tables make of an address (TLFS 9.3, 9.4).

The status is SUCCESS for whatever the walk finds; the result says it. Both forms do the same, the Ex form has a larger
output, whose event stays zero: it is filled for intercepts of nested hypervisors only.

| flag | effect |
|---|---|
| ValidateRead, Write, Execute | these accesses must be allowed; at least one |
| PrivilegeExempt | neither user nor supervisor: no check of U/S, SMEP and SMAP |
| SetPageTableBits | accessed and dirty bits are set on success |
| UserAccess, SupervisorAccess | instead of the VP's CPL; not both |
| EnforceSmap, OverrideSmap | instead of what RFLAGS.AC says; not both |
| TlbFlushInhibit | holds the flushes of a lower VTL; refused for the caller's own, which nothing would release |
| ShadowStack | refused: shadow stacks are not offered |

A VP without paging translates every address to itself.

Implements: VP-020, VP-021, VP-022, VP-023, VP-024, VP-025
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

from vmm.hv.constants import HV_PARTITION_ID_SELF, HV_VP_INDEX_SELF
from vmm.hv.hypercall_words import HV_INPUT_VTL
from vmm.hv.inputs import HV_INPUT_TRANSLATE_VIRTUAL_ADDRESS
from vmm.hv.memory_bits import (
    HV_TRANSLATE_GVA_CONTROL_FLAGS,
    HV_TRANSLATE_GVA_RESULT,
    HvTranslateGvaResultCode,
)
from vmm.hv.outputs import HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS, HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX
from vmm.hv.status import HvStatus
from vmm.hvcalls.outside import VpContext
from vmm.hypercall.call import AGAIN, CallInput, Reply, failed

Code = HvTranslateGvaResultCode
_F = HV_TRANSLATE_GVA_CONTROL_FLAGS
_VALIDATE: Final = _F.ValidateRead.mask | _F.ValidateWrite.mask | _F.ValidateExecute.mask
_BOTH_PRIVILEGES: Final = _F.SupervisorAccess.mask | _F.UserAccess.mask
_BOTH_SMAPS: Final = _F.EnforceSmap.mask | _F.OverrideSmap.mask
_VTL: Final = HV_INPUT_VTL.TargetVtl.mask
_GVA_PAGES: Final = 1 << 52
_EVENT_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class GvaAccess:
    """The accesses whose right is asked for, all of those that are set."""

    read: bool
    write: bool
    execute: bool
    exempt: bool = False
    """No check of user and supervisor rights."""
    user: bool | None = None
    """Made in user mode, in supervisor mode, or (None) at the VP's CPL."""
    smap: bool | None = None
    """SMAP forbids it user pages, does not, or (None) as RFLAGS.AC says."""
    set_bits: bool = False
    """Accessed and dirty bits are set on success."""


class GvaTranslation(NamedTuple):
    """What a translation ends with."""

    code: HvTranslateGvaResultCode
    gpa_page: int = 0
    """Success: the page; a GPA access failure (codes 4 to 7): the page that failed, of a table perhaps."""
    cache_type: int = 0
    """Success: an HvCacheType, what PAT and page tables make of the page."""
    overlay: bool = False
    """Success: an overlay page is seen there."""


class AddressSpaces(Protocol):
    """The page tables of the partition's VPs. Thread-safe."""

    def has_vp(self, vp: int) -> bool:
        """Whether a VP has this index."""

    def has_vtl(self, vp: int, vtl: int) -> bool:
        """Whether `vtl` is enabled on the VP."""

    def translate(
        self, caller: int, caller_vtl: int, vp: int, vtl: int, gva: int, access: GvaAccess
    ) -> GvaTranslation | None:
        """Walk the tables of `vtl` on `vp`, with its registers and memory rights.

        caller: the VP that asks, on its own thread, in `caller_vtl`, which is `vtl` or a higher one. None: it takes
        longer, the caller asks again.
        """

    def inhibit_flushes(self, caller: int, caller_vtl: int, vp: int, vtl: int) -> bool:
        """Hold TLB flushes of `vtl` on `vp` until the caller's VTL returns; False where that cannot be."""


class TranslateCalls:
    """The handlers. Thread-safe."""

    def __init__(self, spaces: AddressSpaces) -> None:
        self._spaces = spaces

    def translate(
        self, context: VpContext, call: CallInput[HV_INPUT_TRANSLATE_VIRTUAL_ADDRESS, Any]
    ) -> Reply:
        """HvCallTranslateVirtualAddress."""
        found = self._translate(context, call.header)
        if not isinstance(found, GvaTranslation):
            return failed(found) if isinstance(found, HvStatus) else (AGAIN, 0, None)
        output = HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS(
            ResultCode=int(found.code),
            CacheType=found.cache_type,
            Flags=int(found.overlay),
            GpaPage=found.gpa_page,
        )
        return HvStatus.SUCCESS, 0, output

    def translate_ex(
        self, context: VpContext, call: CallInput[HV_INPUT_TRANSLATE_VIRTUAL_ADDRESS, Any]
    ) -> Reply:
        """HvCallTranslateVirtualAddressEx."""
        found = self._translate(context, call.header)
        if not isinstance(found, GvaTranslation):
            return failed(found) if isinstance(found, HvStatus) else (AGAIN, 0, None)
        result = HV_TRANSLATE_GVA_RESULT.make(
            ResultCode=int(found.code), CacheType=found.cache_type, OverlayPage=found.overlay
        )
        output = HV_OUTPUT_TRANSLATE_VIRTUAL_ADDRESS_EX(
            Result=result, EventInfo=bytes(_EVENT_SIZE), GpaPage=found.gpa_page
        )
        return HvStatus.SUCCESS, 0, output

    def _translate(
        self, context: VpContext, header: HV_INPUT_TRANSLATE_VIRTUAL_ADDRESS
    ) -> GvaTranslation | HvStatus | None:
        spaces, flags = self._spaces, header.ControlFlags
        if header.PartitionId != HV_PARTITION_ID_SELF:
            return HvStatus.INVALID_PARTITION_ID
        vp = context.vp if header.VpIndex == HV_VP_INDEX_SELF else header.VpIndex
        if not spaces.has_vp(vp):
            return HvStatus.INVALID_VP_INDEX
        access = _access(flags)
        if access is None or header.GvaPage >= _GVA_PAGES:
            return HvStatus.INVALID_PARAMETER
        vtl = flags.InputVtl & _VTL  # the dispatcher has resolved it
        if flags.TlbFlushInhibit and vtl >= context.vtl:
            return HvStatus.INVALID_PARAMETER
        if not spaces.has_vtl(vp, vtl):
            return HvStatus.INVALID_VTL_STATE
        gva = header.GvaPage << 12
        first = replace(access, set_bits=False) if flags.TlbFlushInhibit else access
        found = spaces.translate(context.vp, context.vtl, vp, vtl, gva, first)
        if flags.TlbFlushInhibit and found is not None and found.code == Code.HvTranslateGvaSuccess:
            if not spaces.inhibit_flushes(context.vp, context.vtl, vp, vtl):
                return HvStatus.INVALID_PARAMETER
            # Another VP may have changed the tables and flushed before the flushes were held: a walk from now on is
            # true for as long as they are.
            found = spaces.translate(context.vp, context.vtl, vp, vtl, gva, access)
        return found


def _access(flags: HV_TRANSLATE_GVA_CONTROL_FLAGS) -> GvaAccess | None:
    """The access that the flags ask about; None where they ask for nothing, or for what there is not."""
    if not flags & _VALIDATE or flags & _F.RSVDZ_MASK or flags.ShadowStack:
        return None
    if flags & _BOTH_PRIVILEGES == _BOTH_PRIVILEGES or flags & _BOTH_SMAPS == _BOTH_SMAPS:
        return None
    return GvaAccess(
        read=flags.ValidateRead,
        write=flags.ValidateWrite,
        execute=flags.ValidateExecute,
        exempt=flags.PrivilegeExempt,
        user=flags.UserAccess if flags & _BOTH_PRIVILEGES else None,
        smap=flags.EnforceSmap if flags & _BOTH_SMAPS else None,
        set_bits=flags.SetPageTableBits,
    )
