# SPDX-License-Identifier: Apache-2.0
"""VP assist page, one per VP and VTL (TLFS 7.8.7, 15.8.1; `HV_VP_ASSIST_PAGE`).

What is written while the guest has not enabled it goes nowhere (VSM-051): a VTL entered before it set up its page finds
zeros there, not the reason of an entry long past.

NoEoiRequired is never set, as the TLFS allows: an EOI costs nothing in KVM's local APIC.

Implements: VSM-048, VSM-049, VSM-051, APIC-004
"""

from __future__ import annotations

import struct
import threading
from typing import Final

from vmm.overlay.pages import OverlayMap

ENTRY_REASON_OFFSET: Final = 8
VINA_STATUS_OFFSET: Final = 12
VTL_RETURN_RAX_OFFSET: Final = 16
INTERCEPT_MESSAGE_OFFSET: Final = 112

_ENABLE: Final = 1
_VINA_ASSERTED: Final = 1
_REGISTERS: Final = struct.Struct("<QQ")  # VtlReturnX64Rax, VtlReturnX64Rcx
_REGISTERS_X86: Final = struct.Struct("<III")  # VtlReturnX86Eax, VtlReturnX86Ecx, VtlReturnX86Edx


class VpAssistPage:
    """HV_X64_MSR_VP_ASSIST_PAGE and the page. Thread-safe."""

    def __init__(self, vp: int, vtl: int, overlays: OverlayMap) -> None:
        self._lock = threading.Lock()
        self._page = overlays.page(vtl, f"VP assist page of VP {vp}, VTL {vtl}")
        self._msr = 0

    @property
    def enabled(self) -> bool:
        """Whether the guest has placed it."""
        return self._msr & _ENABLE != 0

    def reset(self) -> None:
        """Off and zero."""
        with self._lock:
            self._msr = 0
            self._page.reset()

    def read_msr(self) -> int:
        """HV_X64_MSR_VP_ASSIST_PAGE."""
        return self._msr

    def write_msr(self, value: int) -> bool:
        """Place it, or take it away. Never faults: a page out of reach is just not seen."""
        with self._lock:
            self._msr = value
            self._page.follow(value)
        return True

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`, inside the page; nothing where it is not enabled."""
        if self.enabled:
            self._page.write(offset, data)

    def set_entry_reason(self, reason: int) -> None:
        """Say why the VTL was entered (HV_VTL_ENTRY_REASON)."""
        self.write(ENTRY_REASON_OFFSET, reason.to_bytes(4, "little"))

    def set_return_registers(self, rax: int, rcx: int) -> None:
        """Propose RAX and RCX for the lower VTL."""
        self.write(VTL_RETURN_RAX_OFFSET, _REGISTERS.pack(rax, rcx))

    def return_registers(self) -> tuple[int, int]:
        """(RAX, RCX) that the lower VTL gets at a VTL return that is not fast; zeros where it is not enabled."""
        if not self.enabled:
            return 0, 0
        rax, rcx = _REGISTERS.unpack(self._page.read(VTL_RETURN_RAX_OFFSET, _REGISTERS.size))
        return rax, rcx

    def return_registers_x86(self) -> tuple[int, int, int]:
        """The same of a 32-bit VTL: (EAX, ECX, EDX)."""
        if not self.enabled:
            return 0, 0, 0
        eax, ecx, edx = _REGISTERS_X86.unpack(self._page.read(VTL_RETURN_RAX_OFFSET, _REGISTERS_X86.size))
        return eax, ecx, edx

    @property
    def vina_asserted(self) -> bool:
        """Whether the guest has not yet taken note of the last virtual interrupt notification."""
        return self.enabled and self._page.read(VINA_STATUS_OFFSET, 1)[0] & _VINA_ASSERTED != 0

    @vina_asserted.setter
    def vina_asserted(self, value: bool) -> None:
        self.write(VINA_STATUS_OFFSET, bytes((_VINA_ASSERTED if value else 0,)))
