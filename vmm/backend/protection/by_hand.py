# SPDX-License-Identifier: Apache-2.0
"""Instructions that must not be carried out by a step with pages in the mapping: its end is not seen in time.

| instruction | why |
|---|---|
| INT n, INT3, INTO, INT1 | delivery clears RFLAGS.TF: the handler would run with the pages |
| MOV to SS, POP SS | a processor holds the trap back for one more instruction, which may come from such a page |
| IRET, where KVM emulates ring 0 | its way for single steps knows less, and no breakpoint stops ring 3 |
| SIDT, LIDT | (another reason) during a step the IDT is one of the VMM's, from which no handler can be reached |

They are carried out here, with the VTL's rights to each byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kvmapi.uapi import x86
from vmm.backend.emulation import interrupt, stack_segment
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.addressing import in_segment
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, ProtectedError
from vmm.backend.emulation.interrupt_return import interrupt_return
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor
from vmm.backend.protection.decoded import MEMORY, REGISTER, Decoded, operand_size, place, register
from vmm.backend.protection.operands import stack_width

_VECTORS: Final = {"int1": x86.DB_VECTOR, "int3": x86.BP_VECTOR, "into": x86.OF_VECTOR}


@dataclass(frozen=True, slots=True)
class _Way:
    """do: changes the processor's registers, RIP included. The others: see `Processor.retire`."""

    do: Callable[[Processor, Decoded], None]
    trap: bool = True
    resume: bool = False
    holds_interrupts: bool = False
    unblocks_nmis: bool = False


def carry_out(cpu: Processor, decoded: Decoded, *, hardware: bool) -> bool:
    """Carry out an instruction of the table. False: it is none, or a case that is left to KVM. Errors: `KvmError`.

    Where a higher VTL has taken a page meanwhile it is made again, as it is when it raises an exception.
    """
    way = _way(decoded, hardware=hardware)
    if way is None:
        return False
    try:
        way.do(cpu, decoded)
    except DeclinedError:
        return False
    except GuestFaultError as fault:
        cpu.raise_fault(fault)
        return True
    except ProtectedError:
        cpu.leave()
        return True
    # In ring 3 an interrupt has a stack of its own, whatever SS and RSP are.
    cpu.retire(trap=way.trap, resume=way.resume, holds_interrupts=way.holds_interrupts and cpu.cpl == 0)
    if way.unblocks_nmis:
        _unblock_nmis(cpu)
    return True


def _way(decoded: Decoded, *, hardware: bool) -> _Way | None:
    name, found = decoded.mnemonic, decoded.insn.operands
    if name == "int" or name in _VECTORS:
        return _Way(_software_interrupt, trap=False)
    if name in ("mov", "pop") and found[0].type == REGISTER and decoded.insn.reg_name(found[0].reg) == "ss":
        return _Way(_load_ss, holds_interrupts=True)
    if name in ("sidt", "lidt"):
        return _Way(_store_idtr if name == "sidt" else _load_idtr)
    if name.startswith("iret") and not hardware:
        return _Way(_interrupt_return, resume=True, unblocks_nmis=True)
    return None


def _software_interrupt(cpu: Processor, decoded: Decoded) -> None:
    name = decoded.mnemonic
    if name == "into" and not cpu.regs.rflags & r.RFLAGS_OF:
        raise DeclinedError("it does nothing")
    cpu.advance(decoded.length)
    vector = int(decoded.insn.operands[0].imm) & 0xFF if name == "int" else _VECTORS[name]
    interrupt.deliver(cpu, vector, software=name != "int1")
    events = cpu.vcpu.get_vcpu_events()
    if events.interrupt.injected and events.interrupt.soft:  # KVM would deliver it as well
        events.interrupt.injected = 0
        events.flags = x86.KVM_VCPUEVENT_VALID_SHADOW
        cpu.vcpu.set_vcpu_events(events)


def _load_ss(cpu: Processor, decoded: Decoded) -> None:
    user = Access(user=cpu.cpl == 3)
    if decoded.mnemonic == "pop":
        mask, width = cpu.stack_mask, stack_width(cpu, decoded)
        at = in_segment(cpu, "ss", cpu.regs.rsp & mask, 2)
        selector = int.from_bytes(cpu.memory.read(at, 2, user), "little")
        cpu.regs.rsp = cpu.regs.rsp & ~mask | cpu.regs.rsp + width & mask
    else:
        source = decoded.insn.operands[1]
        if source.type == MEMORY:
            at = in_segment(cpu, *place(cpu, decoded, source), 2)
            selector = int.from_bytes(cpu.memory.read(at, 2, user), "little")
        else:
            selector = register(cpu, decoded.insn, source.reg) & 0xFFFF
    stack_segment.load(cpu, selector)
    cpu.advance(decoded.length)


def _store_idtr(cpu: Processor, decoded: Decoded) -> None:
    if cpu.cpl and cpu.sregs.cr4 & r.CR4_UMIP:
        raise DeclinedError("ring 3 may not have it")
    idt = cpu.sregs.idt
    base = int(idt.base).to_bytes(8, "little")[: _base_size(cpu)]
    data = int(idt.limit).to_bytes(2, "little") + base
    at = _table_operand(cpu, decoded, write=True)
    cpu.memory.write(at, data, Access(write=True, user=cpu.cpl == 3))
    cpu.advance(decoded.length)


def _load_idtr(cpu: Processor, decoded: Decoded) -> None:
    if cpu.cpl:
        raise DeclinedError("ring 0 may do that")
    data = cpu.memory.read(_table_operand(cpu, decoded), 2 + _base_size(cpu), Access())
    limit, base = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:], "little")
    if cpu.bits == 64:
        if not cpu.canonical(base):
            raise DeclinedError("a base that is not canonical is left to the processor")
    elif operand_size(cpu, decoded) == 2:
        base &= 0xFF_FFFF
    cpu.sregs.idt.limit, cpu.sregs.idt.base = limit, base
    cpu.advance(decoded.length)


def _base_size(cpu: Processor) -> int:
    return 8 if cpu.bits == 64 else 4


def _table_operand(cpu: Processor, decoded: Decoded, *, write: bool = False) -> int:
    where = place(cpu, decoded, decoded.insn.operands[0])
    return in_segment(cpu, *where, 2 + _base_size(cpu), write=write)


def _interrupt_return(cpu: Processor, decoded: Decoded) -> None:
    interrupt_return(cpu, operand_size(cpu, decoded))


def _unblock_nmis(cpu: Processor) -> None:
    events = cpu.vcpu.get_vcpu_events()
    if events.nmi.masked:
        events.nmi.masked = 0
        events.flags = x86.KVM_VCPUEVENT_VALID_SHADOW
        cpu.vcpu.set_vcpu_events(events)
