# SPDX-License-Identifier: Apache-2.0
"""From the bytes at RIP to the end of the instruction: decode, look up, handle, store or fault."""

from __future__ import annotations

from dataclasses import dataclass

from kvmapi.uapi.x86 import KVM_RUN_X86_GUEST_MODE
from vmm.backend.emulation import table
from vmm.backend.emulation.decode import decode
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, ProtectedError, undefined_opcode
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor

_INTERRUPTS = ("INT3", "INT n", "INTO", "INT1")


@dataclass(frozen=True, slots=True)
class Ended:
    """name: of the instruction that took effect, "" for an exception. refusal: why nothing was done, else "".
    protected: nothing was done, since a higher VTL does not allow this access."""

    name: str = ""
    refusal: str = ""
    protected: ProtectedError | None = None


def carry_out(cpu: Processor, known: bytes, run_flags: int) -> Ended:
    """Carry out the instruction at RIP, whose first bytes are `known`; see `Emulator.carry_out`."""
    nested = bool(run_flags & KVM_RUN_X86_GUEST_MODE)
    try:
        if nested:
            raise DeclinedError("a nested guest's instruction is not carried out here")
        name = _execute(cpu, known)
    except GuestFaultError as fault:
        cpu.raise_fault(fault)
        return Ended()
    except ProtectedError as protected:
        cpu.leave()
        return Ended(protected=protected)
    except DeclinedError as why:
        if known and (nested or cpu.cpl == 3):
            cpu.raise_fault(undefined_opcode())
            return Ended()
        return Ended(refusal=str(why))
    cpu.retire(trap=name not in _INTERRUPTS)
    return Ended(name)


def _execute(cpu: Processor, known: bytes) -> str:
    """Let the instruction take effect on `cpu`; its name."""
    instruction = decode(
        lambda index: _fetch(cpu, known, index), cpu.bits, table.WITH_MODRM, table.IMMEDIATE_BYTES
    )
    row = table.find(instruction)
    if row is None:
        raise DeclinedError(f"the VMM does not know opcode {instruction.opcode:#x} either")
    if instruction.vex is not None and instruction.vex.bad_prefix:
        raise undefined_opcode()
    if (instruction.lock and not row.lockable) or (
        row.feature is not None and not cpu.cpuid.has(row.feature)
    ):
        raise undefined_opcode()
    if row.handler is None:
        raise DeclinedError(f"{row.name} is not carried out here")
    cpu.advance(instruction.length)
    row.handler(cpu, instruction)
    return row.name


def _fetch(cpu: Processor, known: bytes, index: int) -> int:
    """Byte `index` of the instruction at RIP."""
    if index < len(known):
        return known[index]
    at = cpu.regs.rip + index
    if cpu.bits != 64:
        at = at + cpu.sregs.cs.base & 0xFFFF_FFFF
    return cpu.memory.read(at & 0xFFFF_FFFF_FFFF_FFFF, 1, Access(fetch=True, user=cpu.cpl == 3))[0]
