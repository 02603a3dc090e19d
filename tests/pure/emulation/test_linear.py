# SPDX-License-Identifier: Apache-2.0
"""Accesses by linear address that go on where the address space begins."""

from __future__ import annotations

import pytest

from kvmapi.uapi import x86
from tests.pure.emulation.guest import PD, PD_32, PDPT, PML4, PT, processor
from vmm.backend.emulation.faults import GuestFaultError
from vmm.backend.emulation.page_walk import Access

LAST_32, LAST_64 = 0xFFFF_FFFE, (1 << 64) - 2


def test_a_32_bit_access_goes_on_at_0() -> None:
    with processor(bits=32) as (guest, cpu):
        guest.memory.put(PD_32 + 4 * 1023, 0x87, 4)  # the last 4 MiB are there, the first are not
        guest.memory.put(PD_32, 0, 4)

        with pytest.raises(GuestFaultError) as fault:
            cpu.memory.read(LAST_32, 4, Access())

        assert (fault.value.vector, fault.value.error_code, fault.value.cr2) == (x86.PF_VECTOR, 0, 0)


def test_a_64_bit_access_goes_on_at_0() -> None:
    with processor() as (guest, cpu):
        for table, below in ((PML4, PDPT), (PDPT, PD), (PD, PT)):
            guest.memory.put(table + 8 * 511, below | 7)
        guest.memory.put(PT, 0)

        with pytest.raises(GuestFaultError) as fault:
            cpu.memory.read(LAST_64, 4, Access())

        assert (fault.value.vector, fault.value.error_code, fault.value.cr2) == (x86.PF_VECTOR, 0, 0)


def test_both_ends_of_the_address_space_are_one_access() -> None:
    with processor() as (guest, cpu):
        for table, below in ((PML4, PDPT), (PDPT, PD), (PD, PT)):
            guest.memory.put(table + 8 * 511, below | 7)
        last_page = 511 << 12
        guest.memory.put(last_page + 0xFFE, 0x2211, 2)
        guest.memory.put(0, 0x4433, 2)

        assert cpu.memory.read(LAST_64, 4, Access()) == b"\x11\x22\x33\x44"
        cpu.memory.write(LAST_64, b"abcd", Access(write=True))
        assert guest.memory.data[last_page + 0xFFE : last_page + 0x1000] == b"ab"
        assert guest.memory.data[:2] == b"cd"
