# SPDX-License-Identifier: Apache-2.0
"""x87, MMX, XMM and YMM registers, and XCR0, through KVM_GET_XSAVE and KVM_GET_XCRS (SDM volume 1, 13.4).

The first 512 bytes of the XSAVE area are those of FXSAVE: HvX64RegisterFpControlStatus is its first 16 bytes,
HvX64RegisterXmmControlStatus the next 16. A component that is written becomes part of XSTATE_BV.
"""

from __future__ import annotations

import ctypes
from typing import Final

from kvmapi import Vcpu
from kvmapi.uapi import x86
from vmm.backend.hyperv.register_access import Read, Write
from vmm.hv.registers import HvRegisterName

VALUE_BYTES: Final = 16
_X87, _SSE, _AVX = 1, 2, 4
_XSTATE_BV: Final = 512
_YMM_HIGH: Final = 576
"""The AVX component in the standard form of the area, on every processor that has it (SDM volume 1, 13.4.1)."""
_BY_NAME: Final = {register.name: int(register) for register in HvRegisterName}


def _areas() -> dict[int, tuple[int, int]]:
    """Register -> (offset in the XSAVE area, component)."""
    found = {
        _BY_NAME["HvX64RegisterFpControlStatus"]: (0, _X87),
        _BY_NAME["HvX64RegisterXmmControlStatus"]: (16, _X87 | _SSE),
    }
    for number in range(8):
        found[_BY_NAME[f"HvX64RegisterFpMmx{number}"]] = (32 + VALUE_BYTES * number, _X87)
    for number in range(16):
        xmm = (160 + VALUE_BYTES * number, _SSE)
        found[_BY_NAME[f"HvX64RegisterXmm{number}"]] = xmm
        found[_BY_NAME[f"HvX64RegisterYmm{number}Low"]] = xmm
        found[_BY_NAME[f"HvX64RegisterYmm{number}High"]] = (_YMM_HIGH + VALUE_BYTES * number, _AVX)
    return found


def _area_accessors(offset: int, component: int) -> tuple[Read, Write]:
    def read(vcpu: Vcpu) -> int:
        area = vcpu.get_xsave()
        return int.from_bytes(ctypes.string_at(ctypes.addressof(area) + offset, VALUE_BYTES), "little")

    def write(vcpu: Vcpu, value: int) -> None:
        area = vcpu.get_xsave()
        address = ctypes.addressof(area)
        ctypes.memmove(address + offset, value.to_bytes(VALUE_BYTES, "little"), VALUE_BYTES)
        ctypes.c_uint8.from_address(address + _XSTATE_BV).value |= component
        vcpu.set_xsave(area)

    return read, write


def _read_xcr0(vcpu: Vcpu) -> int:
    return int(vcpu.get_xcrs().xcrs[0].value)


def _write_xcr0(vcpu: Vcpu, value: int) -> None:
    xcrs = x86.kvm_xcrs(nr_xcrs=1)
    xcrs.xcrs[0].value = value
    vcpu.set_xcrs(xcrs)


ACCESSORS: Final[dict[int, tuple[Read, Write | None]]] = {
    **{register: _area_accessors(*area) for register, area in _areas().items()},
    int(HvRegisterName.HvX64RegisterXfem): (_read_xcr0, _write_xcr0),
}
"""Register -> how it is read and written."""
