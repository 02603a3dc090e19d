# SPDX-License-Identifier: Apache-2.0
"""The guest's instruction at which a VP stopped: its bytes, its length, the branch that led to it.

What a host tells of it differs: nothing, the bytes that the processor had fetched (SVM), or the length (VT-x). What
is missing is read from guest memory and decoded; a message says 0 rather than something that may be wrong.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from vmm.backend.emulation import registers as r
from vmm.backend.emulation.page_walk import Access, Paging, Refusal, TableMemory, Translation, walk
from vmm.hypercall.outside import AccessInterceptedError
from vmm.outside import GuestMemoryError

LONGEST: Final = 15
_PAGE: Final = 4096
_LONGEST_CALL: Final = 8
"""REX, opcode, ModRM, SIB and 32 bits of displacement: longer ones have prefixes that do nothing."""
_SLOT: Final = 8


def bits(regs: Any, sregs: Any) -> int:
    """What code segment the instruction is in: 16, 32 or 64."""
    if sregs.efer & r.EFER_LMA and sregs.cs.l:
        return 64
    return 32 if sregs.cs.db and not regs.rflags & r.RFLAGS_VM else 16


def paging(regs: Any, sregs: Any) -> Paging:
    """What page walks look at; protection keys, which no fetch looks at, are off."""
    return Paging(
        cr0=sregs.cr0, cr3=sregs.cr3, cr4=sregs.cr4, efer=sregs.efer, ac=bool(regs.rflags & r.RFLAGS_AC)
    )


def translate(memory: TableMemory, regs: Any, sregs: Any, gva: int, access: Access) -> Translation | None:
    """Where `gva` lies, by the tables of a VP. None: nowhere, or the tables cannot be read."""
    tables = paging(regs, sregs)
    if tables.long_mode and not tables.canonical(gva):
        return None
    try:
        found = walk(memory, tables, gva, access, set_bits=False)
    except AccessInterceptedError:
        return None
    return None if isinstance(found, Refusal) else found


def read(memory: TableMemory, regs: Any, sregs: Any, gva: int, size: int, access: Access) -> bytes:
    """Up to `size` bytes at `gva`: fewer where a page is not there, or not for the VTL of `memory`."""
    found = b""
    wrap = (1 << 64) - 1 if sregs.efer & r.EFER_LMA else 0xFFFF_FFFF
    while size:
        here = min(size, _PAGE - gva % _PAGE)
        at = translate(memory, regs, sregs, gva, access)
        if at is None:
            break
        try:
            found += memory.read(at.gpa, here)
        except (GuestMemoryError, AccessInterceptedError):
            break
        gva = gva + here & wrap
        size -= here
    return found


def fetch(memory: TableMemory, regs: Any, sregs: Any) -> bytes:
    """The bytes at CS:RIP, as many as an instruction can have, with the rights of the VTL of `memory`."""
    at = regs.rip + (0 if bits(regs, sregs) == 64 else sregs.cs.base)
    user = sregs.ss.dpl == 3
    return read(memory, regs, sregs, at, LONGEST, Access(fetch=True, user=user))


def behind_rip(memory: TableMemory, regs: Any, sregs: Any) -> bytes:
    """The bytes before CS:RIP, up to as many as an instruction can have; of RIP's own page where the one before is not
    there."""
    end = regs.rip + (0 if bits(regs, sregs) == 64 else sregs.cs.base)
    access = Access(fetch=True, user=sregs.ss.dpl == 3)
    found = read(memory, regs, sregs, end - LONGEST, LONGEST, access)
    if len(found) == LONGEST:
        return found
    here = min((end - 1) % _PAGE + 1, LONGEST)
    return read(memory, regs, sregs, end - here, here, access)


def length(code: bytes, mode: int) -> int:
    """Of the first instruction in `code`; 0 when it is cut off, or none."""
    instruction = next(_decoder(mode).disasm(code[:LONGEST], 0, 1), None)
    return 0 if instruction is None else int(instruction.size)


def call_length(memory: TableMemory, regs: Any, sregs: Any) -> int:
    """Of the CALL that has just led to RIP and left its return address on the stack; 0 if it cannot be found.

    64-bit code only. Of the lengths that decode, the one whose register or displacement leads to RIP is taken, else
    the shortest: the byte before a CALL may look like a prefix of it.
    """
    if bits(regs, sregs) != 64:
        return 0
    user = sregs.ss.dpl == 3
    slot = read(memory, regs, sregs, regs.rsp, _SLOT, Access(user=user))
    if len(slot) < _SLOT:
        return 0
    behind = int.from_bytes(slot, "little")
    before = read(memory, regs, sregs, behind - _LONGEST_CALL, _LONGEST_CALL, Access(user=user))
    if len(before) < _LONGEST_CALL:
        return 0
    possible = 0
    for size in range(2, _LONGEST_CALL + 1):
        instruction = next(_decoder(64).disasm(before[-size:], behind - size, 1), None)
        if instruction is None or instruction.size != size or instruction.mnemonic != "call":
            continue
        target = instruction.op_str
        known = int(target, 16) if target.startswith("0x") else getattr(regs, target, None)
        if known == regs.rip:
            return size
        if known is None and not possible:
            possible = size
    return possible


@cache
def _decoder(mode: int) -> Any:
    return make_decoder(mode)


def make_decoder(mode: int) -> Any:
    """capstone for a code segment of `mode` bits."""
    import capstone  # guests without intercepts never need it

    return capstone.Cs(
        capstone.CS_ARCH_X86,
        {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[mode],
    )
