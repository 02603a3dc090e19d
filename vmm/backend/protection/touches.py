# SPDX-License-Identifier: Apache-2.0
"""Which guest memory a processor touches when it carries out the instruction at RIP, or delivers an event.

For accesses that a host refuses without a word of where. Everything is listed in the processor's order, so the first
touch that is refused is the one: the walk of the page tables and the fetch, for an instruction across a page's end
twice; each operand's walk, with accessed and dirty bits that are to be set, and the operand; for an event the IDT, GDT,
TSS and the frame on the stack. Nothing is changed.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from kvmapi.uapi import x86
from vmm.backend.emulation import interrupt
from vmm.backend.emulation.faults import DeclinedError, GuestFaultError, page_fault
from vmm.backend.emulation.linear import LinearMemory
from vmm.backend.emulation.page_walk import (
    ERROR_FETCH,
    ERROR_USER,
    ERROR_WRITE,
    Access,
    Denial,
    Paging,
    Refusal,
    walk,
)
from vmm.backend.emulation.processor import Processor
from vmm.backend.emulation.registers import RFLAGS_OF
from vmm.backend.protection.decoded import Decoded, Operand, decode
from vmm.backend.protection.events import Event, Kind
from vmm.backend.protection.far_operands import descriptor
from vmm.backend.protection.operands import operands
from vmm.outside import Buffer, GuestMemoryError
from vmm.vsm.rights import EXECUTE, READ, WRITE

_PAGE: Final = 4096
_LONGEST: Final = 15
_SELECTOR_VECTORS: Final = (x86.TS_VECTOR, x86.NP_VECTOR, x86.SS_VECTOR, x86.GP_VECTOR)
_IDT: Final = 2  # in an error code: its index is an IDT vector
_SOFTWARE: Final = {"int1": 1, "int3": 3, "into": 4}


class Touch(NamedTuple):
    """`size` bytes at `gpa`, all in one page. page_walk: of a page table, on the way to `gva`."""

    gpa: int
    size: int
    wanted: int
    gva: int
    page_walk: bool = False


class Touches(NamedTuple):
    """All touches, as far as they can be known. instruction: None where it was not found or not asked for.

    fault: the exception in which they end, of those that paging raises. whole: see `operands`.
    """

    touches: list[Touch]
    instruction: Decoded | None = None
    fault: GuestFaultError | None = None
    whole: bool = False

    def operand_at(self, gpa: int) -> Touch | None:
        """The touch of an operand that `gpa` is in; of two, the one that writes."""
        hits = [
            touch
            for touch in self.touches
            if touch.gpa <= gpa < touch.gpa + touch.size and touch.wanted != EXECUTE and not touch.page_walk
        ]
        return max(hits, key=lambda touch: touch.wanted, default=None)


class Seen(Protocol):
    """Guest memory as a VTL's processors find it, whatever the rights of the VTL: `ProtectedView` is one.

    `vmm.outside.GuestMemoryError` where there is no RAM.
    """

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes of one page."""


class _Logged:
    """`ProcessorMemory` that logs and writes nothing, for a page walk to `gva`."""

    def __init__(self, memory: Seen, log: list[Touch], gva: int) -> None:
        self._memory = memory
        self._log = log
        self._gva = gva

    def read(self, gpa: int, size: int) -> bytes:
        self._log.append(Touch(gpa, size, READ, self._gva, page_walk=True))
        return self._memory.read(gpa, size)

    fetch = read

    def write(self, gpa: int, data: Buffer) -> None:
        self._log.append(Touch(gpa, len(data), WRITE, self._gva, page_walk=True))

    def require_writable(self, gpa: int, size: int) -> None:
        raise AssertionError("a page walk asks for nothing before it writes")

    def write_all(self, parts: Sequence[tuple[int, Buffer]]) -> None:
        raise AssertionError("a page walk writes one entry at a time")

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        raise AssertionError("a page walk reads an entry and writes it")


class LoggedMemory(LinearMemory):
    """Guest memory by linear address that notes what is touched, and writes nothing."""

    def __init__(self, memory: Seen, paging: Callable[[], Paging]) -> None:
        self.log: list[Touch] = []
        super().__init__(_Logged(memory, self.log, 0), paging)
        self._seen = memory

    def read(self, linear_address: int, size: int, access: Access) -> bytes:
        """See `LinearMemory`."""
        parts = self.touch(linear_address, size, access, EXECUTE if access.fetch else READ)
        try:
            return b"".join(self._seen.read(gpa, part) for gpa, part in parts)
        except GuestMemoryError as error:
            raise DeclinedError(str(error)) from error

    def write(self, linear_address: int, data: bytes, access: Access) -> None:
        """Only noted."""
        self.touch(linear_address, len(data), access, WRITE)

    def touch(self, linear_address: int, size: int, access: Access, wanted: int) -> list[tuple[int, int]]:
        """Note an access; `(gpa, size)` of its parts. Errors: `GuestFaultError` (#PF), `DeclinedError`."""
        parts = []
        gvas = []
        paging = self._paging()
        wrap = (1 << 64) - 1 if paging.long_mode else 0xFFFF_FFFF
        while size:
            here = min(size, _PAGE - linear_address % _PAGE)
            found = walk(_Logged(self._seen, self.log, linear_address), paging, linear_address, access)
            if isinstance(found, Refusal):
                if found.denial is Denial.TABLE_NOT_RAM:
                    raise DeclinedError(f"no page table in RAM leads to {linear_address:#x}")
                raise page_fault(linear_address, found.error_code)
            parts.append((found.gpa, here))
            gvas.append(linear_address)
            linear_address = linear_address + here & wrap
            size -= here
        for (gpa, part), gva in zip(parts, gvas, strict=True):
            self.log.append(Touch(gpa, part, wanted, gva))
        return parts


def of_instruction(cpu: Processor, memory: Seen, *, whole: bool = False) -> Touches:
    """What the instruction at RIP touches. whole: see `operands`."""
    logged = LoggedMemory(memory, lambda: cpu.paging)
    decoded: Decoded | None = None
    fault: GuestFaultError | None = None
    try:
        decoded = _fetch(cpu, logged)
        if decoded is not None:
            for operand in operands(cpu, decoded, whole=whole):
                _touch(cpu, logged, operand)
            vector = _software_interrupt(cpu, decoded)
            if vector is not None:
                return Touches(
                    logged.log + _delivery(cpu, memory, vector, decoded.length), decoded, whole=whole
                )
    except GuestFaultError as raised:
        fault = raised
    except DeclinedError:
        pass  # a device's memory: what comes before it is what there is
    return Touches(logged.log, decoded, fault, whole)


def _fetch(cpu: Processor, memory: LoggedMemory) -> Decoded | None:
    """The instruction at RIP, from one page or from two; its fetch is in the log as long as it is."""
    at = linear_rip(cpu)
    access = Access(fetch=True, user=cpu.cpl == 3)
    here = min(_LONGEST, _PAGE - at % _PAGE)
    code = memory.read(at, here, access)
    decoded = decode(code, int(cpu.regs.rip), cpu.bits)
    if decoded is None and here < _LONGEST:
        code += memory.read(at + here, _LONGEST - here, access)
        decoded = decode(code, int(cpu.regs.rip), cpu.bits)
    if decoded is not None:
        left = decoded.length
        for index, touch in enumerate(memory.log):
            if touch.wanted == EXECUTE:
                memory.log[index] = touch._replace(size=min(left, touch.size))
                left -= min(left, touch.size)
    return decoded


def linear_rip(cpu: Processor) -> int:
    """Where the instruction at RIP lies."""
    if cpu.bits == 64:
        return int(cpu.regs.rip)
    return int(cpu.sregs.cs.base + cpu.regs.rip) & 0xFFFF_FFFF


def _touch(cpu: Processor, memory: LoggedMemory, operand: Operand) -> None:
    write = operand.wanted == WRITE
    user = cpu.cpl == 3 and not operand.implicit
    access = Access(write=write, user=user, implicit=operand.implicit)
    if cpu.paging.long_mode and not cpu.canonical(operand.gva):
        raise DeclinedError("not canonical")
    memory.touch(operand.gva, operand.size, access, operand.wanted)


def _software_interrupt(cpu: Processor, decoded: Decoded) -> int | None:
    if decoded.mnemonic == "into" and not cpu.regs.rflags & RFLAGS_OF:
        return None
    if decoded.mnemonic == "int":
        return int(decoded.insn.operands[0].imm) & 0xFF
    return _SOFTWARE.get(decoded.mnemonic)


def of_event(cpu: Processor, memory: Seen, vector: int, error_code: int | None) -> Touches:
    """What the delivery of an exception or interrupt touches, before its handler's first instruction."""
    return Touches(_delivery(cpu, memory, vector, 0, error_code))


def _delivery(
    cpu: Processor, memory: Seen, vector: int, length: int, error_code: int | None = None
) -> list[Touch]:
    probe = copy.copy(cpu)
    probe.regs = x86.kvm_regs.from_buffer_copy(cpu.regs)
    probe.sregs = x86.kvm_sregs.from_buffer_copy(cpu.sregs)
    logged = LoggedMemory(memory, lambda: cpu.paging)
    probe.memory = logged
    probe.advance(length)
    with contextlib.suppress(
        GuestFaultError, DeclinedError
    ):  # it ends there: what was touched until then counts
        interrupt.deliver(probe, vector, software=bool(length), error_code=error_code)
    return logged.log


def tables_of_exception(cpu: Processor, memory: Seen, event: Event) -> list[Touch]:
    """The page tables of a page fault that none of them explains, the descriptor that a selector names.

    For a KVM that walks and reads both itself, and takes one that it cannot read for one that is not there.
    """
    logged = LoggedMemory(memory, lambda: cpu.paging)
    code = event.error_code or 0
    if event.kind is Kind.EXCEPTION and event.vector == x86.PF_VECTOR:
        address = int(cpu.sregs.cr2)
        fetch = bool(code & ERROR_FETCH) or address == linear_rip(cpu)
        access = Access(write=bool(code & ERROR_WRITE), fetch=fetch, user=bool(code & ERROR_USER))
        try:
            logged.touch(address, 1, access, READ)
        except (GuestFaultError, DeclinedError):
            return []
        return [touch for touch in logged.log if touch.page_walk]
    if (
        event.kind is Kind.EXCEPTION
        and event.vector in _SELECTOR_VECTORS
        and code & 0xFFFC
        and not code & _IDT
    ):
        with contextlib.suppress(GuestFaultError, DeclinedError):
            for operand in descriptor(cpu, code):
                logged.touch(operand.gva, operand.size, Access(implicit=True), READ)
    return logged.log


def translate(cpu: Processor, memory: Seen, linear_address: int, access: Access) -> int | None:
    """Where a byte lies, None where the access is a page fault. No bit of a page table is set."""
    found = walk(_Logged(memory, [], linear_address), cpu.paging, linear_address, access)
    return None if isinstance(found, Refusal) else found.gpa


def idt_pages(cpu: Processor, memory: Seen) -> frozenset[int]:
    """The page numbers where the IDT lies, as far as it is mapped."""
    base, limit = int(cpu.sregs.idt.base), int(cpu.sregs.idt.limit)
    found = set()
    for at in range(base & -_PAGE, base + limit + 1, _PAGE):
        address = at & (1 << 64) - 1
        gpa = translate(cpu, memory, address, Access(implicit=True))
        if gpa is not None:
            found.add(gpa >> 12)
    return frozenset(found)
