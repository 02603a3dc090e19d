# SPDX-License-Identifier: Apache-2.0
"""HV_CACHE_TYPE of a page of guest RAM: what IA32_PAT makes of it; KVM gives RAM no other for what MTRRs say."""

from __future__ import annotations

from typing import Final

from kvmapi import Vcpu
from vmm.hv.messages import HvCacheType

_MSR_PAT: Final = 0x277
_TYPE: Final = 7
_UNCACHED_MINUS: Final = 7


def of(vcpu: Vcpu, pat_index: int) -> int:
    """The type that entry `pat_index` of the vCPU's IA32_PAT selects. Errors: `KvmError`."""
    found = vcpu.get_msrs([_MSR_PAT])[0][1] >> 8 * pat_index & _TYPE
    return int(HvCacheType.Uncached) if found == _UNCACHED_MINUS else found
