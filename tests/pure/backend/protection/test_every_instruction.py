# SPDX-License-Identifier: Apache-2.0
"""What every instruction with an operand in memory accesses, against the processor that runs the test.

All encodings that capstone knows are carried out at [RDI], in front of a page that cannot be accessed: how many bytes
each needs, and whether it writes them (`instruction_accesses.c`). Of AVX-512 with several masks.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from tests.pure.backend.protection.processors import CODE, fake_of, page_tables, processor
from vmm.backend.protection.decoded import MEMORY, Decoded, decode
from vmm.backend.protection.operands import operands
from vmm.backend.protection.vector_operands import has_mask
from vmm.machine.ram import MIB, GuestRam
from vmm.vsm.rights import WRITE

SOURCE = Path(__file__).with_name("instruction_accesses.c")
D = 0x100100  # where RDI points
PADDING = bytes(range(0x11, 0x1A))  # immediate operands
AT_RDI = 0x07
MASKS = (1, 6, 0x8421, (1 << 64) - 1)
_ELSEWHERE = (
    # They jump, load segment registers, use the stack, or access more than [RDI].
    "call jmp lcall ljmp lfs lgs lss push pop movs cmps movdir64b "
    # Not for ring 3, or carried out by Linux itself.
    "ins outs invlpg invpcid invept invvpid lgdt lidt lldt ltr lmsw sgdt sidt sldt smsw str vmptrld vmptrst vmclear "
    "vmxon vmread vmwrite wrssd wrssq wrussd wrussq rstorssp clrssbsy verr verw lar lsl "
    # How much they access is in memory, or in registers that are not set here.
    "xrstor xrstor64 xrstors xrstors64 xsaves xsaves64 xsave xsave64 xsavec xsavec64 xsaveopt xsaveopt64 "
    "fxrstor fxrstor64"
)
ELSEWHERE = frozenset(_ELSEWHERE.split())


def encodings() -> Iterator[bytes]:
    """With an operand at [RDI], of each map of opcodes and each form of prefixes."""
    for prefix, rex, opcodes, opcode, field in product(
        (b"", b"\x66", b"\xf3", b"\xf2"),
        (b"", b"\x48"),
        (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a"),
        range(256),
        range(8),
    ):
        yield prefix + rex + opcodes + bytes([opcode, AT_RDI | field << 3])
    for table, wide, long, implied, opcode in product((1, 2, 3), (0, 1), (0, 1), range(4), range(256)):
        yield bytes([0xC4, 0xE0 | table, wide << 7 | 0x78 | long << 2 | implied, opcode, AT_RDI])
    for table, wide, length, implied, opcode, once, field in product(
        (1, 2, 3), (0, 1), range(3), range(4), range(256), (0, 1), (0, 2, 6)
    ):
        if field and opcode not in (0x71, 0x72, 0x73):
            continue
        last = length << 5 | once << 4 | 0x8 | 1
        yield bytes([0x62, 0xF0 | table, wide << 7 | 0x7C | implied, last, opcode, AT_RDI | field << 3])


@cache
def known() -> dict[str, Decoded]:
    """Instructions that can be tried, by their digits."""
    found = {}
    for code in encodings():
        decoded = decode(code + PADDING, CODE, 64)
        if decoded is None or decoded.length < len(code) or decoded.mnemonic in ELSEWHERE:
            continue
        places = {
            decoded.insn.reg_name(each.mem.base) for each in decoded.insn.operands if each.type == MEMORY
        }
        bits = decoded.mnemonic in ("bt", "bts", "btr", "btc")
        far_away = bits and decoded.insn.op_str.endswith(("sp", "bp", "si", "di"))  # they are addresses
        loads_segment = decoded.mnemonic == "mov" and decoded.raw[-2:-1] == b"\x8e"
        if places == {"rdi"} and not far_away and not loads_segment:
            found[decoded.raw.hex()] = decoded
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program."""
    compiler = shutil.which("gcc")
    assert compiler is not None, "gcc is one of the system packages that `make setup-test` installs"
    made = tmp_path_factory.mktemp("accesses") / "instruction_accesses"
    subprocess.run([compiler, "-O1", "-Wall", "-mavx512bw", "-o", made, SOURCE], check=True)
    return made


def measured(program: Path, codes: list[str], mask: int) -> dict[str, tuple[int, bool, str]]:
    """By instruction: bytes, whether they are written, and what is in the way of knowing."""
    run = subprocess.run(
        [program, hex(mask)],
        input="".join(code + "\n" for code in codes),
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) == len(codes), f"{codes[len(lines)]} ended the program: {run.returncode}"
    return {code: (int(size), written == "1", note) for code, size, written, note in lines}


@pytest.mark.tlfs("VSM-080")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mask", MASKS, ids=hex)
def test_what_the_processor_accesses(program: Path, mask: int) -> None:
    codes = [code for code, decoded in known().items() if mask == MASKS[-1] or has_mask(decoded)]
    tried, wrong = 0, []
    with GuestRam(4 * MIB) as ram:
        page_tables(ram)
        for code, (size, written, note) in measured(program, codes, mask).items():
            if note == "unknown" or (note == "aligned" and mask != MASKS[-1]):
                continue  # this processor does not have it; or its alignment decides what can be tried
            cpu = processor(ram, rdi=D, rsi=D, rax=5)
            fake_of(cpu).put_state(160, b"\xff" * 16)
            fake_of(cpu).put_state(576, b"\xff" * 16)
            fake_of(cpu).put_state(1088 + 8, mask.to_bytes(8, "little"))
            found = list(operands(cpu, known()[code]))
            end = max((each.gva + each.size - D for each in found), default=0)
            tried += 1
            if (end, any(each.wanted == WRITE for each in found)) != (size, written):
                insn = known()[code].insn
                wrong.append(
                    f"{code} {insn.mnemonic} {insn.op_str}: {size} bytes, written: {written}; found {found}"
                )
    print(f"{tried} instructions tried with mask {mask:#x}")
    assert wrong == []
    assert tried > 300 or (mask != MASKS[-1] and "avx512bw" not in Path("/proc/cpuinfo").read_text())
