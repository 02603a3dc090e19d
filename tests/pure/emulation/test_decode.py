# SPDX-License-Identifier: Apache-2.0
"""The decoder agrees with capstone on length and operands of every encoding in the table, and stops at 15 bytes."""

from __future__ import annotations

import capstone
import pytest
from capstone import x86 as cs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvmapi.uapi.x86 import GP_VECTOR
from vmm.backend.emulation import table
from vmm.backend.emulation.decode import Instruction, decode
from vmm.backend.emulation.faults import GuestFaultError

_MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
# Memory forms that capstone knows in every mode: opcode bytes, ModRM.reg or None
_MEMORY_FORMS = [
    (b"\x0f\xae", 7),  # CLFLUSH
    (b"\x66\x0f\xae", 6),  # CLWB
    (b"\x66\x0f\x38\x82", None),  # INVPCID
    (b"\x0f\x38\xf0", None),  # MOVBE
    (b"\x0f\x6e", None),  # MOVD
]


def decoded(code: bytes, bits: int = 64) -> Instruction:
    return decode(code.__getitem__, bits, table.WITH_MODRM, table.IMMEDIATE_BYTES)


def register_number(name: str) -> int:
    """Any general register's name of any size -> its number."""
    legacy = {"ax": 0, "cx": 1, "dx": 2, "bx": 3, "sp": 4, "bp": 5, "si": 6, "di": 7}
    if name in legacy:
        return legacy[name]
    if name[1:] in legacy:
        return legacy[name[1:]]
    return int(name[1:].rstrip("dwb"))


@st.composite
def memory_instructions(draw: st.DrawFn) -> tuple[int, bytes]:
    bits = draw(st.sampled_from([16, 32, 64]))
    opcode, reg = draw(st.sampled_from(_MEMORY_FORMS))
    prefixes = bytes(draw(st.lists(st.sampled_from([0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x67]), max_size=2)))
    if opcode[0] == 0x66:
        prefixes, opcode = prefixes + opcode[:1], opcode[1:]
    if bits == 64 and draw(st.booleans()):
        prefixes += bytes([draw(st.integers(0x40, 0x4F))])
    modrm = draw(st.integers(0, 0xBF))
    if reg is not None:
        modrm = modrm & ~0x38 | reg << 3
    return bits, prefixes + opcode + bytes([modrm]) + draw(st.binary(min_size=9, max_size=9))


@given(memory_instructions())
@example((64, b"\x0f\xae\x3d\x10\x00\x00\x00" + bytes(9)))  # RIP-relative
@example((64, b"\x67\x66\x41\x0f\xae\x34\x25\x00\x00\x00\x80" + bytes(9)))  # SIB without base and index
@settings(max_examples=600, deadline=None)
def test_memory_operands_are_what_capstone_finds(case: tuple[int, bytes]) -> None:
    bits, code = case
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, _MODES[bits])
    disassembler.detail = True
    expected = next(disassembler.disasm(code, 0x1000, 1), None)
    if expected is None:  # e.g. a combination of prefixes that capstone calls invalid
        return

    found = decoded(code, bits)

    assert found.length == expected.size
    operand = next(item.mem for item in expected.operands if item.type == cs.X86_OP_MEM)
    assert found.memory is not None
    base, index = (expected.reg_name(number) or "" for number in (operand.base, operand.index))
    assert found.memory.rip_relative == (base in ("rip", "eip"))
    registers = [] if found.memory.rip_relative or not base else [(register_number(base), 1)]
    if index and index not in ("riz", "eiz"):
        registers.append((register_number(index), operand.scale))
    assert sorted(found.memory.registers) == sorted(registers)
    width = (1 << found.memory.address_bits) - 1
    assert found.memory.displacement & width == operand.disp & width
    if operand.segment:
        named = expected.reg_name(operand.segment)
        # Capstone shows prefixes that 64-bit mode ignores.
        assert found.memory.segment == named or (bits == 64 and named not in ("fs", "gs"))


@pytest.mark.parametrize(
    ("code", "opcode", "prefix", "rest"),
    [
        (b"\xcc", 0xCC, 0, {}),
        (b"\xcd\x80", 0xCD, 0, {"immediate": -128}),
        (b"\xf0\x0f\x01\xca", 0x0F01, 0, {"modrm": 0xCA, "lock": True}),
        (b"\x66\xf3\x0f\x01\xca", 0x0F01, 0xF3, {"modrm": 0xCA}),
        (b"\xf3\xf2\x0f\x38\xf0\xc0", 0x0F38F0, 0xF2, {"modrm": 0xC0}),
        (b"\x4d\x0f\x6e\xc1", 0x0F6E, 0, {"rex": 0x4D, "register_operand": 8, "rm_register": 9}),
        # A REX byte before another prefix is no REX
        (b"\x48\x66\x0f\x6e\xc1", 0x0F6E, 0x66, {"rex": 0}),
    ],
)
def test_prefixes_opcode_and_registers(code: bytes, opcode: int, prefix: int, rest: dict[str, int]) -> None:
    found = decoded(code)

    assert (found.opcode, found.prefix, found.raw) == (opcode, prefix, code)
    assert {name: getattr(found, name) for name in rest} == rest


@pytest.mark.parametrize(
    ("code", "opcode", "prefix", "wide", "register", "rm"),
    [
        (b"\xc5\xfc\x77", 0x0F77, 0, True, 0, 0),  # vzeroall
        (b"\xc5\x7d\x6f\xf8", 0x0F6F, 0x66, True, 15, 0),  # vmovdqa ymm15, ymm0
        (b"\xc4\x41\x7a\x6f\xc7", 0x0F6F, 0xF3, False, 8, 15),  # vmovdqu xmm8, xmm15
    ],
)
def test_vex(code: bytes, opcode: int, prefix: int, wide: bool, register: int, rm: int) -> None:
    found = decoded(code)

    assert found.vex is not None
    assert (found.opcode, found.prefix, found.vex.wide, found.vex.vvvv) == (opcode, prefix, wide, 0)
    assert (found.register_operand, found.rm_register, found.length) == (register, rm, len(code))


@pytest.mark.parametrize("prefix", [b"\x66", b"\xf2", b"\xf3", b"\xf0", b"\x40", b"\x4f"])
def test_vex_after_a_prefix_is_marked(prefix: bytes) -> None:
    found = decoded(prefix + b"\xc5\xfc\x77")

    assert found.vex is not None
    assert found.vex.bad_prefix


@pytest.mark.parametrize("prefix", [b"", b"\x64", b"\x67"])
def test_vex_may_follow_a_segment_or_an_address_size(prefix: bytes) -> None:
    found = decoded(prefix + b"\xc5\xfc\x77")

    assert found.vex is not None
    assert not found.vex.bad_prefix


@pytest.mark.parametrize("inverted_rxb", range(8))
def test_registers_of_a_vex_prefix_are_what_capstone_finds(inverted_rxb: int) -> None:
    code = bytes(
        [0xC4, inverted_rxb << 5 | 1, 0x7A, 0x6F, 0x44, 0x3B, 0x10]
    )  # vmovdqu xmm, [base + index + 16]
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, _MODES[64])
    disassembler.detail = True
    register, memory = next(disassembler.disasm(code, 0, 1)).operands

    found = decoded(code)

    assert found.memory is not None
    assert f"xmm{found.register_operand}" == disassembler.reg_name(register.reg)
    names = (disassembler.reg_name(number) for number in (memory.mem.index, memory.mem.base))
    assert found.memory.registers == tuple((register_number(name), 1) for name in names)


def test_vex_names_its_second_source() -> None:
    found = decoded(
        b"\xc5\x99\x6f\xc0"
    )  # vvvv is inverted: 1100 names register 3, which must not be named here

    assert found.vex is not None
    assert (found.vex.vvvv, found.vex.wide) == (12, False)


def test_rex_is_an_opcode_outside_64_bit_code() -> None:
    assert (decoded(b"\x40", 32).opcode, decoded(b"\x40\xcc").opcode) == (0x40, 0xCC)


@pytest.mark.parametrize(
    ("bits", "operand", "segment"),
    [
        (64, b"\x03", "ds"),  # [rbx]
        (64, b"\x45\x00", "ss"),  # [rbp]
        (64, b"\x04\x24", "ss"),  # [rsp]
        (64, b"\x04\x28", "ds"),  # [rax + rbp]
        (64, b"\x05\x00\x00\x00\x00", "ds"),  # [rip]
        (32, b"\x04\x25\x00\x00\x00\x00", "ds"),  # [0]
        (16, b"\x00", "ds"),  # [bx + si]
        (16, b"\x02", "ss"),  # [bp + si]
        (16, b"\x06\x00\x00", "ds"),  # [0]
        (16, b"\x46\x00", "ss"),  # [bp]
    ],
)
def test_the_stack_segment_goes_with_the_stacks_registers(bits: int, operand: bytes, segment: str) -> None:
    found = decoded(b"\x0f\x6e" + operand, bits)

    assert found.memory is not None
    assert found.memory.segment == segment


@pytest.mark.parametrize("operand", [b"\x45\x00", b"\x04\x24"])
def test_r12_and_r13_are_no_registers_of_the_stack(operand: bytes) -> None:
    found = decoded(b"\x41\x0f\x6e" + operand)

    assert found.memory is not None
    assert found.memory.segment == "ds"


def test_more_than_15_bytes_fault() -> None:
    with pytest.raises(GuestFaultError) as caught:
        decoded(b"\x66" * 15 + b"\xcc")

    assert (caught.value.vector, caught.value.error_code) == (GP_VECTOR, 0)


def test_no_byte_beyond_the_instruction_is_fetched() -> None:
    asked: list[int] = []

    def fetch(index: int) -> int:
        asked.append(index)
        return b"\xcd\x20"[index]

    decode(fetch, 64, table.WITH_MODRM, table.IMMEDIATE_BYTES)

    assert asked == [0, 1]


@given(st.binary(min_size=16, max_size=16), st.sampled_from([16, 32, 64]))
def test_any_bytes_decode_or_fault(code: bytes, bits: int) -> None:
    try:
        found = decoded(code, bits)
    except GuestFaultError as fault:
        assert fault.vector == GP_VECTOR
        return
    assert 1 <= found.length <= 15
    assert found.rex & ~0xF in (0, 0x40)
    table.find(found)
