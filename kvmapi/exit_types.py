# SPDX-License-Identifier: Apache-2.0
"""One class per way out of KVM_RUN. `kvmapi.exits.decode` makes them; `str()` of one is a line for people.

Fields are C's (`struct kvm_run`, api.rst section 5) unless a name there says less than ours. Data is copied:
an exit stays valid after the vCPU runs on. To answer an exit, write to the `KvmRun`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvmapi.names import EXIT_NAMES, INTERNAL_ERROR_NAMES, SYSTEM_EVENT_NAMES, name_of
from kvmapi.uapi.kvm_memory import KVM_MEMORY_ATTRIBUTE_PRIVATE
from kvmapi.uapi.kvm_run import (
    KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL,
    KVM_MSR_EXIT_REASON_UNKNOWN,
    KVM_NOTIFY_CONTEXT_INVALID,
)
from kvmapi.uapi.vsm import (
    KVM_MEMORY_EXIT_FLAG_EXEC,
    KVM_MEMORY_EXIT_FLAG_PAGE_WALK,
    KVM_MEMORY_EXIT_FLAG_READ,
    KVM_MEMORY_EXIT_FLAG_WRITE,
)
from kvmapi.uapi.x86_vcpu import KVM_RUN_X86_BUS_LOCK, KVM_RUN_X86_GUEST_MODE, KVM_RUN_X86_SMM

_RUN_FLAGS = {
    KVM_RUN_X86_SMM: "in SMM",
    KVM_RUN_X86_BUS_LOCK: "bus lock",
    KVM_RUN_X86_GUEST_MODE: "in nested guest",
}
_MSR_REASONS = {
    KVM_MSR_EXIT_REASON_INVAL: "invalid access",
    KVM_MSR_EXIT_REASON_UNKNOWN: "unknown MSR",
    KVM_MSR_EXIT_REASON_FILTER: "filtered",
}
_ACCESSES = {
    KVM_MEMORY_EXIT_FLAG_READ: "read",
    KVM_MEMORY_EXIT_FLAG_WRITE: "write",
    KVM_MEMORY_EXIT_FLAG_EXEC: "execute",
    KVM_MEMORY_ATTRIBUTE_PRIVATE: "private",
    KVM_MEMORY_EXIT_FLAG_PAGE_WALK: "page walk",
}


def _bits(names: dict[int, str], value: int, none: str = "") -> str:
    known = [name for bit, name in names.items() if value & bit]
    rest = value & ~sum(names)
    return ", ".join(known + ([f"{rest:#x}"] if rest else [])) or none


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"


@dataclass(frozen=True, kw_only=True)
class Exit:
    """`reason` is KVM_EXIT_*, `flags` KVM_RUN_X86_*."""

    reason: int
    flags: int = 0

    def detail(self) -> str:
        """What the exit tells besides its name."""
        return ""

    def __str__(self) -> str:
        name = EXIT_NAMES.get(self.reason, f"exit reason {self.reason}").removeprefix("KVM_EXIT_")
        detail = self.detail()
        flags = f" ({_bits(_RUN_FLAGS, self.flags)})" if self.flags else ""
        return f"{name}{': ' if detail else ''}{detail}{flags}"


@dataclass(frozen=True, kw_only=True)
class OtherExit(Exit):
    """A reason this library does not know on x86; `raw` is the 256 bytes of the exit union."""

    raw: bytes

    def detail(self) -> str:
        used = self.raw.rstrip(b"\0")
        shown = self.raw[: (len(used) + 7) // 8 * 8]
        return "bytes " + (shown.hex(" ", 8) if shown else "all zero")


@dataclass(frozen=True, kw_only=True)
class UnknownExit(Exit):
    """KVM_EXIT_UNKNOWN: the processor left the guest for a reason KVM does not know; also the initial state."""

    hardware_exit_reason: int

    def detail(self) -> str:
        return f"hardware exit reason {self.hardware_exit_reason:#x}"


@dataclass(frozen=True, kw_only=True)
class ExceptionExit(Exit):
    """KVM_EXIT_EXCEPTION. Not used by today's kernels."""

    exception: int
    error_code: int

    def detail(self) -> str:
        return f"vector {self.exception}, error code {self.error_code:#x}"


@dataclass(frozen=True, kw_only=True)
class IoExit(Exit):
    """KVM_EXIT_IO: `count` port accesses of `size` bytes; `data` is what the guest wrote, or what it will get."""

    is_out: bool
    size: int
    port: int
    count: int
    data: bytes

    def detail(self) -> str:
        times = f"{self.count} times " if self.count != 1 else ""
        text = f"{'out' if self.is_out else 'in'} port {self.port:#x}, {times}{_bytes(self.size)}"
        return f"{text}: {self.data.hex(' ', self.size or 1)}" if self.is_out else text


@dataclass(frozen=True, kw_only=True)
class HypercallExit(Exit):
    """KVM_EXIT_HYPERCALL (KVM_CAP_EXIT_HYPERCALL): one of KVM's own hypercalls; answer in `ret`."""

    nr: int
    args: tuple[int, ...]
    call_flags: int

    def detail(self) -> str:
        return (
            f"nr {self.nr}, args {' '.join(f'{value:#x}' for value in self.args)}, flags {self.call_flags:#x}"
        )


@dataclass(frozen=True, kw_only=True)
class DebugExit(Exit):
    """KVM_EXIT_DEBUG: a breakpoint, watchpoint or single step of KVM_SET_GUEST_DEBUG."""

    exception: int
    pc: int
    dr6: int
    dr7: int

    def detail(self) -> str:
        return f"vector {self.exception} at rip {self.pc:#x}, dr6 {self.dr6:#x}, dr7 {self.dr7:#x}"


@dataclass(frozen=True, kw_only=True)
class HltExit(Exit):
    """KVM_EXIT_HLT: the guest halted. Only without in-kernel local APIC."""


@dataclass(frozen=True, kw_only=True)
class MmioExit(Exit):
    """KVM_EXIT_MMIO: an access to a guest physical address without RAM; `data` as in IoExit, `size` bytes."""

    gpa: int
    size: int
    is_write: bool
    data: bytes

    def detail(self) -> str:
        text = f"{'write' if self.is_write else 'read'} {_bytes(self.size)} at gpa {self.gpa:#x}"
        return f"{text}: {self.data.hex()}" if self.is_write else text


@dataclass(frozen=True, kw_only=True)
class IrqWindowOpenExit(Exit):
    """KVM_EXIT_IRQ_WINDOW_OPEN: the guest takes interrupts now, as `request_interrupt_window` asked to be told."""


@dataclass(frozen=True, kw_only=True)
class ShutdownExit(Exit):
    """KVM_EXIT_SHUTDOWN: a triple fault."""

    def detail(self) -> str:
        return "the guest triple-faulted"


@dataclass(frozen=True, kw_only=True)
class FailEntryExit(Exit):
    """KVM_EXIT_FAIL_ENTRY: the processor refused the guest state."""

    hardware_entry_failure_reason: int
    cpu: int

    def detail(self) -> str:
        return f"hardware reason {self.hardware_entry_failure_reason:#x} on CPU {self.cpu}"


@dataclass(frozen=True, kw_only=True)
class IntrExit(Exit):
    """KVM_EXIT_INTR: a signal; KVM_RUN returned EINTR."""


@dataclass(frozen=True, kw_only=True)
class SetTprExit(Exit):
    """KVM_EXIT_SET_TPR: the guest wrote CR8. Only without in-kernel local APIC."""

    cr8: int

    def detail(self) -> str:
        return f"cr8 {self.cr8:#x}"


@dataclass(frozen=True, kw_only=True)
class TprAccessExit(Exit):
    """KVM_EXIT_TPR_ACCESS (KVM_TPR_ACCESS_REPORTING)."""

    rip: int
    is_write: bool

    def detail(self) -> str:
        return f"{'write' if self.is_write else 'read'} at rip {self.rip:#x}"


@dataclass(frozen=True, kw_only=True)
class NmiExit(Exit):
    """KVM_EXIT_NMI."""


@dataclass(frozen=True, kw_only=True)
class InternalErrorExit(Exit):
    """KVM_EXIT_INTERNAL_ERROR: KVM could not go on.

    `instruction` has the bytes at RIP when an instruction could not be emulated and KVM told them, else b"".
    """

    suberror: int
    data: tuple[int, ...]
    instruction: bytes = b""

    def detail(self) -> str:
        text = name_of(INTERNAL_ERROR_NAMES, self.suberror).removeprefix("KVM_INTERNAL_ERROR_")
        if self.instruction:
            return f"{text}, instruction bytes {self.instruction.hex(' ')}"
        return f"{text}, data {' '.join(f'{value:#x}' for value in self.data) or 'none'}"


@dataclass(frozen=True, kw_only=True)
class SystemEventExit(Exit):
    """KVM_EXIT_SYSTEM_EVENT: `event` is KVM_SYSTEM_EVENT_*."""

    event: int
    data: tuple[int, ...]

    def detail(self) -> str:
        text = name_of(SYSTEM_EVENT_NAMES, self.event).removeprefix("KVM_SYSTEM_EVENT_")
        return f"{text}, data {' '.join(f'{value:#x}' for value in self.data)}" if self.data else text


@dataclass(frozen=True, kw_only=True)
class IoapicEoiExit(Exit):
    """KVM_EXIT_IOAPIC_EOI: with a split irqchip, the EOI of a level-triggered interrupt."""

    vector: int

    def detail(self) -> str:
        return f"vector {self.vector:#x}"


@dataclass(frozen=True, kw_only=True)
class HypervSynicExit(Exit):
    """KVM_EXIT_HYPERV_SYNIC: the guest wrote SCONTROL, SIEFP or SIMP; all three values."""

    msr: int
    control: int
    evt_page: int
    msg_page: int

    def detail(self) -> str:
        return (
            f"SynIC MSR {self.msr:#x}, control {self.control:#x}, event page {self.evt_page:#x}, "
            f"message page {self.msg_page:#x}"
        )


@dataclass(frozen=True, kw_only=True)
class HypervHcallExit(Exit):
    """KVM_EXIT_HYPERV_HCALL: a hypercall. The answer goes to `hyperv.u.hcall.result` before the next KVM_RUN.

    `xmm` holds XMM0-XMM5 as 128-bit integers and counts only on a kernel with VSM, for fast calls that KVM
    knows to use them; elsewhere it is what lay there.
    """

    input: int
    params: tuple[int, int]
    xmm: tuple[int, ...] = field(repr=False)

    @property
    def code(self) -> int:
        """The call code, bits 15:0 of the input value."""
        return self.input & 0xFFFF

    def detail(self) -> str:
        fast = "fast " if self.input >> 16 & 1 else ""
        shown = " ".join(f"{value:#x}" for value in self.params)
        return f"{fast}hypercall {self.code:#06x}, input {self.input:#x}, params {shown}"


@dataclass(frozen=True, kw_only=True)
class HypervSyndbgExit(Exit):
    """KVM_EXIT_HYPERV_SYNDBG: the synthetic debugger's MSRs."""

    msr: int
    control: int
    status: int
    send_page: int
    recv_page: int
    pending_page: int

    def detail(self) -> str:
        return f"debugger MSR {self.msr:#x}, control {self.control:#x}, status {self.status:#x}"


@dataclass(frozen=True, kw_only=True)
class RdmsrExit(Exit):
    """KVM_EXIT_X86_RDMSR: answer in `msr.data`, or set `msr.error` to 1 for #GP."""

    index: int
    why: int

    def detail(self) -> str:
        return f"MSR {self.index:#x}, {_bits(_MSR_REASONS, self.why, 'no reason')}"


@dataclass(frozen=True, kw_only=True)
class WrmsrExit(Exit):
    """KVM_EXIT_X86_WRMSR: set `msr.error` to 1 for #GP."""

    index: int
    data: int
    why: int

    def detail(self) -> str:
        return f"MSR {self.index:#x} = {self.data:#x}, {_bits(_MSR_REASONS, self.why, 'no reason')}"


@dataclass(frozen=True, kw_only=True)
class DirtyRingFullExit(Exit):
    """KVM_EXIT_DIRTY_RING_FULL: harvest the ring, KVM_RESET_DIRTY_RINGS, run on."""


@dataclass(frozen=True, kw_only=True)
class ApResetHoldExit(Exit):
    """KVM_EXIT_AP_RESET_HOLD: an SEV-ES guest's AP waits to be reset."""


@dataclass(frozen=True, kw_only=True)
class BusLockExit(Exit):
    """KVM_EXIT_X86_BUS_LOCK (KVM_CAP_X86_BUS_LOCK_EXIT)."""


@dataclass(frozen=True, kw_only=True)
class XenHcallExit(Exit):
    """KVM_EXIT_XEN_HCALL: answer in `xen.u.hcall.result`."""

    longmode: bool
    cpl: int
    input: int
    params: tuple[int, ...]

    def detail(self) -> str:
        bits = 64 if self.longmode else 32
        shown = " ".join(f"{value:#x}" for value in self.params)
        return f"hypercall {self.input}, {bits} bit, CPL {self.cpl}, params {shown}"


@dataclass(frozen=True, kw_only=True)
class NotifyExit(Exit):
    """KVM_EXIT_NOTIFY: no interrupt window for too long (KVM_CAP_X86_NOTIFY_VMEXIT)."""

    notify_flags: int

    def detail(self) -> str:
        invalid = self.notify_flags & KVM_NOTIFY_CONTEXT_INVALID
        return "the guest state is corrupt" if invalid else "the guest state is valid"


@dataclass(frozen=True, kw_only=True)
class MemoryFaultExit(Exit):
    """KVM_EXIT_MEMORY_FAULT: KVM_RUN returned EFAULT or EHWPOISON.

    `fault_flags` is KVM_MEMORY_EXIT_FLAG_*; READ, WRITE, EXEC and `insn_len` (0 when unknown) come only from a
    kernel with VSM. The instruction was not executed.

    Only with KVM_X86_VSM_FAULT_INSN of KVM_CAP_X86_VSM, elsewhere what lay there: `access_gpa`, the address of the
    access within the page at `gpa`, and `insn_bytes`, the bytes at RIP (empty when unknown), more than the
    instruction has.
    """

    fault_flags: int
    gpa: int
    size: int
    insn_len: int
    access_gpa: int = field(repr=False)
    insn_bytes: bytes = field(repr=False)

    @property
    def is_page_walk(self) -> bool:
        """The access was a walk of the guest's page tables, and `access_gpa` is that of an entry."""
        return bool(self.fault_flags & KVM_MEMORY_EXIT_FLAG_PAGE_WALK)

    def detail(self) -> str:
        access = _bits(_ACCESSES, self.fault_flags, "access of unknown kind")
        return f"{access} at gpa {self.gpa:#x}, {_bytes(self.size)}"
