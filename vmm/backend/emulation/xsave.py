# SPDX-License-Identifier: Apache-2.0
"""XSAVE, XSAVEOPT, XSAVEC and XRSTOR in 64-bit mode (SDM volume 1, chapter 13, and volume 2).

The processor's state is a `VectorState`, in the standard format, as the area in guest memory is or becomes, except in
the compacted format. What an instruction leaves alone in the area is read and written back: it has one owner.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kvmapi.uapi.x86 import NM_VECTOR
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.addressing import linear
from vmm.backend.emulation.decode import Instruction, MemoryOperand
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, general_protection, undefined_opcode
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Feature, Processor
from vmm.backend.emulation.vector_state import AREA_BYTES, AVX, SSE, X87, VectorState

XSAVEC: Final = Feature(0xD, "eax", 1, index=1)
_COMPACTED = 1 << 63  # of XCOMP_BV
_LAST_COMPONENT = 62
_ALIGNMENT = 64  # of the area, and in the compacted format of components with _ALIGNED
_ALIGNED = 1 << 1  # of ECX of CPUID.0DH, sub-leaf i

# The legacy region (SDM volume 1, table 10-2) and the header behind it.
_X87_PARTS = (slice(0, 24), slice(32, 160))
_X87_SELECTORS = (slice(12, 16), slice(20, 24))
_MXCSR, _MXCSR_AND_MASK = slice(24, 28), slice(24, 32)
_XMM = slice(160, 416)
_XSTATE_BV, _XCOMP_BV = slice(512, 520), slice(520, 528)
_RESERVED, _RESERVED_COMPACTED = slice(520, 536), slice(528, 576)
_HEADER_END = 576

_INITIAL_FCW = (0x037F).to_bytes(2, "little")
_INITIAL_MXCSR = (0x1F80).to_bytes(4, "little")


class _Part(NamedTuple):
    """A state component above SSE: where it is in the standard format, and in the area at hand."""

    standard: slice
    here: slice


def xsave(cpu: Processor, instruction: Instruction) -> None:
    """XSAVE: all components that are asked for, those in their initial state too."""
    _save(cpu, instruction, everything=True)


def xsaveopt(cpu: Processor, instruction: Instruction) -> None:
    """XSAVEOPT: without those in their initial state."""
    _save(cpu, instruction, everything=False)


def _save(cpu: Processor, instruction: Instruction, *, everything: bool) -> None:
    operand, rfbm = _begin(cpu, instruction)
    state = VectorState(cpu)
    saved = rfbm if everything else rfbm & state.in_use
    parts = _standard_parts(cpu, saved)
    at, area = _area_to_write(cpu, operand, parts)
    if saved & X87:
        _copy(area, state, *_X87_PARTS)
        _shorten_pointers(area, instruction)
    if rfbm & (SSE | AVX):
        _copy(area, state, _MXCSR_AND_MASK)
    if saved & SSE:
        _copy(area, state, _XMM)
    for part in parts:
        area[part.here] = state.get(part.standard)
    in_use = _number(area, _XSTATE_BV) & ~rfbm | state.in_use & rfbm
    area[_XSTATE_BV] = in_use.to_bytes(8, "little")
    cpu.memory.write(at, bytes(area), _access(cpu, write=True))


def xsavec(cpu: Processor, instruction: Instruction) -> None:
    """XSAVEC: as XSAVEOPT, in the compacted format."""
    operand, rfbm = _begin(cpu, instruction)
    state = VectorState(cpu)
    saved = rfbm & state.in_use
    if rfbm & SSE and state.get(_MXCSR) != _INITIAL_MXCSR:
        saved |= SSE
    parts = _compacted_parts(cpu, rfbm, saved)
    at, area = _area_to_write(cpu, operand, parts)
    if saved & X87:
        _copy(area, state, *_X87_PARTS)
        _shorten_pointers(area, instruction)
    if saved & SSE:
        _copy(area, state, _MXCSR_AND_MASK, _XMM)
    for part in parts:
        area[part.here] = state.get(part.standard)
    area[_XSTATE_BV] = saved.to_bytes(8, "little")
    area[_XCOMP_BV] = (rfbm | _COMPACTED).to_bytes(8, "little")
    cpu.memory.write(at, bytes(area), _access(cpu, write=True))


def xrstor(cpu: Processor, instruction: Instruction) -> None:
    """XRSTOR, from either format: what the area does not have becomes initial."""
    operand, rfbm = _begin(cpu, instruction)
    at = _address(cpu, operand, _HEADER_END)
    header = cpu.memory.read(at, _HEADER_END, _access(cpu))
    restored = rfbm & _number(header, _XSTATE_BV)
    compacted = _check_header(cpu, header)
    if compacted:
        parts = _compacted_parts(cpu, _number(header, _XCOMP_BV) & ~_COMPACTED, restored)
    else:
        parts = _standard_parts(cpu, restored)
    area = bytearray(cpu.memory.read(_address(cpu, operand, _end(parts)), _end(parts), _access(cpu)))
    _shorten_pointers(area, instruction)

    state = VectorState(cpu)
    in_use = state.in_use & ~rfbm | restored
    if rfbm & X87:
        for piece in _X87_PARTS:
            state.put(piece, bytes(area[piece]) if restored & X87 else bytes(piece.stop - piece.start))
        if not restored & X87:
            state.put(slice(0, 2), _INITIAL_FCW)
    if rfbm & SSE if compacted else rfbm & (SSE | AVX):
        mxcsr = bytes(area[_MXCSR]) if restored & SSE or not compacted else _INITIAL_MXCSR
        if int.from_bytes(mxcsr, "little") & ~state.mxcsr_mask:
            raise general_protection()
        state.put(_MXCSR, mxcsr)
        if mxcsr != _INITIAL_MXCSR:
            in_use |= SSE  # KVM takes MXCSR only with a component that it belongs to
    if rfbm & SSE:
        state.put(_XMM, bytes(area[_XMM]) if restored & SSE else bytes(_XMM.stop - _XMM.start))
    for standard in (part.standard for part in _standard_parts(cpu, rfbm & ~restored)):
        state.put(standard, bytes(standard.stop - standard.start))
    for part in parts:
        state.put(part.standard, bytes(area[part.here]))
    state.in_use = in_use
    state.store()


def _begin(cpu: Processor, instruction: Instruction) -> tuple[MemoryOperand, int]:
    """What all of them check; the operand, and which components are asked for. Errors: #UD, #NM."""
    if not cpu.sregs.cr4 & r.CR4_OSXSAVE:
        raise undefined_opcode()
    if cpu.sregs.cr0 & r.CR0_TS:
        raise GuestFaultError(NM_VECTOR)
    if cpu.bits != 64:
        raise DeclinedError("XSAVE and its like are not carried out here outside 64-bit mode")
    assert instruction.memory is not None  # the table has memory forms only
    return instruction.memory, cpu.xcr0() & cpu.pair()


def _shorten_pointers(area: bytearray, instruction: Instruction) -> None:
    """Without REX.W the x87 pointers have 32 bits. The selectors behind them, which KVM does not tell, are 0."""
    if not instruction.rex & r.REX_W:
        for selector in _X87_SELECTORS:
            area[selector] = bytes(4)


def _check_header(cpu: Processor, area: bytes) -> bool:
    """Whether the area has the compacted format. Errors: #GP(0) where XRSTOR takes it in neither."""
    present, format_ = _number(area, _XSTATE_BV), _number(area, _XCOMP_BV)
    if not format_ & _COMPACTED:
        wrong = present & ~cpu.xcr0() or any(area[_RESERVED])
    else:
        unknown = format_ & ~_COMPACTED & ~cpu.xcr0() or present & ~format_
        wrong = not cpu.cpuid.has(XSAVEC) or unknown or any(area[_RESERVED_COMPACTED])
    if wrong:
        raise general_protection()
    return bool(format_ & _COMPACTED)


def _standard_parts(cpu: Processor, wanted: int) -> list[_Part]:
    """The components of `wanted` above SSE."""
    places = [_standard(cpu, number) for number in _components(wanted)]
    return [_Part(place, place) for place in places]


def _compacted_parts(cpu: Processor, all_: int, wanted: int) -> list[_Part]:
    """The components of `wanted` above SSE, in an area that has room for those of `all_`."""
    parts, end = [], _HEADER_END
    for number in _components(all_):
        standard = _standard(cpu, number)
        if cpu.cpuid.value(0xD, "ecx", number) & _ALIGNED:
            end = -(-end // _ALIGNMENT) * _ALIGNMENT
        here = slice(end, end + standard.stop - standard.start)
        end = here.stop
        if wanted >> number & 1:
            parts.append(_Part(standard, here))
    return parts


def _components(mask: int) -> list[int]:
    return [number for number in range(2, _LAST_COMPONENT + 1) if mask >> number & 1]


def _standard(cpu: Processor, number: int) -> slice:
    start = cpu.cpuid.value(0xD, "ebx", number)
    end = start + cpu.cpuid.value(0xD, "eax", number)
    if end > AREA_BYTES:
        raise DeclinedError(f"state component {number} is beyond what KVM_GET_XSAVE tells")
    return slice(start, end)


def _end(parts: list[_Part]) -> int:
    return max([_HEADER_END, *(int(part.here.stop) for part in parts)])


def _address(cpu: Processor, operand: MemoryOperand, size: int, *, write: bool = False) -> int:
    at = linear(cpu, operand, size, write=write)
    if at % _ALIGNMENT:
        raise general_protection()
    return at


def _area_to_write(cpu: Processor, operand: MemoryOperand, parts: list[_Part]) -> tuple[int, bytearray]:
    size = _end(parts)
    at = _address(cpu, operand, size, write=True)
    return at, bytearray(cpu.memory.read(at, size, _access(cpu, write=True)))


def _access(cpu: Processor, *, write: bool = False) -> Access:
    return Access(write=write, user=cpu.cpl == 3)


def _copy(area: bytearray, state: VectorState, *parts: slice) -> None:
    for part in parts:
        area[part] = state.get(part)


def _number(area: bytes | bytearray, part: slice) -> int:
    return int.from_bytes(area[part], "little")
