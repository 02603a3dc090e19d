# SPDX-License-Identifier: Apache-2.0
"""The reference TSC page and its MSR, one per VTL of the partition (TLFS 12.7).

A guest reads the sequence, computes, and reads the sequence again. So a change goes: sequence 0 ("use the
counter"), the values, the new sequence.

The page is the partition's in the TLFS, and its register each VTL's own. So lower VTLs see it too, and cannot write it;
higher ones see RAM there, since a lower VTL must not change what they find in memory (`vmm.overlay.pages`).

Implements: TMR-002, TMR-003
"""

from __future__ import annotations

import struct
import threading
from typing import Final

from vmm.overlay.pages import OverlayMap
from vmm.timers.reference import SEQUENCE_INVALID, ReferenceTime, TscFormula

# HV_REFERENCE_TSC_PAGE: u32 TscSequence @0, u32 reserved @4, u64 TscScale @8, i64 TscOffset @16.
_SEQUENCE_OFFSET: Final = 0
_VALUES_OFFSET: Final = 8
_VALUES: Final = struct.Struct("<Qq")


class ReferenceTscPage:
    """HV_X64_MSR_REFERENCE_TSC and the page it places. Thread-safe.

    Its lock is taken above the overlay lock and below none.
    """

    def __init__(self, vtl: int, reference: ReferenceTime, overlays: OverlayMap) -> None:
        self._lock = threading.Lock()
        self._reference = reference
        self._page = overlays.page(vtl, f"reference TSC page of VTL {vtl}", seen_below=True)
        self._msr = 0
        reference.on_new_formula(self._publish)
        self._publish(reference.formula)

    def read_msr(self) -> int:
        """What was written last."""
        return self._msr

    def write_msr(self, value: int) -> bool:
        """Place the page, or take it away. Never faults: a page out of reach is just not seen."""
        with self._lock:
            self._msr = value
            self._page.follow(value)
        return True

    def reset(self) -> None:
        """Disable it."""
        self.write_msr(0)

    def close(self) -> None:
        """The VTL is gone: no longer follow the reference time."""
        self._reference.forget(self._publish)

    def _publish(self, formula: TscFormula) -> None:
        with self._lock:
            page = self._page
            page.write_u32(_SEQUENCE_OFFSET, SEQUENCE_INVALID)
            page.write(_VALUES_OFFSET, _VALUES.pack(formula.scale, formula.offset))
            page.write_u32(_SEQUENCE_OFFSET, formula.sequence)
