# SPDX-License-Identifier: Apache-2.0
"""The hypercall page's bytes, disassembled."""

from __future__ import annotations

import pytest
from capstone import CS_ARCH_X86, CS_MODE_32, CS_MODE_64, Cs

from vmm.backend.hyperv import page_code

BASE = 0x7000


def instructions(page: bytes, offset: int, mode: int, count: int) -> list[str]:
    code = page[offset:]
    return [
        f"{i.mnemonic} {i.op_str}".strip() for i in Cs(CS_ARCH_X86, mode).disasm(code, BASE + offset, count)
    ]


TRAPS = [
    (page_code.OUT, f"out {page_code.PORT:#x}, al"),
    (b"\x0f\x01\xc1", "vmcall"),
    (b"\x0f\x01\xd9", "vmmcall"),
]


@pytest.mark.tlfs("HCP-009", "HCP-013")
@pytest.mark.parametrize(("trap", "text"), TRAPS)
@pytest.mark.parametrize("mode", [CS_MODE_32, CS_MODE_64])
def test_entries(mode: int, trap: bytes, text: str) -> None:
    page = page_code.code(trap)

    assert instructions(page, page_code.CALL, mode, 2) == [text, "ret"]
    assert instructions(page, page_code.AGAIN, mode, 1) == [f"jmp {BASE:#x}"]
    assert instructions(page, page_code.REFUSE, mode, 1) == ["ud2"]


@pytest.mark.tlfs("HCP-009", "VSM-004")
@pytest.mark.parametrize(("trap", "text"), TRAPS)
@pytest.mark.parametrize(("offset", "code"), [(0, 0x11), (12, 0x12)], ids=["call", "return"])
def test_vtl_entries_load_code_and_control(offset: int, code: int, trap: bytes, text: str) -> None:
    page = page_code.code(trap)
    entry_64 = page_code.vsm_code_page_offsets(bits_64=True) >> offset & 0xFFF
    entry_32 = page_code.vsm_code_page_offsets(bits_64=False) >> offset & 0xFFF

    assert instructions(page, entry_64, CS_MODE_64, 4) == ["mov rax, rcx", f"mov ecx, {code:#x}", text, "ret"]
    assert instructions(page, entry_32, CS_MODE_32, 4) == ["mov ecx, eax", f"mov eax, {code:#x}", text, "ret"]


def test_every_trap_of_the_page_is_known() -> None:
    traps = {at for at in range(len(page_code.CODE)) if page_code.CODE[at : at + 2] == page_code.OUT}

    assert traps | {at + 2 for at in traps} == page_code.AT_TRAP


@pytest.mark.parametrize("rip", [BASE, BASE + 2, 0xFFFF_8000_1234_5000, 0xFFFF_8000_1234_5002])
def test_a_trap_is_known_by_its_place_in_the_page(rip: int) -> None:
    assert rip & page_code.IN_PAGE in page_code.AT_TRAP
    assert page_code.continue_at(rip, page_code.AGAIN) == (rip & -0x1000) + 8


@pytest.mark.parametrize("rip", [BASE + 1, BASE + 3, BASE + page_code.AGAIN])
def test_other_places_are_none(rip: int) -> None:
    assert rip & page_code.IN_PAGE not in page_code.AT_TRAP
