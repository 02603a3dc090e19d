# SPDX-License-Identifier: Apache-2.0
"""linux/kvm.h: struct kvm_run, the page through which a vCPU and its user talk, and the exit reasons."""

from kvmapi.uapi.layout import Structure, Union, fields, layout, u8, u16, u32, u64
from kvmapi.uapi.x86_vcpu import kvm_debug_exit_arch, kvm_sync_regs

KVM_EXIT_HYPERV_SYNIC = 1
KVM_EXIT_HYPERV_HCALL = 2
KVM_EXIT_HYPERV_SYNDBG = 3
KVM_EXIT_XEN_HCALL = 1


@layout(
    size=32,
    offsets={"msr": 0, "pad2": 4, "control": 8, "evt_page": 16, "msg_page": 24},
    inside="kvm_hyperv_exit",
)
class kvm_hyperv_exit_synic(Structure):
    """KVM_EXIT_HYPERV_SYNIC: the guest wrote SCONTROL, SIEFP or SIMP."""

    __slots__ = ()
    _fields_ = [("msr", u32), ("pad2", u32), *fields(u64, "control evt_page msg_page")]


@layout(size=32, offsets={"input": 0, "result": 8, "params": 16}, inside="kvm_hyperv_exit")
class kvm_hyperv_exit_hcall(Structure):
    """KVM_EXIT_HYPERV_HCALL: `result` is for the VMM to fill."""

    __slots__ = ()
    _fields_ = [("input", u64), ("result", u64), ("params", u64 * 2)]


@layout(
    size=48,
    offsets={
        "msr": 0,
        "pad2": 4,
        "control": 8,
        "status": 16,
        "send_page": 24,
        "recv_page": 32,
        "pending_page": 40,
    },
    inside="kvm_hyperv_exit",
)
class kvm_hyperv_exit_syndbg(Structure):
    """KVM_EXIT_HYPERV_SYNDBG: the synthetic debugger."""

    __slots__ = ()
    _fields_ = [("msr", u32), ("pad2", u32), *fields(u64, "control status send_page recv_page pending_page")]


@layout(size=48, offsets={"synic": 0, "hcall": 0, "syndbg": 0}, inside="kvm_hyperv_exit")
class kvm_hyperv_exit_u(Union):
    """By `type`."""

    __slots__ = ()
    _fields_ = [
        ("synic", kvm_hyperv_exit_synic),
        ("hcall", kvm_hyperv_exit_hcall),
        ("syndbg", kvm_hyperv_exit_syndbg),
    ]


@layout(size=56, offsets={"type": 0, "pad1": 4, "u": 8})
class kvm_hyperv_exit(Structure):
    """KVM_EXIT_HYPERV. kvmapi.uapi.vsm has the longer form of a kernel with VSM."""

    __slots__ = ()
    _fields_ = [("type", u32), ("pad1", u32), ("u", kvm_hyperv_exit_u)]


@layout(
    size=72, offsets={"longmode": 0, "cpl": 4, "input": 8, "result": 16, "params": 24}, inside="kvm_xen_exit"
)
class kvm_xen_exit_hcall(Structure):
    """KVM_EXIT_XEN_HCALL: `result` is for the VMM to fill."""

    __slots__ = ()
    _fields_ = [("longmode", u32), ("cpl", u32), ("input", u64), ("result", u64), ("params", u64 * 6)]


@layout(size=72, offsets={"hcall": 0}, inside="kvm_xen_exit")
class kvm_xen_exit_u(Union):
    """By `type`."""

    __slots__ = ()
    _fields_ = [("hcall", kvm_xen_exit_hcall)]


@layout(size=80, offsets={"type": 0, "u": 8})
class kvm_xen_exit(Structure):
    """KVM_EXIT_XEN."""

    __slots__ = ()
    _fields_ = [("type", u32), ("_pad", u32), ("u", kvm_xen_exit_u)]


KVM_EXIT_UNKNOWN = 0
KVM_EXIT_EXCEPTION = 1
KVM_EXIT_IO = 2
KVM_EXIT_HYPERCALL = 3
KVM_EXIT_DEBUG = 4
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_IRQ_WINDOW_OPEN = 7
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_SET_TPR = 11
KVM_EXIT_TPR_ACCESS = 12
KVM_EXIT_S390_SIEIC = 13
KVM_EXIT_S390_RESET = 14
KVM_EXIT_DCR = 15
KVM_EXIT_NMI = 16
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_OSI = 18
KVM_EXIT_PAPR_HCALL = 19
KVM_EXIT_S390_UCONTROL = 20
KVM_EXIT_WATCHDOG = 21
KVM_EXIT_S390_TSCH = 22
KVM_EXIT_EPR = 23
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_S390_STSI = 25
KVM_EXIT_IOAPIC_EOI = 26
KVM_EXIT_HYPERV = 27
KVM_EXIT_ARM_NISV = 28
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
KVM_EXIT_DIRTY_RING_FULL = 31
KVM_EXIT_AP_RESET_HOLD = 32
KVM_EXIT_X86_BUS_LOCK = 33
KVM_EXIT_XEN = 34
KVM_EXIT_RISCV_SBI = 35
KVM_EXIT_RISCV_CSR = 36
KVM_EXIT_NOTIFY = 37
KVM_EXIT_LOONGARCH_IOCSR = 38
KVM_EXIT_MEMORY_FAULT = 39

KVM_INTERNAL_ERROR_EMULATION = 1
KVM_INTERNAL_ERROR_SIMUL_EX = 2
KVM_INTERNAL_ERROR_DELIVERY_EV = 3
KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4
KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1 << 0


@layout(size=8, offsets={"hardware_exit_reason": 0}, inside="kvm_run")
class kvm_run_hw(Structure):
    """KVM_EXIT_UNKNOWN."""

    __slots__ = ()
    _fields_ = [("hardware_exit_reason", u64)]


@layout(size=16, offsets={"hardware_entry_failure_reason": 0, "cpu": 8}, inside="kvm_run")
class kvm_run_fail_entry(Structure):
    """KVM_EXIT_FAIL_ENTRY."""

    __slots__ = ()
    _fields_ = [("hardware_entry_failure_reason", u64), ("cpu", u32), ("_pad", u32)]


@layout(size=8, offsets={"exception": 0, "error_code": 4}, inside="kvm_run")
class kvm_run_ex(Structure):
    """KVM_EXIT_EXCEPTION."""

    __slots__ = ()
    _fields_ = [("exception", u32), ("error_code", u32)]


KVM_EXIT_IO_IN = 0
KVM_EXIT_IO_OUT = 1


@layout(
    size=16, offsets={"direction": 0, "size": 1, "port": 2, "count": 4, "data_offset": 8}, inside="kvm_run"
)
class kvm_run_io(Structure):
    """KVM_EXIT_IO: `count` items of `size` bytes at `data_offset` from the start of kvm_run."""

    __slots__ = ()
    _fields_ = [("direction", u8), ("size", u8), ("port", u16), ("count", u32), ("data_offset", u64)]


@layout(size=32, offsets={"arch": 0}, inside="kvm_run")
class kvm_run_debug(Structure):
    """KVM_EXIT_DEBUG."""

    __slots__ = ()
    _fields_ = [("arch", kvm_debug_exit_arch)]


@layout(size=24, offsets={"phys_addr": 0, "data": 8, "len": 16, "is_write": 20}, inside="kvm_run")
class kvm_run_mmio(Structure):
    """KVM_EXIT_MMIO: `len` bytes of `data`; the VMM fills it for a read."""

    __slots__ = ()
    _fields_ = [("phys_addr", u64), ("data", u8 * 8), ("len", u32), ("is_write", u8), ("_pad", u8 * 3)]


@layout(size=8, offsets={"longmode": 0, "flags": 0}, inside="kvm_run")
class kvm_run_hypercall_mode(Union):
    """Flags; older kernels call them longmode."""

    __slots__ = ()
    _fields_ = [("longmode", u32), ("flags", u64)]


@layout(size=72, offsets={"nr": 0, "args": 8, "ret": 56}, inside="kvm_run")
class kvm_run_hypercall(Structure):
    """KVM_EXIT_HYPERCALL: `ret` is for the VMM to fill."""

    __slots__ = ()
    _anonymous_ = ("mode",)
    _fields_ = [("nr", u64), ("args", u64 * 6), ("ret", u64), ("mode", kvm_run_hypercall_mode)]


@layout(size=16, offsets={"rip": 0, "is_write": 8, "pad": 12}, inside="kvm_run")
class kvm_run_tpr_access(Structure):
    """KVM_EXIT_TPR_ACCESS."""

    __slots__ = ()
    _fields_ = [("rip", u64), ("is_write", u32), ("pad", u32)]


@layout(size=136, offsets={"suberror": 0, "ndata": 4, "data": 8}, inside="kvm_run")
class kvm_run_internal(Structure):
    """KVM_EXIT_INTERNAL_ERROR: `ndata` words of `data`, by `suberror`."""

    __slots__ = ()
    _fields_ = [("suberror", u32), ("ndata", u32), ("data", u64 * 16)]


@layout(
    size=32,
    offsets={"suberror": 0, "ndata": 4, "flags": 8, "insn_size": 16, "insn_bytes": 17},
    inside="kvm_run",
)
class kvm_run_emulation_failure(Structure):
    """KVM_INTERNAL_ERROR_EMULATION: the same place as `internal`.

    `flags` is valid when `ndata` is 1 or more; it says whether the instruction bytes are."""

    __slots__ = ()
    _fields_ = [("suberror", u32), ("ndata", u32), ("flags", u64), ("insn_size", u8), ("insn_bytes", u8 * 15)]


KVM_SYSTEM_EVENT_SHUTDOWN = 1
KVM_SYSTEM_EVENT_RESET = 2
KVM_SYSTEM_EVENT_CRASH = 3
KVM_SYSTEM_EVENT_WAKEUP = 4
KVM_SYSTEM_EVENT_SUSPEND = 5
KVM_SYSTEM_EVENT_SEV_TERM = 6


@layout(size=128, offsets={"flags": 0, "data": 0}, inside="kvm_run")
class kvm_run_system_event_detail(Union):
    """Data; older kernels had only flags."""

    __slots__ = ()
    _fields_ = [("flags", u64), ("data", u64 * 16)]


@layout(size=136, offsets={"type": 0, "ndata": 4}, inside="kvm_run")
class kvm_run_system_event(Structure):
    """KVM_EXIT_SYSTEM_EVENT: `ndata` words of `data`."""

    __slots__ = ()
    _anonymous_ = ("detail",)
    _fields_ = [("type", u32), ("ndata", u32), ("detail", kvm_run_system_event_detail)]


@layout(size=1, offsets={"vector": 0}, inside="kvm_run")
class kvm_run_eoi(Structure):
    """KVM_EXIT_IOAPIC_EOI (split irqchip)."""

    __slots__ = ()
    _fields_ = [("vector", u8)]


KVM_MSR_EXIT_REASON_INVAL = 1 << 0
KVM_MSR_EXIT_REASON_UNKNOWN = 1 << 1
KVM_MSR_EXIT_REASON_FILTER = 1 << 2
KVM_MSR_EXIT_REASON_VALID_MASK = (
    KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER
)


@layout(size=24, offsets={"error": 0, "pad": 1, "reason": 8, "index": 12, "data": 16}, inside="kvm_run")
class kvm_run_msr(Structure):
    """KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR: set `error` to 1 to inject #GP."""

    __slots__ = ()
    _fields_ = [("error", u8), ("pad", u8 * 7), ("reason", u32), ("index", u32), ("data", u64)]


KVM_NOTIFY_CONTEXT_INVALID = 1 << 0


@layout(size=4, offsets={"flags": 0}, inside="kvm_run")
class kvm_run_notify(Structure):
    """KVM_EXIT_NOTIFY."""

    __slots__ = ()
    _fields_ = [("flags", u32)]


KVM_MEMORY_EXIT_FLAG_PRIVATE = 1 << 3


@layout(size=24, offsets={"flags": 0, "gpa": 8, "size": 16}, inside="kvm_run")
class kvm_run_memory_fault(Structure):
    """KVM_EXIT_MEMORY_FAULT: KVM_RUN fails with EFAULT or EHWPOISON.

    kvmapi.uapi.vsm has the longer form of a kernel with VSM."""

    __slots__ = ()
    _fields_ = [*fields(u64, "flags gpa size")]


SYNC_REGS_SIZE_BYTES = 2048


@layout(
    size=256,
    offsets={
        "hw": 0,
        "fail_entry": 0,
        "ex": 0,
        "io": 0,
        "debug": 0,
        "mmio": 0,
        "hypercall": 0,
        "tpr_access": 0,
        "internal": 0,
        "emulation_failure": 0,
        "system_event": 0,
        "eoi": 0,
        "hyperv": 0,
        "msr": 0,
        "xen": 0,
        "notify": 0,
        "memory_fault": 0,
        "padding": 0,
    },
    inside="kvm_run",
)
class kvm_run_exit(Union):
    """The 256 bytes that tell about the exit, by `exit_reason`."""

    __slots__ = ()
    _fields_ = [
        ("hw", kvm_run_hw),
        ("fail_entry", kvm_run_fail_entry),
        ("ex", kvm_run_ex),
        ("io", kvm_run_io),
        ("debug", kvm_run_debug),
        ("mmio", kvm_run_mmio),
        ("hypercall", kvm_run_hypercall),
        ("tpr_access", kvm_run_tpr_access),
        ("internal", kvm_run_internal),
        ("emulation_failure", kvm_run_emulation_failure),
        ("system_event", kvm_run_system_event),
        ("eoi", kvm_run_eoi),
        ("hyperv", kvm_hyperv_exit),
        ("msr", kvm_run_msr),
        ("xen", kvm_xen_exit),
        ("notify", kvm_run_notify),
        ("memory_fault", kvm_run_memory_fault),
        ("padding", u8 * 256),
    ]


@layout(size=2048, offsets={"regs": 0, "padding": 0}, inside="kvm_run")
class kvm_run_s(Union):
    """Registers carried by KVM_CAP_SYNC_REGS."""

    __slots__ = ()
    _fields_ = [("regs", kvm_sync_regs), ("padding", u8 * SYNC_REGS_SIZE_BYTES)]


@layout(
    size=2352,
    offsets={
        "request_interrupt_window": 0,
        "padding1": 2,
        "exit_reason": 8,
        "ready_for_interrupt_injection": 12,
        "flags": 14,
        "cr8": 16,
        "s": 304,
    },
)
class kvm_run(Structure):
    """The start of a vCPU's mapping."""

    __slots__ = ()
    _anonymous_ = ("exit",)
    _fields_ = [
        ("request_interrupt_window", u8),
        ("immediate_exit", u8),
        ("padding1", u8 * 6),
        ("exit_reason", u32),
        ("ready_for_interrupt_injection", u8),
        ("if_flag", u8),
        ("flags", u16),
        ("cr8", u64),
        ("apic_base", u64),
        ("exit", kvm_run_exit),
        ("kvm_valid_regs", u64),
        ("kvm_dirty_regs", u64),
        ("s", kvm_run_s),
    ]
