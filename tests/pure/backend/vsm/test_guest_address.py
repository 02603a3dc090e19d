# SPDX-License-Identifier: Apache-2.0
"""The virtual address of a refused access, found by the instruction and the page tables."""

from __future__ import annotations

from types import SimpleNamespace as Registers

import pytest

from tests.pure.backend.hyperv.test_caller import Ram
from vmm.backend.vsm import guest_code
from vmm.backend.vsm.guest_address import located
from vmm.hypercall.outside import AccessInterceptedError
from vmm.outside import Buffer
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.rights import EXECUTE, READ, WRITE

# 4-level tables: GVA pages from 0x7F00_0000_0000 on lead to the GPA pages listed, in this order.
PML4, PDPT, PD, PT = 0x1000, 0x2000, 0x3000, 0x4000
BASE = 0x7F00_0000_0000
PAGES = (0xA000, 0xC000, 0xB000, 0xD000)  # code, data, data behind it, stack
CODE, DATA, BEHIND, STACK = (BASE + 0x1000 * number for number in range(4))
PRESENT, WRITABLE = 1, 2


class Tables(Ram):
    """RAM with the page tables; `hidden` pages may not be read."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: set[int] = set()
        indices = [BASE >> shift & 0x1FF for shift in (39, 30, 21, 12)]
        for table, index, entry in zip((PML4, PDPT, PD), indices[:3], (PDPT, PD, PT), strict=True):
            self.put(table + 8 * index, entry)
        for number, page in enumerate(PAGES):
            self.put(PT + 8 * (indices[3] + number), page)

    def put(self, gpa: int, entry: int) -> None:
        super().write(gpa, (entry | PRESENT | WRITABLE).to_bytes(8, "little"))

    def read(self, gpa: int, size: int) -> bytes:
        if gpa // 4096 * 4096 in self.hidden:
            raise AccessInterceptedError(gpa, write=False)
        return super().read(gpa, size)

    def write(self, gpa: int, data: Buffer) -> None:
        super().write(gpa, data)


def registers(**general: int) -> Registers:
    names = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
    return Registers(**(dict.fromkeys(names, 0) | {"rip": CODE, "rflags": 2, "rsp": STACK + 0x800} | general))


SREGS = Registers(
    cr0=0x8001_0001,
    cr3=PML4,
    cr4=0x20,
    efer=0x500,
    cs=Registers(l=1, db=0, base=0),
    ss=Registers(dpl=0, base=0),
    ds=Registers(base=0),
    es=Registers(base=0),
    fs=Registers(base=DATA),
    gs=Registers(base=BEHIND),
)


def find(code: str, gpa: int, wanted: int = READ, **general: int) -> MemoryAccess:
    access = MemoryAccess(gpa, wanted)
    return located(Tables(), registers(**general), SREGS, access, bytes.fromhex(code))


@pytest.mark.tlfs("VSM-109")
@pytest.mark.parametrize(
    ("code", "general", "gva"),
    [
        ("488b00", {"rax": DATA + 0x18}, DATA + 0x18),  # mov rax, [rax]
        ("488b4408f8", {"rax": DATA, "rcx": 0x20}, DATA + 0x18),  # mov rax, [rax+rcx-8]
        ("488b04cb", {"rbx": DATA, "rcx": 3}, DATA + 0x18),  # mov rax, [rbx+rcx*8]
        ("64488b042518000000", {}, DATA + 0x18),  # mov rax, fs:[0x18]
        ("488b0511100000", {}, DATA + 0x18),  # mov rax, [rip+0x1011]
        ("a4", {"rsi": DATA + 0x18, "rdi": BEHIND}, DATA + 0x18),  # movsb
        ("ff30", {"rax": DATA + 0x18}, DATA + 0x18),  # push [rax]
        ("678b00", {"rax": DATA & 0xFFFF_FFFF}, None),  # a 32-bit address leads nowhere
    ],
)
def test_an_operand_that_leads_to_the_page_is_the_address(
    code: str, general: dict[str, int], gva: int | None
) -> None:
    found = find(code, 0xC018, **general)

    assert (found.gva, found.gpa) == (gva, 0xC018)


@pytest.mark.tlfs("VSM-109")
def test_of_two_operands_the_one_that_was_refused_is_told() -> None:
    found = find("48a5", 0xB008, WRITE, rsi=DATA, rdi=BEHIND + 8)  # movsq

    assert found.gva == BEHIND + 8


@pytest.mark.tlfs("VSM-109")
def test_an_access_across_pages_is_told_where_it_is_refused() -> None:
    code, rax = "488b00", DATA + 0xFFC

    assert find(code, 0xC000, rax=rax)[0] == 0xCFFC  # the host knew the page only
    assert find(code, 0xC000, rax=rax).gva == DATA + 0xFFC
    assert find(code, 0xB000, rax=rax).gva == BEHIND


@pytest.mark.tlfs("VSM-109")
@pytest.mark.parametrize("code", ["50", "e800000000", "58", "c3"])  # push, call, pop, ret
def test_the_stack_is_an_operand_too(code: str) -> None:
    found = find(code, 0xD000, WRITE)

    assert found.gva in (STACK + 0x800, STACK + 0x7F8)


@pytest.mark.tlfs("VSM-109")
@pytest.mark.parametrize(("code", "below"), [("50", 8), ("e800000000", 8), ("58", 0), ("c3", 0)])
def test_of_the_stack_it_is_where_the_host_says(code: str, below: int) -> None:
    """push, call: below RSP. pop, ret: at RSP, and the bytes below it are not what was refused."""
    gpa = 0xD800 - below

    found = find(code, gpa, WRITE if below else READ)

    assert (found.gva, found.gpa) == (STACK + 0x800 - below, gpa)


@pytest.mark.tlfs("VSM-109")
@pytest.mark.parametrize(
    ("rip", "gpa", "gva"),
    [(CODE, 0xA000, CODE), (CODE + 0xFFE, 0xC000, DATA), (CODE + 0x80, 0xA080, CODE + 0x80)],
)
def test_a_fetch_is_at_rip_or_in_the_page_behind(rip: int, gpa: int, gva: int) -> None:
    found = find("", gpa, EXECUTE, rip=rip)

    assert (found.gva, found.gpa) == (gva, gpa)


@pytest.mark.tlfs("VSM-082")
def test_a_page_walk_tells_the_address_that_was_translated() -> None:
    memory = Tables()
    memory.hidden = {PT}
    access = MemoryAccess(PT, READ, page_walk=True)

    found = located(memory, registers(rax=DATA + 0x18), SREGS, access, bytes.fromhex("488b00"))

    assert (found.gva, found.gpa) == (DATA + 0x18, PT)


def test_what_is_no_operand_s_has_no_address() -> None:
    assert find("488b00", 0xE000, rax=DATA).gva is None
    assert find("0fff", 0xC000).gva is None


def test_an_address_that_is_known_is_kept() -> None:
    access = MemoryAccess(0xC000, READ, gva=5)

    assert located(Tables(), registers(), SREGS, access, b"") is access


# ---- guest_code ------------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-110")
@pytest.mark.parametrize(
    ("code", "general", "length"),
    [
        ("ffd0", {"rax": DATA}, 2),  # call rax
        ("41ffd0", {"r8": DATA}, 3),  # call r8, behind which "call rax" would be
        ("e8fbff0000"[:2] + "f80f0000", {}, 5),  # call rel32
        ("ff5508", {"rbp": STACK}, 3),  # call [rbp+8]
        ("90909090", {}, 0),
    ],
)
def test_the_call_that_led_somewhere_is_found_by_its_return_address(
    code: str, general: dict[str, int], length: int
) -> None:
    memory = Tables()
    at = 0xA100 - len(code) // 2
    memory.write(at, bytes.fromhex(code))
    memory.write(0xD800, (CODE + 0x100).to_bytes(8, "little"))
    target = DATA if length != 5 else CODE + 0x100 + 0xFF8
    regs = registers(rip=target, **general)

    assert guest_code.call_length(memory, regs, SREGS) == length


def test_bytes_before_rip_end_at_a_page_that_is_not_there() -> None:
    memory = Tables()
    memory.write(0xA000, bytes(range(16)))

    assert guest_code.behind_rip(memory, registers(rip=CODE + 3), SREGS) == b"\0\1\2"
    assert len(guest_code.behind_rip(memory, registers(rip=DATA + 3), SREGS)) == 15
