# SPDX-License-Identifier: Apache-2.0
"""Where a processor's PKRU is found: in the XSAVE area, if it has one."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from kvmapi.uapi import x86
from tests.pure.backend.protection.processors import FakeVcpu
from vmm.backend.emulation.page_walk import Access, Refusal, walk
from vmm.backend.emulation.processor import Cpuid, Processor
from vmm.backend.emulation.registers import CR4_PKE
from vmm.hypercall.outside import UnprotectedMemory
from vmm.machine.ram import MIB, GuestRam

PML4, PDPT, PD, PT, PAGE = 0x1000, 0x2000, 0x3000, 0x4000, 0x10000
USER_PAGE = 0x67  # present, writable, for ring 3, used; protection key 0
PKRU_OFFSET = 2688
CONTROL_AND_STATUS = struct.pack("<HH", 0x37F, 0)  # x87, as after FNINIT: the first bytes of the area
ACCESS_DISABLE = 1


def feature_leaves(*, xsave: bool) -> list[x86.kvm_cpuid_entry2]:
    keys = x86.kvm_cpuid_entry2(function=7, flags=x86.KVM_CPUID_FLAG_SIGNIFCANT_INDEX, ecx=1 << 3)
    place = x86.kvm_cpuid_entry2(
        function=0xD, index=9, flags=x86.KVM_CPUID_FLAG_SIGNIFCANT_INDEX, eax=4, ebx=PKRU_OFFSET
    )
    return [keys, place] if xsave else [keys]


@pytest.mark.parametrize(
    ("xsave", "pkru", "forbidden"),
    [(True, ACCESS_DISABLE, True), (True, 0, False), (False, ACCESS_DISABLE, False)],
)
def test_a_key_forbids_what_pkru_says_where_it_is_known(xsave: bool, pkru: int, forbidden: bool) -> None:
    """What lies at the start of the XSAVE area is of the x87, and says nothing of keys."""
    with GuestRam(4 * MIB) as ram:
        for table, entry in ((PML4, PDPT), (PDPT, PD), (PD, PT)):
            ram.write(table, struct.pack("<Q", entry | USER_PAGE))
        ram.write(PT + 8 * (PAGE >> 12), struct.pack("<Q", PAGE | USER_PAGE))
        regs, sregs = x86.kvm_regs(rflags=2), x86.kvm_sregs()
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80010033, PML4, 0x20 | CR4_PKE, 0xD00
        fake = FakeVcpu(regs, sregs)
        fake.xsave[: len(CONTROL_AND_STATUS)] = CONTROL_AND_STATUS
        fake.xsave[PKRU_OFFSET : PKRU_OFFSET + 4] = struct.pack("<I", pkru)
        vcpu: Any = fake
        memory = UnprotectedMemory(ram)
        cpu = Processor(vcpu, memory, Cpuid(feature_leaves(xsave=xsave)))

        found = walk(memory, cpu.paging, PAGE, Access(user=True))

        assert isinstance(found, Refusal) is forbidden
