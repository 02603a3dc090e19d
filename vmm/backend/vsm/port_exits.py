# SPDX-License-Identifier: Apache-2.0
"""`VtlPorts`: the I/O ports as one VTL of one VP reaches them, where a higher VTL may have asked to be told.

What KVM has done of an instruction when it exits differs, and each is taken back before anybody is told:

| instruction | KVM with hardware virtualization | KVM that emulates it |
|---|---|---|
| IN, INS | nothing | nothing |
| OUT | nothing: RIP moves at the next entry | all: RIP is behind it |
| OUTS | one item: RSI has moved, and RIP or RCX | the same |

INS reads into guest memory when it ends. So that its end does nothing, it is given what is there already.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from kvmapi import Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from vmm.backend.emulation.page_walk import Access, TableMemory
from vmm.backend.hyperv import page_code
from vmm.backend.vp import Handler, InEntry, Lookup, OutEntry
from vmm.backend.vsm import guest_code, port_code
from vmm.backend.vsm.port_code import PortInstruction
from vmm.backend.vsm.undo_exit import undo
from vmm.bus import PortBus
from vmm.hv.constants import HV_PAGE_SHIFT
from vmm.vsm.intercept_messages import PortAccess
from vmm.vsm.intercept_table import PORTS, READ, WRITE

_IO: Final = Struct("<BBHIQ").unpack_from  # struct kvm_run: direction, size, port, count, data_offset
_PAYLOAD: Final = run_page.EXIT_UNION
_DIRTY_U64: Final = run_page.DIRTY_REGS // 8
_RFLAGS_DF: Final = 1 << 10
_NOTHING: Final = bytes(PORTS)


class VtlPorts:
    """See the module. Used on the VP's thread, but for `want`."""

    def __init__(
        self,
        bus: PortBus,
        vcpu: Vcpu,
        handlers: dict[int, Handler],
        memory: TableMemory,
        tell: Callable[[PortAccess], None],
        is_hypercall_page: Callable[[int], bool],
    ) -> None:
        """memory: guest memory with the VTL's rights. tell: whoever is to be told, with the vCPU before the access.
        is_hypercall_page: whether the VTL's is at a guest page number."""
        self._bus = bus
        self._vcpu = vcpu
        self._memory = memory
        self._tell = tell
        self._is_hypercall_page = is_hypercall_page
        self._wanted = _NOTHING
        self._other_io = handlers[k.KVM_EXIT_IO]
        handlers[k.KVM_EXIT_IO] = self._string_or_unknown
        self.ins: Lookup[InEntry] = bus.ins
        self.outs: Lookup[OutEntry] = bus.outs

    def want(self, ports: bytes | None) -> None:
        """Of which ports accesses are intercepted: READ and WRITE for each. The VP's loop knows from its next look."""
        self._wanted = ports or _NOTHING
        if ports is None:
            self.ins, self.outs = self._bus.ins, self._bus.outs
        else:
            self.ins, self.outs = _Ins(self), _Outs(self)

    def wants(self, port: int, size: int, access: int) -> bool:
        """Whether an access to one of `size` ports is intercepted."""
        return any(mask & access for mask in self._wanted[port : port + size])

    def in_entry(self, access: int) -> InEntry | None:
        """As `PortBus.ins` has it, or what intercepts it; of one item, for several are `_string_or_unknown`'s."""
        port, size = access >> 16 & 0xFFFF, access >> 8 & 0xFF
        one_in = access >> 32 == 1 and not access & k.KVM_EXIT_IO_OUT
        if one_in and self.wants(port, size, READ):
            return self._in, port, size, 0
        return self._bus.ins.get(access)

    def out_entry(self, access: int) -> OutEntry | None:
        """As `PortBus.outs` has it, or what intercepts it. The loop asks with an IN as well."""
        port, size = access >> 16 & 0xFFFF, access >> 8 & 0xFF
        if not access & k.KVM_EXIT_IO_OUT or not self.wants(port, size, WRITE):
            return self._bus.outs.get(access)
        if port == page_code.PORT and self._at_trap():
            return self._bus.outs.get(access)  # a hypercall
        return self._out, port, size, (1 << 8 * size) - 1

    def _at_trap(self) -> bool:
        """Whether RIP is at a trap of the VTL's hypercall page, and not of a page with the same code."""
        regs, sregs = self._vcpu.run.regs, self._vcpu.run.sregs
        if regs.rip & page_code.IN_PAGE not in page_code.AT_TRAP:
            return False
        gva = regs.rip + (0 if guest_code.bits(regs, sregs) == 64 else sregs.cs.base)
        access = Access(fetch=True, user=sregs.ss.dpl == 3)
        at = guest_code.translate(self._memory, regs, sregs, gva, access)
        return at is not None and self._is_hypercall_page(at.gpa >> HV_PAGE_SHIFT)

    # ---- exits ---------------------------------------------------------------------------------------

    def _in(self, port: int, size: int) -> int:
        self._intercept(port, size, write=False, count=1)
        return 0

    def _out(self, port: int, size: int, value: int) -> None:
        self._intercept(port, size, write=True, count=1)

    def _string_or_unknown(self) -> None:
        """Several items, or a port of nobody."""
        direction, size, port, count, _ = _IO(self._vcpu.run.u8, _PAYLOAD)
        write = direction == k.KVM_EXIT_IO_OUT
        if self.wants(port, size, WRITE if write else READ):
            self._intercept(port, size, write, count)
        else:
            self._other_io()

    def _intercept(self, port: int, size: int, write: bool, count: int) -> None:
        run = self._vcpu.run
        at = run.struct.io.data_offset
        if write:
            value = int.from_bytes(run.u8[at : at + size], "little")
            moved = undo(self._vcpu)
            found = self._decode(port, size, write) if moved else self._take_back(port, size, value)
        else:
            found = self._decode(port, size, write)
            if found is not None and found.string:
                self._give_what_is_there(found, count, at)
            undo(self._vcpu)
        code = guest_code.fetch(self._memory, run.regs, run.sregs)
        length = 0 if found is None else found.length
        self._tell(
            PortAccess(
                port,
                size,
                write,
                string=found is not None and found.string,
                rep=found is not None and found.rep,
                instruction=code[:length],
                length=length,
            )
        )

    def _decode(self, port: int, size: int, write: bool) -> PortInstruction | None:
        """The instruction at RIP; None where another processor has changed it since: it makes no such access."""
        regs, sregs = self._vcpu.run.regs, self._vcpu.run.sregs
        found = port_code.decode(guest_code.fetch(self._memory, regs, sregs), guest_code.bits(regs, sregs))
        return found if found is not None and found.fits(port, size, write, regs.rdx) else None

    def _give_what_is_there(self, found: PortInstruction, count: int, at: int) -> None:
        run = self._vcpu.run
        regs, sregs = run.regs, run.sregs
        step = -found.size if regs.rflags & _RFLAGS_DF else found.size
        base = 0 if guest_code.bits(regs, sregs) == 64 else sregs.es.base
        mask = (1 << found.address_bits) - 1
        items = (
            1 if step < 0 else count
        )  # downwards KVM stores them one by one: the first, then it exits again
        size = items * found.size
        there = guest_code.read(
            self._memory, regs, sregs, base + (regs.rdi & mask), size, Access(user=sregs.ss.dpl == 3)
        )
        run.u8[at : at + size] = there.ljust(size, b"\0")

    def _take_back(self, port: int, size: int, value: int) -> PortInstruction | None:
        """The instruction has done its part of the registers: find it, and undo that.

        A REP OUTS behind an OUT to the same port is told from it by what was written. None: the code is not there any
        more, or not to be read.
        """
        run = self._vcpu.run
        regs, sregs = run.regs, run.sregs
        bits = guest_code.bits(regs, sregs)
        before = guest_code.behind_rip(self._memory, regs, sregs)
        ended = port_code.ending(before, bits, port, size, True, regs.rdx)
        going_on = self._decode(port, size, write=True)
        if going_on is not None and not going_on.rep:
            going_on = None
        plain = ended is not None and not ended.string and value == regs.rax & (1 << 8 * size) - 1
        found = ended if plain or going_on is None else going_on
        if found is None:
            return None
        if found.string:
            step = -size if regs.rflags & _RFLAGS_DF else size
            regs.rsi = _moved(regs.rsi, -step, found.address_bits)
        if found.rep:
            regs.rcx = _moved(regs.rcx, 1, found.address_bits)
        else:
            regs.rip = regs.rip - found.length & (1 << bits) - 1
        run.u64[_DIRTY_U64] |= x86.KVM_SYNC_X86_REGS
        return found


class _Ins:
    def __init__(self, ports: VtlPorts) -> None:
        self.get = ports.in_entry


class _Outs:
    def __init__(self, ports: VtlPorts) -> None:
        self.get = ports.out_entry


def _moved(value: int, by: int, bits: int) -> int:
    """A register of which an address size changes the low bits; 32 bits clear the upper half."""
    mask = (1 << bits) - 1
    upper = value & ~mask if bits == 16 else 0
    return upper | value + by & mask
