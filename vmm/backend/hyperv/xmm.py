# SPDX-License-Identifier: Apache-2.0
"""XMM0 to XMM5 of a vCPU (`vmm.hypercall.outside.XmmBlock`), through KVM_GET_XSAVE and KVM_SET_XSAVE.

KVM_GET_FPU and KVM_SET_FPU would be smaller, but know nothing of XSTATE_BV: registers still in their initial state
are not in the memory they copy from and to. Each ioctl costs two thirds of an exit, so only calls that carry
parameters in XMM registers come here.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from kvmapi import Vcpu
from vmm.outside import Buffer

_XMM0: Final = 160  # offset in the XSAVE area (SDM volume 1, 13.4.1)
_XSTATE_BV: Final = 512  # byte with the x87 and SSE bits (SDM volume 1, 13.4.2)
_SSE: Final = 1 << 1


class VcpuXmm:
    """The registers of one vCPU. Used on its VP's thread, between two `KVM_RUN`s."""

    __slots__ = ("_vcpu", "area")

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.area: Any = None
        """What `read` got, for `write`. Its owner forgets it before the guest runs on."""

    def read(self, size: int) -> bytes:
        """The first `size` bytes, 96 at most."""
        self.area = self._vcpu.get_xsave()
        return ctypes.string_at(ctypes.addressof(self.area) + _XMM0, size)

    def write(self, offset: int, data: Buffer) -> None:
        """Replace `data`'s length of bytes from `offset` on."""
        # A call with output in XMM registers has read its input from them, except one with 16 bytes of input.
        area = self.area if self.area is not None else self._vcpu.get_xsave()
        self.area = None
        address = ctypes.addressof(area)
        ctypes.memmove(address + _XMM0 + offset, bytes(data), len(data))
        ctypes.c_uint8.from_address(address + _XSTATE_BV).value |= _SSE
        self._vcpu.set_xsave(area)
