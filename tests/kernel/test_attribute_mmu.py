# SPDX-License-Identifier: Apache-2.0
"""Restrictions and the rest of the MMU: page tables, MMIO, memslots, hugepages, dirty logging, other threads."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from kvmapi import Vm
from kvmapi.exit_types import MmioExit
from kvmapi.uapi.kvm import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from kvmapi.uapi.vsm import (
    KVM_MEMORY_ATTRIBUTE_NR,
    KVM_MEMORY_ATTRIBUTE_NW,
    KVM_MEMORY_ATTRIBUTE_NX,
    KVM_MEMORY_EXIT_FLAG_PAGE_WALK,
    KVM_X86_VSM_FAULT_ACCESS,
    KVM_X86_VSM_FAULT_INSN,
    KVM_X86_VSM_RWX_ATTRIBUTES,
)
from tests.kernel.guest import (
    ACCESSES,
    DATA,
    FLAG,
    HUGEPAGE,
    PAGE,
    PT,
    RAM_SIZE,
    READ,
    WRITE,
    Guest,
    nested_paging,
)

pytestmark = [
    pytest.mark.host,
    pytest.mark.vsm_feature(KVM_X86_VSM_FAULT_ACCESS, KVM_X86_VSM_RWX_ATTRIBUTES),
]
DETAILS = pytest.mark.vsm_feature(KVM_X86_VSM_FAULT_INSN)

NR, NW, NX = KVM_MEMORY_ATTRIBUTE_NR, KVM_MEMORY_ATTRIBUTE_NW, KVM_MEMORY_ATTRIBUTE_NX
NONE = NR | NW | NX
LAST_PAGE = DATA + HUGEPAGE - PAGE
NO_RAM = RAM_SIZE


@DETAILS
def test_a_page_table_that_must_not_be_read(vm: Vm) -> None:
    """Whoever walks it, the processor or KVM, the exit is about the entry that was needed."""
    with Guest(vm) as guest:
        guest.map_small(DATA // HUGEPAGE)
        guest.restrict(PT, NONE)

        fault = guest.access("read", DATA + 5 * PAGE)

        assert fault is not None and fault.gpa == PT
        assert fault.access_gpa == PT + 5 * 8
        assert fault.flags == KVM_MEMORY_EXIT_FLAG_PAGE_WALK | (WRITE if nested_paging() else READ)


@DETAILS
def test_a_page_table_that_must_not_be_written(vm: Vm) -> None:
    """NPT takes each walk for a write. KVM's own walk leaves the accessed bit alone."""
    with Guest(vm) as guest:
        guest.map_small(DATA // HUGEPAGE)
        guest.restrict(PT, NW)
        before = guest.peek(PT, PAGE)

        fault = guest.access("read", DATA)

        if nested_paging():
            assert fault is not None and fault.flags == WRITE | KVM_MEMORY_EXIT_FLAG_PAGE_WALK
        else:
            assert fault is None
        assert guest.peek(PT, PAGE) == before


@pytest.mark.original_fails("it judges MMIO, too")
@pytest.mark.parametrize("kind", ["read", "write"])
def test_mmio_stays_mmio(vm: Vm, kind: str) -> None:
    with Guest(vm) as guest:
        guest.restrict(NO_RAM, NONE)
        guest.start(ACCESSES[kind], rdi=NO_RAM)

        result, exit_ = guest.run()

        assert result == 0 and isinstance(exit_, MmioExit)


def test_attributes_outlive_memslots(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, NW)
        vm.set_user_memory_region(0, 0, 0, guest.host_address)
        vm.set_user_memory_region(0, 0, RAM_SIZE, guest.host_address)

        fault = guest.access("write", DATA)
        assert fault is not None and fault.flags == WRITE
        assert guest.access("write", DATA + PAGE) is None


@pytest.mark.original_fails("trap 1")
def test_attributes_can_come_before_the_memory(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.restrict(NO_RAM + PAGE, NX)
        vm.set_user_memory_region(1, NO_RAM, 2 * PAGE, guest.host_address + DATA)
        guest.poke(DATA, b"\xf4" * 2 * PAGE)

        assert guest.access("read", NO_RAM + PAGE) is None
        guest.start(ACCESSES["execute"], rdi=NO_RAM)
        assert guest.go_on() is None
        guest.start(ACCESSES["execute"], rdi=NO_RAM + PAGE)
        fault = guest.go_on()
        assert fault is not None and (fault.gpa, fault.flags) == (NO_RAM + PAGE, FLAG["execute"])


@pytest.mark.parametrize("mask", [0, NX])
def test_a_readonly_slot_stays_readonly(vm: Vm, mask: int) -> None:
    """What attributes allow, a slot may still deny: the write is MMIO, and memory is not written."""
    with Guest(vm) as guest:
        vm.set_user_memory_region(1, NO_RAM, PAGE, guest.host_address + DATA, KVM_MEM_READONLY)
        guest.restrict(NO_RAM, mask)
        assert guest.access("read", NO_RAM) is None
        guest.start(ACCESSES["write"], rdi=NO_RAM, rax=0x5A)

        result, exit_ = guest.run()

        assert result == 0 and isinstance(exit_, MmioExit)
        assert guest.peek(DATA, 1) == b"\0"


def huge_mappings(vm: Vm) -> int:
    with vm.stats() as stats:
        return stats.read()["pages_2m"][0]


def test_a_hugepage_is_split_and_recovered(vm: Vm) -> None:
    """One restricted page takes the hugepage away, all 512 alike give it back."""
    with Guest(vm) as guest:

        def becomes_huge() -> bool:
            # The page that changed last is mapped anew, with all that can be mapped together with it.
            before = huge_mappings(vm)
            assert guest.access("read", LAST_PAGE) is None
            return huge_mappings(vm) > before

        assert guest.access("write", DATA) is None
        guest.restrict(DATA, NX, HUGEPAGE)
        uniform = becomes_huge()
        guest.restrict(LAST_PAGE, 0)
        mixed = becomes_huge()
        guest.restrict(LAST_PAGE, NX)
        uniform_again = becomes_huge()

        assert (uniform, mixed, uniform_again) == (True, False, True)


@pytest.mark.original_fails("trap 1")
@pytest.mark.parametrize("kind", ["write", "execute"])
def test_a_restricted_hugepage_is_restricted_everywhere(vm: Vm, kind: str) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, NW | NX, HUGEPAGE)
        assert guest.access("read", DATA) is None

        for gpa in (DATA, DATA + 77 * PAGE, LAST_PAGE):
            fault = guest.access(kind, gpa)
            assert fault is not None and (fault.gpa, fault.flags) == (gpa, FLAG[kind])
        assert guest.access(kind, DATA + HUGEPAGE) is None


@pytest.mark.original_fails("trap 1")
@pytest.mark.parametrize(("mask", "kind"), [(NX, "execute"), (NW, "write")])
def test_dirty_logging_does_not_lift_a_restriction(vm: Vm, mask: int, kind: str) -> None:
    """It splits hugepages; their parts must not be allowed more than the whole (kvm.nx_huge_pages=force)."""
    with Guest(vm) as guest:
        guest.restrict(DATA, mask, HUGEPAGE)
        assert guest.access("read", DATA) is None
        vm.set_user_memory_region(0, 0, RAM_SIZE, guest.host_address, KVM_MEM_LOG_DIRTY_PAGES)
        assert guest.access("read", DATA) is None

        fault = guest.access(kind, DATA + PAGE)

        assert fault is not None and fault.flags == FLAG[kind]
        dirty = vm.get_dirty_log(0, RAM_SIZE // PAGE)
        page = (DATA + PAGE) // PAGE
        assert not dirty[page // 8] >> page % 8 & 1


@pytest.mark.original_fails("trap 1, and with shadow paging trap 2")
def test_small_pages_of_the_guest_in_one_table(vm: Vm) -> None:
    """Shadow paging maps neighbours ahead of time: not the one that cannot be read, nor one with too many rights."""
    with Guest(vm) as guest:
        guest.map_small(DATA // HUGEPAGE)
        masks = [0, NW, NX, NONE, NW | NX, 0, NONE, 0]
        for page, mask in enumerate(masks):
            guest.restrict(DATA + page * PAGE, mask)
        assert guest.access("write", DATA) is None

        for page, mask in enumerate(masks):
            for kind, denied_by in (("read", NR), ("write", NW), ("execute", NX)):
                fault = guest.access(kind, DATA + page * PAGE)
                assert (fault is not None) == bool(mask & denied_by), (page, kind)


@pytest.mark.original_fails("trap 1")
def test_restrictions_that_change_under_a_running_guest(vm: Vm) -> None:
    """A thread takes the right to write away and gives it back; no write gets through while it is away."""
    # add dword [rdi], 1; jmp back
    code = b"\x83\x07\x01\xeb\xfb"
    rounds = 60
    leaks: list[tuple[bytes, bytes]] = []
    with Guest(vm) as guest:
        finished = threading.Event()

        def change() -> None:
            try:
                for _ in range(rounds):
                    guest.restrict(DATA, NW)
                    before = guest.peek(DATA, 4)
                    for _ in range(50):
                        after = guest.peek(DATA, 4)
                    if before != after:
                        leaks.append((before, after))
                    guest.restrict(DATA, 0)
                    deadline = time.monotonic() + 5
                    while guest.peek(DATA, 4) == before and time.monotonic() < deadline:
                        time.sleep(0.0001)
            finally:
                finished.set()
                guest.restrict(DATA, NONE)

        guest.start(code, rdi=DATA)
        changer = threading.Thread(target=change)
        changer.start()
        faults = 0
        while True:
            result, _ = guest.run()
            assert result == errno.EFAULT
            faults += 1
            if finished.is_set():
                break
        changer.join()

        assert leaks == []
        assert faults > 0 and int.from_bytes(guest.peek(DATA, 4), "little") >= rounds
