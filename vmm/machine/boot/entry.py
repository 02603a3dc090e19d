# SPDX-License-Identifier: Apache-2.0
"""The processor state a boot protocol asks for at the guest's first instruction.

Three modes are enough for all protocols: 16-bit real mode, 32-bit protected mode without paging and 64-bit
mode with an identity map. All use one GDT, so a guest that reloads a selector finds what it already has:

| selector | descriptor |
|---|---|
| 0x08 | code, 32-bit, base 0, limit 4 GiB |
| 0x10 | code, 64-bit (Linux' `__BOOT_CS`) |
| 0x18 | data, base 0, limit 4 GiB (Linux' `__BOOT_DS`) |
| 0x20 | busy TSS, base 0, limit 0x67 (16 bytes, so that it is a valid 64-bit descriptor too) |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

CODE32_SELECTOR = 0x08
CODE64_SELECTOR = 0x10
DATA_SELECTOR = 0x18
TSS_SELECTOR = 0x20

CR0_PE = 1 << 0
CR0_ET = 1 << 4
CR0_PG = 1 << 31
CR4_PAE = 1 << 5
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
RFLAGS_RESERVED = 1 << 1
"""Bit 1 of RFLAGS is always 1 (SDM volume 1, 3.4.3)."""


@dataclass(frozen=True)
class Segment:
    """A segment register with its hidden part, field by field as in `struct kvm_segment`.

    `limit` is in bytes whatever `g` says. `present` 0 makes the register unusable.
    """

    selector: int
    base: int
    limit: int
    type: int
    present: int
    dpl: int
    db: int
    s: int
    l: int  # noqa: E741 - the descriptor bit's name in the SDM and in struct kvm_segment
    g: int

    def descriptor(self) -> int:
        """The 8-byte segment descriptor (SDM volume 3, figure 3-8) that loads this register."""
        limit = self.limit >> 12 if self.g else self.limit
        return (
            limit & 0xFFFF
            | (self.base & 0xFFFFFF) << 16
            | (self.type | self.s << 4 | self.dpl << 5 | self.present << 7) << 40
            | (limit >> 16 & 0xF) << 48
            | (self.l << 1 | self.db << 2 | self.g << 3) << 52
            | (self.base >> 24 & 0xFF) << 56
        )


@dataclass(frozen=True)
class EntryState:
    """Where the boot processor starts, and with what. Registers not named here are as after reset."""

    rip: int
    rflags: int
    gprs: dict[str, int]
    """`rax` .. `r15`, only those that are not 0."""
    cs: Segment
    ds: Segment
    es: Segment
    fs: Segment
    gs: Segment
    ss: Segment
    tr: Segment
    ldt: Segment
    gdt: tuple[int, int]
    """Base and limit."""
    idt: tuple[int, int]
    """Base and limit."""
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    efer: int
    description: str
    """Protocol and mode, for people: `multiboot 1, 32-bit protected mode`."""


_CODE32 = Segment(CODE32_SELECTOR, 0, 0xFFFFFFFF, type=0xB, present=1, dpl=0, db=1, s=1, l=0, g=1)
_CODE64 = replace(_CODE32, selector=CODE64_SELECTOR, db=0, l=1)
_DATA = replace(_CODE32, selector=DATA_SELECTOR, type=0x3)
_TSS = Segment(TSS_SELECTOR, 0, 0x67, type=0xB, present=1, dpl=0, db=0, s=0, l=0, g=0)
_NO_LDT = Segment(0, 0, 0, type=0x2, present=0, dpl=0, db=0, s=0, l=0, g=0)


def _gdt_bytes() -> bytes:
    slots = [0] * (TSS_SELECTOR // 8 + 2)
    for segment in (_CODE32, _CODE64, _DATA, _TSS):
        slots[segment.selector // 8] = segment.descriptor()
    return b"".join(slot.to_bytes(8, "little") for slot in slots)


GDT = _gdt_bytes()
"""The table above, to be stored where `gdt_gpa` says."""


def protected_mode(rip: int, gprs: dict[str, int], gdt_gpa: int, protocol: str) -> EntryState:
    """32-bit protected mode, paging and interrupts off, flat segments. No IDT: an exception shuts down."""
    return EntryState(
        rip=rip,
        rflags=RFLAGS_RESERVED,
        gprs=_set(gprs),
        cs=_CODE32,
        ds=_DATA,
        es=_DATA,
        fs=_DATA,
        gs=_DATA,
        ss=_DATA,
        tr=_TSS,
        ldt=_NO_LDT,
        gdt=(gdt_gpa, len(GDT) - 1),
        idt=(0, 0),
        cr0=CR0_PE | CR0_ET,
        cr2=0,
        cr3=0,
        cr4=0,
        efer=0,
        description=f"{protocol}, 32-bit protected mode",
    )


def long_mode(rip: int, gprs: dict[str, int], gdt_gpa: int, cr3: int, protocol: str) -> EntryState:
    """64-bit mode with the page tables at `cr3`, interrupts off. No IDT: an exception shuts down."""
    return replace(
        protected_mode(rip, gprs, gdt_gpa, protocol),
        cs=_CODE64,
        cr0=CR0_PE | CR0_ET | CR0_PG,
        cr3=cr3,
        cr4=CR4_PAE,
        efer=EFER_LME | EFER_LMA,
        description=f"{protocol}, 64-bit mode",
    )


def real_mode(code_selector: int, ip: int, gprs: dict[str, int], protocol: str) -> EntryState:
    """16-bit real mode at `code_selector:ip`, the other segments 0, interrupts off, IVT at 0."""
    data = replace(_DATA, selector=0, limit=0xFFFF, db=0, g=0)
    return EntryState(
        rip=ip,
        rflags=RFLAGS_RESERVED,
        gprs=_set(gprs),
        cs=replace(data, selector=code_selector, base=code_selector << 4, type=0xB),
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        tr=replace(_TSS, selector=0, limit=0xFFFF),
        ldt=_NO_LDT,
        gdt=(0, 0xFFFF),
        idt=(0, 0x3FF),
        cr0=CR0_ET,
        cr2=0,
        cr3=0,
        cr4=0,
        efer=0,
        description=f"{protocol}, 16-bit real mode",
    )


def _set(gprs: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in gprs.items() if value}
