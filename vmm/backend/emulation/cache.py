# SPDX-License-Identifier: Apache-2.0
"""CLWB, CLFLUSHOPT, CLFLUSH (SDM volume 2): caches are the host's, so only the access check is left."""

from __future__ import annotations

from vmm.backend.emulation.addressing import linear
from vmm.backend.emulation.decode import Instruction
from vmm.backend.emulation.page_walk import Access
from vmm.backend.emulation.processor import Processor


def cache_line(cpu: Processor, instruction: Instruction) -> None:
    """Checked as a read of one byte, from an execute-only segment too."""
    assert instruction.memory is not None  # the table has memory forms only
    at = linear(cpu, instruction.memory, 1, execute_only=True)
    cpu.memory.check(at, 1, Access(user=cpu.cpl == 3))
