# SPDX-License-Identifier: Apache-2.0
"""Instructions that the VMM carries out in a VTL whose memory a higher VTL protects: an intercept, never a fault."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.pure.emulation.guest import CODE, DATA, IDT, PT, STACK, TSS, Guest, a_guest
from tests.pure.emulation.test_vector import ALL, prepare, put
from tests.pure.vsm.protected import Told
from vmm.backend.emulation import registers as r
from vmm.hv.status import HvStatus
from vmm.outside import Buffer
from vmm.vsm.memory import VtlMemory
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import EXECUTE, READ, WRITE

NONE, R, RW, RX = 0x0, 0x1, 0x3, 0x5
XMM2 = 160 + 2 * 16  # in the XSAVE area
LOAD, STORE = b"\xc5\xfa\x6f\x13", b"\xc5\xfa\x7f\x13"  # vmovdqu xmm2, [rbx]; [rbx], xmm2
INT_20 = b"\xcd\x20"


class Protected:
    """A guest in VTL0, and what VTL1 was told."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.rights = MemoryProtections(guest.memory.ranges(), Told())
        self.told: list[MemoryAccess] = []
        guest.emulator.obey(VtlMemory(guest.memory, self.rights, 0), self.told.append)

    def protect(self, flags: int, *addresses: int) -> None:
        pages = [address >> 12 for address in addresses]
        assert self.rights.modify(1, 0, flags, pages) == (HvStatus.SUCCESS, len(pages))

    def carry_out(self, code: bytes, *, known: int = 15) -> MemoryAccess:
        """An instruction that is refused: nothing changes, and it can be made again."""
        guest = self.guest
        before = bytes(guest.regs), bytes(guest.sregs)

        assert guest.carry_out(code, known=known) is None

        assert (bytes(guest.regs), bytes(guest.sregs)) == before
        assert guest.exception is None
        assert guest.emulator.carried_out == {}
        assert len(self.told) == 1
        return self.told.pop()


@pytest.fixture
def protected() -> Iterator[Protected]:
    with a_guest(*ALL) as guest:
        prepare(guest)
        guest.gate(0x20)
        yield Protected(guest)


@pytest.mark.tlfs("VSM-080", "VSM-083")
@pytest.mark.parametrize(
    ("code", "flags", "wanted"),
    [(LOAD, NONE, READ), (STORE, R, WRITE), (STORE, RX, WRITE)],
)
def test_data(protected: Protected, code: bytes, flags: int, wanted: int) -> None:
    protected.guest.set_regs(rbx=DATA + 0x20)
    protected.protect(flags, DATA)
    page = bytes(protected.guest.memory.data[DATA : DATA + 4096])

    assert protected.carry_out(code) == MemoryAccess(DATA + 0x20, wanted, DATA + 0x20, code)

    assert protected.guest.memory.data[DATA : DATA + 4096] == page


@pytest.mark.tlfs("VSM-083")
@pytest.mark.parametrize(("code", "wanted"), [(LOAD, READ), (STORE, WRITE)])
def test_both_addresses_are_told_of_a_page_that_is_mapped_elsewhere(
    protected: Protected, code: bytes, wanted: int
) -> None:
    gva = 0x40_020
    protected.guest.memory.put(PT + 8 * (gva >> 12), DATA | 7)
    protected.guest.set_regs(rbx=gva)
    protected.protect(NONE, DATA)

    assert protected.carry_out(code) == MemoryAccess(DATA + 0x20, wanted, gva, code)


@pytest.mark.tlfs("VSM-080")
def test_it_is_carried_out_when_it_is_allowed_again(protected: Protected) -> None:
    protected.guest.set_regs(rbx=DATA)
    protected.protect(NONE, DATA)
    protected.carry_out(STORE)
    protected.protect(RW, DATA)

    assert protected.guest.carry_out(STORE) is None
    assert protected.guest.emulator.carried_out.total() == 1
    assert protected.guest.regs.rip == CODE + 4


@pytest.mark.tlfs("VSM-083")
def test_data_over_two_pages_is_all_or_nothing(protected: Protected) -> None:
    """The address is of the first byte that is refused, on the second page."""
    protected.guest.set_regs(rbx=DATA + 4096 - 8)
    protected.protect(R, DATA + 4096)

    assert protected.carry_out(STORE) == MemoryAccess(DATA + 4096, WRITE, DATA + 4096, STORE)
    assert protected.guest.memory.number(DATA + 4096 - 8) == 0


@pytest.mark.tlfs("VSM-081", "VSM-083")
def test_a_page_that_is_taken_away_while_data_is_written_over_two(
    protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change of rights comes behind the whole write, not between its parts."""
    guest = protected.guest
    guest.set_regs(rbx=DATA + 4096 - 8)
    put(guest, XMM2, 0x1111_2222_3333_4444_5555_6666_7777_8888)
    write, changes = guest.memory.write, []

    def taken_away_meanwhile(gpa: int, data: Buffer) -> None:
        if gpa == DATA + 4096 - 8:
            change = threading.Thread(target=protected.protect, args=(R, DATA + 4096))
            change.start()
            change.join(0.05)
            changes.append((change, change.is_alive()))
        write(gpa, data)

    monkeypatch.setattr(guest.memory, "write", taken_away_meanwhile)
    assert guest.carry_out(STORE) is None

    ((change, waited),) = changes
    change.join(5)
    assert (waited, protected.told) == (True, [])
    assert guest.memory.number(DATA + 4096 - 8) == 0x5555_6666_7777_8888
    assert guest.memory.number(DATA + 4096) == 0x1111_2222_3333_4444


@pytest.mark.tlfs("VSM-082")
def test_a_page_table_that_may_not_be_read(protected: Protected) -> None:
    protected.guest.set_regs(rbx=DATA + 4)
    protected.protect(NONE, PT)

    entry = PT + (DATA >> 12) * 8
    assert protected.carry_out(LOAD) == MemoryAccess(entry, READ, DATA + 4, LOAD, page_walk=True)


@pytest.mark.tlfs("VSM-082")
def test_a_page_table_whose_accessed_bit_may_not_be_set(protected: Protected) -> None:
    protected.guest.set_regs(rbx=DATA)
    protected.protect(R, PT)

    entry = PT + (DATA >> 12) * 8
    assert protected.carry_out(LOAD) == MemoryAccess(entry, WRITE, DATA, LOAD, page_walk=True)

    protected.guest.memory.put(entry, protected.guest.memory.number(entry) | 1 << 5)
    assert protected.guest.carry_out(LOAD) is None
    assert protected.told == [], "it is set already: the walk writes nothing"


@pytest.mark.tlfs("VSM-083")
def test_instruction_bytes_on_a_page_that_may_not_be_executed(protected: Protected) -> None:
    """The exit has told the bytes of the first page; the rest is fetched."""
    guest = protected.guest
    guest.set_regs(rip=CODE + 4096 - 1, rbx=DATA)
    protected.protect(RW, CODE + 4096)

    assert protected.carry_out(LOAD, known=1) == MemoryAccess(CODE + 4096, EXECUTE, CODE + 4096)


@pytest.mark.tlfs("VSM-083")
@pytest.mark.parametrize(
    ("flags", "page", "gpa", "wanted"),
    [(NONE, IDT, IDT + 0x20 * 16, READ), (R, STACK - 8, STACK - 40, WRITE)],
    ids=["idt", "stack"],
)
def test_an_interrupt_instruction(protected: Protected, flags: int, page: int, gpa: int, wanted: int) -> None:
    protected.protect(flags, page)

    assert protected.carry_out(INT_20) == MemoryAccess(gpa, wanted, gpa, INT_20)


@pytest.mark.tlfs("VSM-083")
def test_the_task_state_segment() -> None:
    with a_guest(cpl=3) as guest:
        guest.gate(0x20)
        protected = Protected(guest)
        protected.protect(NONE, TSS)

        found = protected.carry_out(INT_20)

    assert (found.gpa >> 12, found.wanted, found.page_walk) == (TSS >> 12, READ, False)


@pytest.mark.tlfs("VSM-083")
def test_a_page_fault_comes_before_an_intercept(protected: Protected) -> None:
    """The tables of VTL0 decide first: what they forbid is no matter of VTL1's."""
    guest = protected.guest
    guest.set_regs(rbx=DATA)
    guest.change_page(DATA, clear=1)
    protected.protect(NONE, DATA)

    assert guest.carry_out(LOAD) is None

    assert guest.exception is not None and guest.exception[0] == 14
    assert (protected.told, guest.sregs.cr2) == ([], DATA)


def test_without_anybody_who_could_be_told_it_is_a_defect(protected: Protected) -> None:
    guest = protected.guest
    guest.set_regs(rbx=DATA)
    protected.protect(NONE, DATA)
    with a_guest() as other:
        tell = other.emulator._tell
    guest.emulator.obey(VtlMemory(guest.memory, protected.rights, 0), tell)

    with pytest.raises(AssertionError, match="nobody is to be told"):
        guest.carry_out(LOAD)
    assert guest.regs.rflags & r.RFLAGS_IF
