# SPDX-License-Identifier: Apache-2.0
"""What each attribute lets the guest do, however the page came to be mapped before."""

from __future__ import annotations

import pytest

from kvmapi import Vm
from kvmapi.uapi.vsm import (
    KVM_MEMORY_ATTRIBUTE_NR,
    KVM_MEMORY_ATTRIBUTE_NW,
    KVM_MEMORY_ATTRIBUTE_NX,
    KVM_MEMORY_EXIT_FLAG_PAGE_WALK,
    KVM_X86_VSM_FAULT_ACCESS,
    KVM_X86_VSM_FAULT_INSN,
    KVM_X86_VSM_RWX_ATTRIBUTES,
)
from tests.kernel.guest import ACCESSES, CODE, DATA, FLAG, PAGE, Guest

pytestmark = [
    pytest.mark.host,
    pytest.mark.vsm_feature(KVM_X86_VSM_FAULT_ACCESS, KVM_X86_VSM_RWX_ATTRIBUTES),
]
DETAILS = pytest.mark.vsm_feature(KVM_X86_VSM_FAULT_INSN)

NR, NW, NX = KVM_MEMORY_ATTRIBUTE_NR, KVM_MEMORY_ATTRIBUTE_NW, KVM_MEMORY_ATTRIBUTE_NX
MASKS = {0: "rwx", NW: "r-x", NX: "rw-", NW | NX: "r--", NR | NW | NX: "---"}
DENIED_BY = {"read": NR, "write": NW, "modify": NW, "execute": NX}
PERMITTED = [(mask, kind) for mask in MASKS for kind in ACCESSES if not mask & DENIED_BY[kind]]
FORBIDDEN = [(mask, kind) for mask in MASKS for kind in ACCESSES if mask & DENIED_BY[kind]]
OFFSET = 0x123


@pytest.mark.parametrize(("mask", "kind"), PERMITTED)
def test_a_permitted_first_access(vm: Vm, mask: int, kind: str) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, mask)

        assert guest.access(kind, DATA + OFFSET) is None


@pytest.mark.parametrize(("mask", "kind"), FORBIDDEN)
def test_a_forbidden_first_access(vm: Vm, mask: int, kind: str) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, mask)

        fault = guest.access(kind, DATA + OFFSET)

        assert fault is not None
        assert (fault.flags, fault.gpa, fault.size) == (FLAG[kind], DATA, PAGE)
        rip = guest.vcpu.get_regs().rip
        assert rip == (DATA + OFFSET if kind == "execute" else CODE)


@DETAILS
@pytest.mark.parametrize(("mask", "kind"), FORBIDDEN)
def test_the_exact_address_is_told(vm: Vm, mask: int, kind: str) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, mask)

        fault = guest.access(kind, DATA + OFFSET)

        assert fault is not None and fault.access_gpa == DATA + OFFSET


@pytest.mark.original_fails("trap 1, and with shadow paging trap 2")
@pytest.mark.parametrize("first", ACCESSES)
@pytest.mark.parametrize(("mask", "kind"), FORBIDDEN)
def test_a_forbidden_access_after_one_of_another_kind(vm: Vm, mask: int, kind: str, first: str) -> None:
    """A read that is permitted must not make a mapping that can be written (the original series did)."""
    with Guest(vm) as guest:
        guest.restrict(DATA, mask)
        guest.access(first, DATA + OFFSET)
        before = guest.peek(DATA, PAGE)

        fault = guest.access(kind, DATA + OFFSET)

        assert fault is not None and fault.flags == FLAG[kind]
        if kind != "execute":
            assert guest.peek(DATA, PAGE) == before


@pytest.mark.parametrize(("mask", "kind"), FORBIDDEN)
def test_an_access_that_is_forbidden_after_it_was_done(vm: Vm, mask: int, kind: str) -> None:
    with Guest(vm) as guest:
        for access in ACCESSES:
            assert guest.access(access, DATA + OFFSET) is None
        guest.restrict(DATA, mask)

        fault = guest.access(kind, DATA + OFFSET)

        assert fault is not None and fault.flags == FLAG[kind]


@pytest.mark.parametrize(("mask", "kind"), FORBIDDEN)
def test_the_access_is_done_when_it_is_allowed_again(vm: Vm, mask: int, kind: str) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, mask)
        assert guest.access(kind, DATA + OFFSET) is not None
        guest.restrict(DATA, 0)

        assert guest.go_on() is None
        if kind == "write":
            assert guest.peek(DATA + OFFSET, 1) == b"\x5a"


@pytest.mark.parametrize(("mask", "kind"), FORBIDDEN)
def test_running_again_faults_again(vm: Vm, mask: int, kind: str) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, mask)
        first = guest.access(kind, DATA + OFFSET)

        assert first is not None and guest.go_on() == first


@pytest.mark.parametrize("mask", [mask for mask in MASKS if mask])
def test_the_neighbours_are_not_restricted(vm: Vm, mask: int) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA + PAGE, mask)

        for gpa in (DATA, DATA + 2 * PAGE):
            for kind in ACCESSES:
                assert guest.access(kind, gpa + OFFSET) is None, (hex(gpa), kind)


def test_a_hole_in_a_restricted_range(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, NW, 16 * PAGE)
        guest.restrict(DATA + 5 * PAGE, 0)

        writable = [page for page in range(18) if guest.access("write", DATA + page * PAGE) is None]

        assert writable == [5, 16, 17]


@pytest.mark.original_fails("trap 1")
def test_three_masks_side_by_side(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, NW, 3 * PAGE)
        guest.restrict(DATA + PAGE, NX)
        guest.restrict(DATA + 2 * PAGE, NR | NW | NX, 2 * PAGE)

        can = {
            page: [
                kind
                for kind in ("read", "write", "execute")
                if guest.access(kind, DATA + page * PAGE) is None
            ]
            for page in range(5)
        }

        assert can == {
            0: ["read", "execute"],
            1: ["read", "write"],
            2: [],
            3: [],
            4: ["read", "write", "execute"],
        }


def test_the_fault_is_not_one_of_a_page_walk(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, NW)

        fault = guest.access("write", DATA)

        assert fault is not None and not fault.flags & KVM_MEMORY_EXIT_FLAG_PAGE_WALK


@DETAILS
def test_what_is_told_about_the_instruction_is_true(vm: Vm) -> None:
    """Software emulation of SVM has no decode assists; where hardware tells, it must tell the truth."""
    with Guest(vm) as guest:
        guest.restrict(DATA, NW)

        fault = guest.access("write", DATA)

        assert fault is not None
        assert fault.insn_len in (0, 2)
        assert fault.insn_bytes == guest.peek(CODE, len(fault.insn_bytes))


@DETAILS
def test_nothing_is_told_about_an_instruction_that_could_not_be_fetched(vm: Vm) -> None:
    with Guest(vm) as guest:
        guest.restrict(DATA, NX)

        fault = guest.access("execute", DATA)

        assert fault is not None and (fault.insn_len, fault.insn_bytes) == (0, b"")
