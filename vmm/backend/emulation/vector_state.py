# SPDX-License-Identifier: Apache-2.0
"""`VectorState`: x87, MMX and vector registers in the XSAVE area (SDM volume 1, sections 10.5.1 and 13.4)."""

from __future__ import annotations

import ctypes

from kvmapi.uapi import x86
from vmm.backend.emulation.processor import Processor

X87, SSE, AVX = 1, 2, 4  # bits of XCR0 and XSTATE_BV

AREA_BYTES = ctypes.sizeof(x86.kvm_xsave)

_FSW, _FTW, _MXCSR_MASK, _ST, _XMM, _XSTATE_BV = 2, 4, 28, 32, 160, 512
_DEFAULT_MXCSR_MASK = 0xFFBF
_FSW_TOP, _FSW_ES = 7 << 11, 1 << 7
_REGISTER_BYTES = 16
_AVX_BIT, _ZMM_HI256_BIT = 2, 6
# Component and bytes per register: bits 255:128, bits 511:256
_UPPER_PARTS = ((_AVX_BIT, 16), (_ZMM_HI256_BIT, 32))


class VectorState:
    """A copy of the vCPU's XSAVE area (standard format); `store` writes it back. 16 vector registers at most."""

    def __init__(self, cpu: Processor) -> None:
        self._cpu = cpu
        self._area = bytearray(bytes(cpu.vcpu.get_xsave()))

    def store(self) -> None:
        """Write it back (`KVM_SET_XSAVE`)."""
        self._cpu.vcpu.set_xsave(x86.kvm_xsave.from_buffer_copy(self._area))

    def get(self, part: slice) -> bytes:
        """A part of the area."""
        return bytes(self._area[part])

    def put(self, part: slice, data: bytes) -> None:
        """Replace a part of the area; `in_use` must name what it belongs to."""
        self._area[part] = data

    @property
    def in_use(self) -> int:
        """XSTATE_BV: the components that are not in their initial state."""
        return self._number(_XSTATE_BV, 8)

    @in_use.setter
    def in_use(self, components: int) -> None:
        self._set_number(_XSTATE_BV, 8, components)

    @property
    def mxcsr_mask(self) -> int:
        """The bits of MXCSR that may be set (SDM volume 1, section 11.6.6)."""
        return self._number(_MXCSR_MASK, 4) or _DEFAULT_MXCSR_MASK

    @property
    def x87_exception_pending(self) -> bool:
        """FSW.ES: the next waiting x87 or MMX instruction gets #MF."""
        return bool(self._number(_FSW, 2) & _FSW_ES)

    def enter_mmx(self) -> None:
        """What any MMX instruction but EMMS does to the x87 state: top of stack 0, all registers valid."""
        self._set_number(_FSW, 2, self._number(_FSW, 2) & ~_FSW_TOP)
        self._set_number(_FTW, 1, 0xFF)
        self._use(X87)

    def mm(self, number: int) -> int:
        """MMX register, 64 bits. The top of the stack must be 0."""
        return self._number(_ST + _REGISTER_BYTES * number, 8)

    def set_mm(self, number: int, value: int) -> None:
        """Set an MMX register; bits 79:64 of its x87 register become ones."""
        self._set_number(_ST + _REGISTER_BYTES * number, 10, value | 0xFFFF << 64)

    def xmm(self, number: int) -> int:
        """XMM register, 128 bits."""
        return self._number(_XMM + _REGISTER_BYTES * number, _REGISTER_BYTES)

    def set_xmm(self, number: int, value: int) -> None:
        """Set an XMM register; the bits above it stay."""
        self._set_number(_XMM + _REGISTER_BYTES * number, _REGISTER_BYTES, value)
        self._use(SSE)

    def vector(self, number: int, size: int) -> int:
        """The low `size` (16 or 32) bytes of a vector register."""
        value = self.xmm(number)
        if size == 2 * _REGISTER_BYTES:
            value |= self._number(self._upper(_AVX_BIT) + _REGISTER_BYTES * number, _REGISTER_BYTES) << 128
        return value

    def set_upper(self, number: int, value: int, xcr0: int) -> None:
        """Set bits 255:128 of a vector register and clear those above, of what `xcr0` enables."""
        for component, size in _UPPER_PARTS:
            if xcr0 >> component & 1:
                self._set_number(self._upper(component) + size * number, size, value)
                self._use(1 << component)
                value = 0

    def _upper(self, component: int) -> int:
        """Where a state component of the upper parts begins (CPUID.0DH)."""
        return self._cpu.cpuid.value(0xD, "ebx", component)

    def _use(self, components: int) -> None:
        self._set_number(_XSTATE_BV, 8, self._number(_XSTATE_BV, 8) | components)

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._area[at : at + size], "little")

    def _set_number(self, at: int, size: int, value: int) -> None:
        self._area[at : at + size] = value.to_bytes(size, "little")
