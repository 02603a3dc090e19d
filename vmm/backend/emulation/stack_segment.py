# SPDX-License-Identifier: Apache-2.0
"""Loading SS by MOV and POP (SDM volume 2, `MOV`; volume 3, section 5.7)."""

from __future__ import annotations

from kvmapi.uapi import x86
from vmm.backend.emulation import descriptors as d
from vmm.backend.emulation.faults import GuestFaultError, general_protection
from vmm.backend.emulation.processor import Processor
from vmm.backend.emulation.stack_frame import null_segment

_RPL = 3


def load(cpu: Processor, selector: int) -> None:
    """Errors: `GuestFaultError`, with the exception that the processor raises."""
    if not cpu.protected or cpu.virtual_8086:
        cpu.sregs.ss.selector, cpu.sregs.ss.base = selector, selector << 4
        return
    if not selector & 0xFFFC:
        if cpu.bits != 64 or cpu.cpl == _RPL or selector & _RPL != cpu.cpl:
            raise general_protection()
        cpu.sregs.ss = null_segment(cpu.cpl)
        return
    invalid = general_protection(selector & 0xFFFC)
    found = d.read_descriptor(cpu, selector, invalid)
    if selector & _RPL != cpu.cpl or found.dpl != cpu.cpl or not found.writable_data:
        raise invalid
    if not found.present:
        raise GuestFaultError(x86.SS_VECTOR, selector & 0xFFFC)
    d.mark_accessed(cpu, found)
    cpu.sregs.ss = found.segment(selector)
