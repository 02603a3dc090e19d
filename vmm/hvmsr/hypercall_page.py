# SPDX-License-Identifier: Apache-2.0
"""Guest OS id and hypercall page, one pair per VTL of the partition (TLFS 2.6, 3.13).

| write | effect |
|---|---|
| OS id 0 | the page goes away, unless it is locked |
| hypercall MSR, locked before | #GP |
| enable, OS id 0 | accepted, but stays disabled |
| enable, page beyond the guest's address space | #GP |
| enable | the page shows the transport's code; not writable for the guest |

Implements: HCP-001, HCP-002, HCP-003, HCP-004, HCP-005, HCP-006
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from vmm.hv.constants import HV_PAGE_SHIFT, HV_PAGE_SIZE
from vmm.hv.msr_bits import HV_X64_MSR_HYPERCALL_CONTENTS
from vmm.overlay.pages import OverlayMap

FILLER: Final = b"\xcc"
"""INT3: what lies behind the code, so that a stray jump there does not go unnoticed."""

_ENABLE: Final = HV_X64_MSR_HYPERCALL_CONTENTS.Enable.mask
_LOCKED: Final = HV_X64_MSR_HYPERCALL_CONTENTS.Locked.mask


class HypercallPage:
    """HV_X64_MSR_GUEST_OS_ID and HV_X64_MSR_HYPERCALL of one VTL. Thread-safe."""

    def __init__(self, vtl: int, overlays: OverlayMap, code: Callable[[int], bytes], gpa_bits: int) -> None:
        """code: the page's bytes for a VTL, asked for at each enable. gpa_bits: CPUID's physical address width."""
        self._vtl = vtl
        self._lock = threading.Lock()
        self._page = overlays.page(vtl, f"hypercall page of VTL {vtl}", writable=False)
        self._code = code
        self._gpn_limit = 1 << gpa_bits - HV_PAGE_SHIFT
        self._os_id = 0
        self._msr = 0
        self.enabled = False
        """Whether this VTL may make hypercalls. Written under the lock, read without: every hypercall looks."""

    def reset(self) -> None:
        """No OS id, no page, no lock."""
        with self._lock:
            self._os_id = 0
            self._msr = 0
            self.enabled = False
            self._page.disable()

    def is_at(self, gpn: int) -> bool:
        """Whether the page is enabled at this guest page number."""
        return self._page.gpn == gpn

    def read_os_id(self) -> int:
        """HV_X64_MSR_GUEST_OS_ID."""
        return self._os_id

    def write_os_id(self, value: int) -> bool:
        """Any content is fine."""
        with self._lock:
            self._os_id = value
            if value == 0 and not self._msr & _LOCKED:
                self._msr &= ~_ENABLE
                self.enabled = False
                self._page.disable()
        return True

    def read_msr(self) -> int:
        """HV_X64_MSR_HYPERCALL."""
        return self._msr

    def write_msr(self, value: int) -> bool:
        """False: #GP."""
        code = self._code(self._vtl) if value & _ENABLE else b""
        with self._lock:
            if self._msr & _LOCKED:
                return False
            if self._os_id == 0:
                value &= ~_ENABLE
            if value & _ENABLE:
                gpn = value >> HV_PAGE_SHIFT
                if gpn >= self._gpn_limit:
                    return False
                self._page.write(0, code.ljust(HV_PAGE_SIZE, FILLER))
                self._page.enable(gpn)
            else:
                self._page.disable()
            self._msr = value
            self.enabled = value & _ENABLE != 0
        return True
