# SPDX-License-Identifier: Apache-2.0
"""A caller, its registers and its memory, all of it visible to a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vmm.hv.constants import HV_PAGE_SIZE
from vmm.hv.cpuid import HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.hypercall_words import HV_HYPERCALL_INPUT, HV_HYPERCALL_RESULT
from vmm.hypercall.call import DONE, CallInput, Features, Reply
from vmm.hypercall.convention import CallerMode, Outcome
from vmm.hypercall.dispatcher import Dispatcher
from vmm.hypercall.outside import AccessInterceptedError
from vmm.outside import Buffer, GuestMemoryError

GPRS = [
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *(f"r{n}" for n in range(8, 16)),
    "rip",
    "rflags",
]
ALL_PRIVILEGES = (1 << 64) - 1

INPUT = 0x1000
OUTPUT = 0x3000
NEIGHBOUR = OUTPUT + HV_PAGE_SIZE
"""Pages of RAM. There is a hole on both sides of the first, and in front of and behind the other two."""


class Registers:
    """All general registers, each with a value of its own, so that a change shows."""

    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    r8: int

    def __init__(self) -> None:
        for index, name in enumerate(GPRS):
            setattr(self, name, 0xA5A5_0000_0000_0000 | index << 32 | 0xC0DE_0000 | index)

    def snapshot(self) -> dict[str, int]:
        return dict(vars(self))

    def changed_since(self, before: dict[str, int]) -> set[str]:
        return {name for name, value in vars(self).items() if value != before[name]}

    def set_input(self, mode: int, control: int, first: int, second: int) -> None:
        if mode == CallerMode.BITS_64:
            self.rcx, self.rdx, self.r8 = int(control), first, second
            return
        # Upper halves are noise to a 32-bit caller.
        noise = 0xFFFF_FFFF << 32
        self.rdx, self.rax = noise | control >> 32, noise | control & 0xFFFF_FFFF
        self.rbx, self.rcx = noise | first >> 32, noise | first & 0xFFFF_FFFF
        self.rdi, self.rsi = noise | second >> 32, noise | second & 0xFFFF_FFFF

    def result(self, mode: int) -> HV_HYPERCALL_RESULT:
        if mode == CallerMode.BITS_64:
            return HV_HYPERCALL_RESULT(self.rax)
        return HV_HYPERCALL_RESULT(self.rdx << 32 | self.rax)


class Xmm:
    """XMM0 to XMM5."""

    def __init__(self) -> None:
        self.data = bytearray(b"\xcc" * 96)
        self.reads = 0

    def read(self, size: int) -> bytes:
        assert 0 < size <= 96
        self.reads += 1
        return bytes(self.data[:size])

    def write(self, offset: int, data: Buffer) -> None:
        assert offset >= 0 and offset + len(data) <= 96
        self.data[offset : offset + len(data)] = data


class Memory:
    """Three pages of RAM: one alone, and two in a row, so that only the rules stop a list at the end of a page."""

    def __init__(self) -> None:
        self.pages = {gpa: bytearray(b"\xee" * HV_PAGE_SIZE) for gpa in (INPUT, OUTPUT, NEIGHBOUR)}
        self.unreadable: set[int] = set()
        self.unwritable: set[int] = set()
        self.reads: list[tuple[int, int]] = []

    def _parts(self, gpa: int, size: int) -> list[tuple[int, int, int]]:
        """`(page, offset, size)` of each page that a range touches."""
        parts = []
        while size:
            page, offset = gpa & ~0xFFF, gpa & 0xFFF
            if page not in self.pages:
                raise GuestMemoryError(f"{gpa:#x}, {size} bytes: no RAM")
            length = min(size, HV_PAGE_SIZE - offset)
            parts.append((page, offset, length))
            gpa, size = gpa + length, size - length
        return parts

    def read(self, gpa: int, size: int) -> bytes:
        self.reads.append((gpa, size))
        parts = self._parts(gpa, size)
        if any(page in self.unreadable for page, _, _ in parts):
            raise AccessInterceptedError(gpa, write=False)
        return b"".join([bytes(self.pages[page][offset : offset + length]) for page, offset, length in parts])

    def require_writable(self, gpa: int, size: int) -> None:
        assert size > 0, "nothing is to be written there"
        if any(page in self.unwritable for page, _, _ in self._parts(gpa, size)):
            raise AccessInterceptedError(gpa, write=True)

    def write(self, gpa: int, data: Buffer) -> None:
        self.require_writable(gpa, len(data))
        done = 0
        for page, offset, length in self._parts(gpa, len(data)):
            self.pages[page][offset : offset + length] = data[done : done + length]
            done += length

    def snapshot(self) -> dict[int, bytes]:
        return {gpa: bytes(page) for gpa, page in self.pages.items()}


@dataclass
class Context:
    """A virtual processor in a VTL."""

    vtl: int = 0
    privileges: int = ALL_PRIVILEGES
    hypercalls_enabled: bool = True
    memory: Memory = field(default_factory=Memory)
    xmm: Xmm = field(default_factory=Xmm)
    intercepts: list[tuple[int, bool]] = field(default_factory=list)

    def intercept_memory_access(self, gpa: int, write: bool) -> None:
        self.intercepts.append((gpa, write))


class Caller:
    """Makes hypercalls of one kind of handler set and keeps what came of them."""

    def __init__(self, handlers: dict[int, Callable[..., Any]], **features: bool) -> None:
        self.context = Context()
        self.registers = Registers()
        self.mode: int = CallerMode.BITS_64
        self.dispatcher: Dispatcher[Context] = Dispatcher(handlers, features=Features(**features))

    def call(self, control: int, first: int = INPUT, second: int = OUTPUT) -> Outcome:
        """One execution of the trap instruction."""
        self.registers.set_input(self.mode, control, first, second)
        return self.again()

    def again(self) -> Outcome:
        """The trap instruction once more with the registers as they are."""
        return self.dispatcher.dispatch(self.context, self.registers, self.mode)

    def status(self, control: int, first: int = INPUT, second: int = OUTPUT) -> int:
        """The status of a call that completes."""
        outcome = self.call(control, first, second)
        assert outcome is Outcome.COMPLETED, outcome
        return self.result.Status

    @property
    def result(self) -> HV_HYPERCALL_RESULT:
        return self.registers.result(self.mode)

    def put(self, data: bytes, gpa: int = INPUT) -> None:
        """Fill the input page."""
        self.context.memory.write(gpa, data)


class Recorder:
    """A handler that keeps what it was given and answers with `reply`, success by default."""

    def __init__(self, reply: Reply | Callable[[CallInput[Any, Any]], Reply] = DONE) -> None:
        self.reply = reply
        self.calls: list[CallInput[Any, Any]] = []

    def __call__(self, context: Context, call: CallInput[Any, Any]) -> Reply:
        self.calls.append(call)
        return self.reply(call) if callable(self.reply) else self.reply

    @property
    def last(self) -> CallInput[Any, Any]:
        assert len(self.calls) == 1, f"the handler ran {len(self.calls)} times"
        return self.calls[0]


def control(code: int, **fields: int) -> int:
    """A control word by field names."""
    return HV_HYPERCALL_INPUT.make(CallCode=code, **fields)


def without(privilege: int) -> int:
    """All privileges but those in the mask."""
    return HV_PARTITION_PRIVILEGE_MASK(ALL_PRIVILEGES & ~privilege)
