# SPDX-License-Identifier: Apache-2.0
"""What instructions access that save and restore processor state whole (SDM volume 1, chapters 8.1.10, 10.5 and 13).

XSAVE and its like access the parts that EDX:EAX and XCR0 ask for, and leave out those that are in their initial state:
the area may reach into a page that they do not touch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from kvmapi import KvmError
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, ProtectedError
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor
from vmm.backend.protection.decoded import Decoded, Operand, explicit, linear, operand_size
from vmm.vsm.rights import READ, WRITE

_XSAVE_LEAF: Final = 0xD
_LEGACY, _HEADER, _EXTENDED = 416, 512, 576
"""Bytes of the x87 and SSE parts; where the header and the other components begin."""
_X87, _SSE, _AVX = 1, 2, 4
_MXCSR: Final = 24
_COMPACTED: Final = 1 << 63
_ALIGNED: Final = 2  # CPUID.(EAX=0DH, ECX=n):ECX
_MSR_XSS: Final = 0xDA0
_COMPONENTS: Final = range(2, 63)

X87: Final = {"fnsave": (108, 94), "frstor": (108, 94), "fnstenv": (28, 14), "fldenv": (28, 14)}
"""Bytes with 32-bit and with 16-bit operands."""
NAMES: Final = frozenset(
    name + suffix
    for name in ("xsave", "xsaveopt", "xsavec", "xsaves", "xrstor", "xrstors")
    for suffix in ("", "64")
)
_READS: Final = ("frstor", "fldenv")


def x87(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """FNSAVE, FRSTOR, FNSTENV, FLDENV."""
    wide, narrow = X87[decoded.mnemonic]
    size = narrow if operand_size(cpu, decoded) == 2 else wide
    for _, operand in explicit(cpu, decoded):
        yield Operand(linear(cpu, decoded, operand), size, READ if decoded.mnemonic in _READS else WRITE)


def extended(cpu: Processor, decoded: Decoded) -> Iterator[Operand]:
    """XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS."""
    name = decoded.mnemonic.removesuffix("64")
    at = linear(cpu, decoded, decoded.insn.operands[0])
    asked = (cpu.regs.rdx & 0xFFFF_FFFF) << 32 | cpu.regs.rax & 0xFFFF_FFFF
    enabled = cpu.xcr0()
    if name in ("xsaves", "xrstors"):
        with contextlib.suppress(KvmError):  # the processor model does not have it
            enabled |= cpu.vcpu.get_msrs([_MSR_XSS])[0][1]
    asked &= enabled
    yield from _restored(cpu, at, asked) if name.startswith("xrstor") else _saved(cpu, at, asked, name)


def _saved(cpu: Processor, at: int, asked: int, name: str) -> Iterator[Operand]:
    written = asked
    if name != "xsave":
        written &= cpu.xstate_in_use()
    if written & (_X87 | _SSE):
        yield Operand(at, _LEGACY, WRITE)
    elif asked & (_SSE | _AVX) and name in ("xsave", "xsaveopt"):
        yield Operand(at + _MXCSR, 8, WRITE)
    compacted = name in ("xsavec", "xsaves")
    yield Operand(at + _HEADER, 16 if compacted else 8, WRITE)
    for start, size in _components(cpu, written, asked if compacted else None):
        yield Operand(at + start, size, WRITE)


def _restored(cpu: Processor, at: int, asked: int) -> Iterator[Operand]:
    yield Operand(at + _HEADER, 24, READ)
    try:
        header = cpu.memory.read(at + _HEADER, 16, Access(user=cpu.cpl == 3))
    except (DeclinedError, GuestFaultError, ProtectedError):
        return  # that access is the one that counts
    there, layout = int.from_bytes(header[:8], "little"), int.from_bytes(header[8:], "little")
    if asked & there & (_X87 | _SSE):
        yield Operand(at, _LEGACY, READ)
    elif asked & (_SSE | _AVX) and not layout & _COMPACTED:
        yield Operand(at + _MXCSR, 8, READ)
    for start, size in _components(cpu, asked & there, layout if layout & _COMPACTED else None):
        yield Operand(at + start, size, READ)


def _components(cpu: Processor, wanted: int, compacted: int | None) -> Iterator[tuple[int, int]]:
    """`(offset, bytes)` of the wanted components. compacted: those that have room, one behind the other."""
    following = _EXTENDED
    for number in _COMPONENTS:
        if compacted is None:
            start = cpu.cpuid.value(_XSAVE_LEAF, "ebx", number)
        elif compacted >> number & 1:
            aligned = cpu.cpuid.value(_XSAVE_LEAF, "ecx", number) & _ALIGNED
            start = (following + 63) & -64 if aligned else following
            following = start + cpu.cpuid.value(_XSAVE_LEAF, "eax", number)
        else:
            continue
        if wanted >> number & 1:
            yield start, cpu.cpuid.value(_XSAVE_LEAF, "eax", number)
