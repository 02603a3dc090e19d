# SPDX-License-Identifier: Apache-2.0
"""`Emulator`: carries out the instruction at which KVM's emulator gave up."""

from __future__ import annotations

from collections import Counter
from functools import cached_property

from kvmapi import Vcpu
from kvmapi.uapi.x86 import KVM_RUN_X86_GUEST_MODE
from vmm.backend.emulation import table
from vmm.backend.emulation.decode import Instruction, decode
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, undefined_opcode
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Cpuid, Processor
from vmm.outside import GuestMemory

_INTERRUPTS = ("INT3", "INT n", "INTO", "INT1")


class Emulator:
    """One vCPU's. Used by the VP's own thread, between two `KVM_RUN`s.

    `carried_out` counts by the name of the instruction; it has at most one key per row of `table`.
    """

    def __init__(self, vcpu: Vcpu, memory: GuestMemory) -> None:
        """memory: guest RAM as this vCPU's VM sees it. The vCPU's CPUID is read at the first use and kept."""
        self.carried_out: Counter[str] = Counter()
        self._vcpu = vcpu
        self._memory = memory

    @cached_property
    def _cpuid(self) -> Cpuid:
        return Cpuid(self._vcpu.get_cpuid2())

    def carry_out(self, instruction_bytes: bytes, run_flags: int = 0) -> str | None:
        """Carry out the instruction at RIP. None: done, run on. Else why not, and the vCPU is as it was.

        instruction_bytes: what the exit told, maybe none: the rest comes from guest memory.
        run_flags: `kvm_run.flags`.

        Not done in ring 3, or by a nested guest, ends in #UD there: one process must not end the machine, and
        it is what KVM does itself without KVM_CAP_EXIT_ON_EMULATION_FAILURE.
        """
        cpu = Processor(self._vcpu, self._memory, self._cpuid)
        nested = bool(run_flags & KVM_RUN_X86_GUEST_MODE)
        try:
            if nested:
                raise DeclinedError("a nested guest's instruction is not carried out here")
            name, trap = self._execute(cpu, instruction_bytes)
        except GuestFaultError as fault:
            cpu.raise_fault(fault)
            return None
        except DeclinedError as why:
            if instruction_bytes and (nested or cpu.cpl == 3):
                cpu.raise_fault(undefined_opcode())
                return None
            return str(why)
        cpu.retire(trap=trap)
        self.carried_out[name] += 1
        return None

    def _execute(self, cpu: Processor, known: bytes) -> tuple[str, bool]:
        """The instruction's name, and whether a single-step trap may follow it."""
        instruction = decode(
            lambda index: _fetch(cpu, known, index), cpu.bits, table.WITH_MODRM, table.IMMEDIATE_BYTES
        )
        row = table.find(instruction)
        if row is None:
            raise DeclinedError(f"the VMM does not know opcode {instruction.opcode:#x} either")
        if instruction.lock or (row.feature is not None and not cpu.cpuid.has(row.feature)):
            raise undefined_opcode()
        if row.handler is None:
            raise DeclinedError(f"{row.name} is not carried out here")
        _advance(cpu, instruction)
        row.handler(cpu, instruction)
        return row.name, row.name not in _INTERRUPTS


def _advance(cpu: Processor, instruction: Instruction) -> None:
    mask = {16: 0xFFFF, 32: 0xFFFF_FFFF, 64: 0xFFFF_FFFF_FFFF_FFFF}[cpu.bits]
    cpu.regs.rip = cpu.regs.rip + instruction.length & mask


def _fetch(cpu: Processor, known: bytes, index: int) -> int:
    """Byte `index` of the instruction at RIP."""
    if index < len(known):
        return known[index]
    at = cpu.regs.rip + index
    if cpu.bits != 64:
        at = at + cpu.sregs.cs.base & 0xFFFF_FFFF
    return cpu.memory.read(at & 0xFFFF_FFFF_FFFF_FFFF, 1, Access(fetch=True, user=cpu.cpl == 3))[0]
