# SPDX-License-Identifier: Apache-2.0
"""INT3, INT n, INTO, INT1 (SDM volume 2)."""

from __future__ import annotations

from kvmapi.uapi.x86 import BP_VECTOR, DB_VECTOR, OF_VECTOR
from vmm.backend.emulation import registers as r
from vmm.backend.emulation.decode import Instruction
from vmm.backend.emulation.faults import undefined_opcode
from vmm.backend.emulation.interrupt import deliver
from vmm.backend.emulation.processor import Processor


def int3(cpu: Processor, instruction: Instruction) -> None:
    """INT3: vector 3."""
    deliver(cpu, BP_VECTOR)


def int_n(cpu: Processor, instruction: Instruction) -> None:
    """INT n: the vector in the instruction."""
    deliver(cpu, instruction.immediate & 0xFF)


def into(cpu: Processor, instruction: Instruction) -> None:
    """INTO: vector 4 if RFLAGS.OF is set; does not exist in 64-bit mode."""
    if cpu.bits == 64:
        raise undefined_opcode()
    if cpu.regs.rflags & r.RFLAGS_OF:
        deliver(cpu, OF_VECTOR)


def int1(cpu: Processor, instruction: Instruction) -> None:
    """INT1 (ICEBP): vector 1, whatever the gate's DPL is."""
    deliver(cpu, DB_VECTOR, software=False)
