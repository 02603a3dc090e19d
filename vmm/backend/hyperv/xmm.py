# SPDX-License-Identifier: Apache-2.0
"""XMM0 to XMM5 of a caller (`vmm.hypercall.outside.XmmBlock`): through its vCPU, or through the exit that carries them.

| class | read | write |
|---|---|---|
| `VcpuXmm` | KVM_GET_XSAVE | KVM_SET_XSAVE |
| `ExitXmm` | KVM_EXIT_HYPERV, for the calls whose XMM registers KVM hands over; as above for others | the same |

KVM_GET_FPU and KVM_SET_FPU would be smaller, but know nothing of XSTATE_BV: registers still in their initial state
are not in the memory they copy from and to. Each ioctl costs two thirds of an exit, so only calls that carry
parameters in XMM registers come here.
"""

from __future__ import annotations

from typing import Final

from kvmapi import Vcpu
from kvmapi.uapi.kvm_ioctl import KVM_GET_XSAVE, KVM_SET_XSAVE
from kvmapi.uapi.x86 import kvm_xsave
from vmm.backend.hyperv.errands import Meanwhile
from vmm.backend.hyperv.transport import XMM_INPUT, XMM_OUTPUT
from vmm.outside import Buffer

_XMM0: Final = 160  # offset in the XSAVE area (SDM volume 1, 13.4.1)
_XSTATE_BV: Final = 512  # byte with the x87 and SSE bits (SDM volume 1, 13.4.2)
_SSE: Final = 1 << 1

# struct kvm_run, KVM_EXIT_HYPERV: u64 u.hcall.input @40, u.hcall.xmm @72
_INPUT_U64: Final = 40 // 8
_EXIT_XMM: Final = 72
_BYTES: Final = 96  # XMM0 to XMM5
_CODE: Final = 0xFFFF


class VcpuXmm:
    """The registers of one vCPU. Used on its VP's thread, between two `KVM_RUN`s.

    used: read or written in this call; whoever made it then calls `end`.
    """

    __slots__ = ("_area", "_bytes", "_get_xsave", "_meanwhile", "_set_xsave", "used")

    def __init__(self, vcpu: Vcpu, meanwhile: Meanwhile) -> None:
        """meanwhile: the VP's of `Errands`."""
        self._meanwhile = meanwhile
        self._area = kvm_xsave()
        self._bytes = memoryview(self._area).cast("B")
        self._get_xsave = vcpu.prepared_ioctl(KVM_GET_XSAVE, self._area)
        self._set_xsave = vcpu.prepared_ioctl(KVM_SET_XSAVE, self._area)
        self.used = False  # as long as it is, `_area` is what KVM has, but for `meanwhile`

    def read(self, size: int) -> bytes:
        """The first `size` bytes, 96 at most."""
        self._hold()
        return self._bytes[_XMM0 : _XMM0 + size].tobytes()

    def write(self, offset: int, data: Buffer) -> None:
        """Replace `data`'s length of bytes from `offset` on."""
        self._hold()
        if self._meanwhile.happened:  # others may have written some of what is put back here
            self._get_xsave()
        at = _XMM0 + offset
        self._bytes[at : at + len(data)] = data
        self._bytes[_XSTATE_BV] |= _SSE
        self._set_xsave()

    def _hold(self) -> None:
        if not self.used:
            self._get_xsave()
            self.used = True

    def end(self, succeeded: bool) -> None:
        """The call is over and the guest runs on."""
        self.used = False


class ExitXmm:
    """The registers in the KVM_EXIT_HYPERV of one vCPU. As `VcpuXmm`."""

    __slots__ = ("_meanwhile", "_others", "_u8", "_u64", "_written", "used")

    def __init__(self, vcpu: Vcpu, meanwhile: Meanwhile) -> None:
        self._meanwhile = meanwhile
        self._others = VcpuXmm(vcpu, meanwhile)
        self._u8, self._u64 = vcpu.run.u8, vcpu.run.u64
        self._written: list[tuple[int, bytes]] = []
        self.used = False

    def read(self, size: int) -> bytes:
        """The first `size` bytes, 96 at most."""
        self.used = True
        if self._u64[_INPUT_U64] & _CODE in XMM_INPUT:
            return self._u8[_EXIT_XMM : _EXIT_XMM + size].tobytes()
        return self._others.read(size)

    def write(self, offset: int, data: Buffer) -> None:
        """Replace `data`'s length of bytes from `offset` on."""
        self.used = True
        self._written.append((offset, bytes(data)))

    def end(self, succeeded: bool) -> None:
        """The call is over and the guest runs on. KVM takes output from the exit only if the call succeeded, and then
        all of the exit's registers."""
        in_exit = succeeded and self._u64[_INPUT_U64] & _CODE in XMM_OUTPUT
        if in_exit and self._meanwhile.happened:
            self._others.end(succeeded)
            self._u8[_EXIT_XMM : _EXIT_XMM + _BYTES] = self._others.read(_BYTES)
        if self._written:
            for offset, data in self._written:
                if in_exit:
                    self._u8[_EXIT_XMM + offset : _EXIT_XMM + offset + len(data)] = data
                else:
                    self._others.write(offset, data)
            self._written.clear()
        self._others.end(succeeded)
        self.used = False
