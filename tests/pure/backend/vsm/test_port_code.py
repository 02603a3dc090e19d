# SPDX-License-Identifier: Apache-2.0
"""Port instructions as bytes, compared with capstone, and found from behind."""

from __future__ import annotations

import capstone
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.backend.vsm.port_code import decode, ending

MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
PREFIXES = ["", "66", "f3", "f2", "67", "6667", "66f3"]
OPCODES = ["e480", "e580", "e680", "e780", "ec", "ed", "ee", "ef", "6c", "6d", "6e", "6f"]


@pytest.mark.parametrize("bits", MODES)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("opcode", OPCODES)
def test_a_port_instruction_is_what_capstone_takes_it_for(bits: int, prefix: str, opcode: str) -> None:
    code = bytes.fromhex(prefix + opcode + "90" * 4)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, MODES[bits])
    decoder.detail = True
    expected = next(decoder.disasm(code, 0, 1))

    found = decode(code, bits)

    assert found is not None
    name = expected.mnemonic.split()[-1]
    assert found.length == expected.size
    assert found.write == name.startswith("out")
    assert found.string == (name[-1] in "bwd" and name not in ("in", "out"))
    data = max(
        (
            each.size
            for each in expected.operands
            if each.type != capstone.x86.X86_OP_IMM
            and not (each.type == capstone.x86.X86_OP_REG and each.reg == capstone.x86.X86_REG_DX)
        ),
        default=0,
    )
    assert found.size == data
    assert found.port == (0x80 if len(opcode) == 4 else None)


@pytest.mark.parametrize("code", ["90", "0f30", "66", "f3f3", "", "e6", "8b00"])
def test_anything_else_is_none(code: str) -> None:
    assert decode(bytes.fromhex(code), 64) is None


@pytest.mark.parametrize(
    ("code", "port", "size", "rdx", "length"),
    [
        ("ee", 0x80, 1, 0x80, 1),
        ("ef", 0x80, 4, 0x80, 1),
        ("66ef", 0x80, 2, 0x80, 2),
        ("e680", 0x80, 1, 0, 2),
        ("e7ee", 0xEE, 4, 0x80, 2),  # ends like OUT by DX, to another port
        ("e6ee", 0xEE, 1, 0x80, 2),
        ("6e", 0x80, 1, 0x80, 1),
        ("486f", 0x80, 4, 0x80, 1),  # REX changes nothing
    ],
)
def test_an_instruction_is_found_from_behind(code: str, port: int, size: int, rdx: int, length: int) -> None:
    found = ending(bytes.fromhex("9090" + code), 64, port, size, True, rdx)

    assert found is not None and found.length == length and found.size == size


def test_what_did_not_make_the_access_is_not_found() -> None:
    assert ending(b"\x90\xee", 64, 0x80, 1, True, 0x81) is None
    assert ending(b"\x90\xee", 64, 0x80, 1, False, 0x80) is None
    assert ending(b"", 64, 0x80, 1, True, 0x80) is None


@given(st.binary(max_size=16), st.sampled_from(sorted(MODES)))
def test_any_bytes_can_be_looked_at(code: bytes, bits: int) -> None:
    found = decode(code, bits)
    assert found is None or 1 <= found.length <= len(code)
