# SPDX-License-Identifier: Apache-2.0
"""Instructions that name their memory in another way than by an operand, carried out by a processor in ring 3."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from kvmapi import KvmError
from kvmapi.uapi import x86
from tests.host.protection.world import DATA, OTHER, PAGE, USER_CODE, Ended, World, new_world
from vmm.vsm.rights import NONE, READ, WRITE

pytestmark = pytest.mark.host

XMM, MASKS = 160, 5
INVALID_OPCODE = 6
XCR0_AVX512 = 0xE7


@dataclass(frozen=True)
class Case:
    """vectors: by register number. mask: register 1. told: accesses to DATA that are refused, one after the other."""

    code: str
    wanted: int
    told: list[int]
    registers: dict[str, int] = field(default_factory=dict)
    vectors: dict[int, bytes] = field(default_factory=dict)
    mask: int = 0


def dwords(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


CASES = {
    "gather": Case(  # vgatherdps xmm0, [rdi+xmm1*4], xmm2: the second element is left out
        "c4e26992048f",
        READ,
        [DATA + 40],
        {"rdi": OTHER},
        {1: dwords(0, (DATA - OTHER) // 4, (DATA + 40 - OTHER) // 4, 5), 2: dwords(-1, 0, -1, -1)},
    ),
    "gather of quadwords": Case(  # vgatherqpd xmm0, [rdi+xmm1], xmm2: across the page's begin
        "c4e2e993040f",
        READ,
        [DATA],
        {"rdi": DATA},
        {1: struct.pack("<qq", -4, OTHER - DATA), 2: dwords(-1, -1, -1, -1)},
    ),
    "scatter": Case(  # vscatterdps [rdi+xmm1*4]{k1}, xmm0
        "62f27d09a2048f",
        WRITE,
        [DATA + 8],
        {"rdi": OTHER},
        {1: dwords(3, (DATA + 8 - OTHER) // 4, (DATA - OTHER) // 4, 1)},
        mask=0xB,
    ),
    "masked load that reaches the page": Case(  # vmovups xmm0{k1}, [rdi]
        "62f17c091007", READ, [DATA], {"rdi": DATA - 8}, mask=0x5
    ),
    "masked load that leaves the page out": Case(
        "62f17c091007", READ, [], {"rdi": DATA - 8}, mask=0x3
    ),
    "masked store of a vector": Case(  # vmaskmovps [rdi], xmm1, xmm0
        "c4e2712e07", WRITE, [DATA + 4], {"rdi": DATA - 8}, {1: dwords(-1, 0, 0, -1)}
    ),
    "compressing store": Case(  # vcompressps [rdi]{k1}, xmm0: two elements, however they are chosen
        "62f27d098a07", WRITE, [], {"rdi": DATA - 8}, mask=0xA
    ),
    "permutation, which reads all": Case(  # vpermilps xmm0{k1}, xmm0, [rdi]
        "62f27d090c07", READ, [DATA], {"rdi": DATA - 8}, mask=0x1
    ),
    "store of chosen bytes": Case(  # maskmovdqu xmm0, xmm1
        "660ff7c1", WRITE, [DATA + 1], {"rdi": DATA - 8}, {1: bytes([0x80] + [0] * 8 + [0x80] + [0] * 6)}
    ),
    "clearing a cache line": Case("0f01fc", WRITE, [DATA + 0x40], {"rax": DATA + 0x47}),
}  # fmt: skip


@contextmanager
def prepared(case: Case) -> Iterator[World]:
    with new_world() as world:
        world.start(bytes.fromhex(case.code), 3, **case.registers)
        xcrs = x86.kvm_xcrs(nr_xcrs=1)
        xcrs.xcrs[0].value = XCR0_AVX512
        with contextlib.suppress(KvmError):  # a processor without: #UD
            world.vcpu.set_xcrs(xcrs)
        area = bytearray(bytes(world.vcpu.get_xsave()))
        for number, value in case.vectors.items():
            area[XMM + 16 * number : XMM + 16 * (number + 1)] = value
        places = {entry.index: entry.ebx for entry in world.vcpu.get_cpuid2() if entry.function == 0xD}
        if case.mask and MASKS in places:
            at = places[MASKS] + 8
            area[at : at + 8] = case.mask.to_bytes(8, "little")
            area[512] |= 1 << MASKS
        world.vcpu.set_xsave(x86.kvm_xsave.from_buffer_copy(area))
        yield world


def outcome(world: World, ended: Ended) -> tuple[int | None, dict[str, int], bytes, bytes]:
    """Vector of an exception, general registers, vector registers, memory."""
    return (
        ended.vector,
        ended.registers.general,
        bytes(world.vcpu.get_xsave())[XMM : XMM + 256],
        world.memory_image(),
    )


@pytest.fixture
def unrestricted() -> Callable[[Case], tuple[int | None, dict[str, int], bytes, bytes]]:
    def run(case: Case) -> tuple[int | None, dict[str, int], bytes, bytes]:
        with prepared(case) as world:
            return outcome(world, world.run())

    return run


Run = Callable[[Case], tuple[int | None, dict[str, int], bytes, bytes]]


def test_one_of_them_is_an_instruction_everywhere(unrestricted: Run) -> None:
    """So that the tests below, which ask little of a #UD, cannot succeed because everything is one."""
    assert unrestricted(CASES["store of chosen bytes"])[0] is None


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize("name", CASES)
def test_refused_then_granted(name: str, unrestricted: Run) -> None:
    """What the processor needs is told, what it does not need is not."""
    case = CASES[name]
    with prepared(case) as world:
        assert world.restrict(DATA, NONE) == 0

        ended = world.run()

        if unrestricted(case)[0] != INVALID_OPCODE:
            told = [(each.access.wanted, each.access.gpa, each.access.gva) for each in ended.told]
            assert told == [(case.wanted, gpa, gpa) for gpa in case.told]
            assert all(each.registers.rip == USER_CODE for each in ended.told)
        assert outcome(world, ended) == unrestricted(case)


@pytest.mark.tlfs("VSM-077")
@pytest.mark.parametrize("name", CASES)
def test_a_page_that_can_be_read_and_written(name: str, unrestricted: Run) -> None:
    case = CASES[name]
    with prepared(case) as world:
        world.restrict(DATA, READ | WRITE)

        ended = world.run()

        assert ended.told == []
        assert outcome(world, ended) == unrestricted(case)
        if ended.vector != INVALID_OPCODE:
            assert world.stepper.steps == bool(case.told)


def test_pages_next_to_each_other(unrestricted: Run) -> None:
    """Each element of a gather on a page of its own: told page by page."""
    case = Case(
        "c4e26992048f",
        READ,
        [],
        {"rdi": DATA},
        {1: dwords(0, PAGE // 4, 2 * PAGE // 4, 3 * PAGE // 4), 2: dwords(-1, -1, -1, -1)},
    )
    with prepared(case) as world:
        world.restrict(DATA, NONE, pages=4)

        ended = world.run()

        if ended.vector != INVALID_OPCODE:
            assert [each.access.gpa for each in ended.told] == [DATA + PAGE * page for page in range(4)]
        assert outcome(world, ended) == unrestricted(case)
