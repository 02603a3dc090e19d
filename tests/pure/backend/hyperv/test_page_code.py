# SPDX-License-Identifier: Apache-2.0
"""The hypercall page's bytes mean the same in 32-bit and 64-bit code, and touch no register."""

from __future__ import annotations

import pytest
from capstone import CS_ARCH_X86, CS_MODE_32, CS_MODE_64, Cs

from vmm.backend.hyperv import page_code

BASE = 0x7000


def instructions(offset: int, mode: int, count: int) -> list[str]:
    code = page_code.CODE[offset:]
    return [
        f"{i.mnemonic} {i.op_str}".strip() for i in Cs(CS_ARCH_X86, mode).disasm(code, BASE + offset, count)
    ]


@pytest.mark.parametrize("mode", [CS_MODE_32, CS_MODE_64])
def test_entries(mode: int) -> None:
    assert instructions(page_code.CALL, mode, 2) == [f"out {page_code.PORT:#x}, al", "ret"]
    assert instructions(page_code.AGAIN, mode, 1) == [f"jmp {BASE:#x}"]
    assert instructions(page_code.REFUSE, mode, 1) == ["ud2"]


@pytest.mark.parametrize("rip", [BASE, BASE + 2, 0xFFFF_8000_1234_5000, 0xFFFF_8000_1234_5002])
def test_a_trap_is_known_by_its_place_in_the_page(rip: int) -> None:
    assert rip & page_code.IN_PAGE in page_code.AT_TRAP
    assert page_code.continue_at(rip, page_code.AGAIN) == (rip & -0x1000) + 8


@pytest.mark.parametrize("rip", [BASE + 1, BASE + 3, BASE + page_code.AGAIN])
def test_other_places_are_none(rip: int) -> None:
    assert rip & page_code.IN_PAGE not in page_code.AT_TRAP
