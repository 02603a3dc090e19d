# SPDX-License-Identifier: Apache-2.0
"""asm/kvm.h: the state of one virtual processor, as the KVM_GET_* and KVM_SET_* ioctls of a vCPU carry it."""

from kvmapi.uapi.layout import Structure, fields, flexible_array, layout, u8, u16, u32, u64

DE_VECTOR = 0
DB_VECTOR = 1
BP_VECTOR = 3
OF_VECTOR = 4
BR_VECTOR = 5
UD_VECTOR = 6
NM_VECTOR = 7
DF_VECTOR = 8
TS_VECTOR = 10
NP_VECTOR = 11
SS_VECTOR = 12
GP_VECTOR = 13
PF_VECTOR = 14
MF_VECTOR = 16
AC_VECTOR = 17
MC_VECTOR = 18
XM_VECTOR = 19
VE_VECTOR = 20

KVM_NR_INTERRUPTS = 256

KVM_RUN_X86_SMM = 1 << 0
KVM_RUN_X86_BUS_LOCK = 1 << 1
KVM_RUN_X86_GUEST_MODE = 1 << 2


@layout(size=144, offsets={"rax": 0, "rflags": 136})
class kvm_regs(Structure):
    """KVM_GET_REGS, KVM_SET_REGS: the general registers."""

    __slots__ = ()
    _fields_ = [*fields(u64, "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")]


@layout(size=24, offsets={"base": 0, "limit": 8, "selector": 12, "type": 14, "padding": 23})
class kvm_segment(Structure):
    """A segment register with its hidden part. `limit` is in bytes, whatever `g` says."""

    __slots__ = ()
    _fields_ = [
        ("base", u64),
        ("limit", u32),
        ("selector", u16),
        *fields(u8, "type present dpl db s l g avl unusable padding"),
    ]


@layout(size=16, offsets={"base": 0, "limit": 8, "padding": 10})
class kvm_dtable(Structure):
    """GDTR or IDTR."""

    __slots__ = ()
    _fields_ = [("base", u64), ("limit", u16), ("padding", u16 * 3)]


@layout(size=312, offsets={"cs": 0, "gdt": 192, "cr0": 224, "interrupt_bitmap": 280})
class kvm_sregs(Structure):
    """KVM_GET_SREGS, KVM_SET_SREGS: segments, tables, control registers.

    `interrupt_bitmap` has at most one bit set: the interrupt that waits to be injected."""

    __slots__ = ()
    _fields_ = [
        *fields(kvm_segment, "cs ds es fs gs ss tr ldt"),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        *fields(u64, "cr0 cr2 cr3 cr4 cr8 efer apic_base"),
        ("interrupt_bitmap", u64 * 4),
    ]


@layout(size=320, offsets={"cs": 0, "gdt": 192, "cr0": 224, "pdptrs": 288})
class kvm_sregs2(Structure):
    """KVM_GET_SREGS2, KVM_SET_SREGS2: like kvm_sregs, with the PDPTRs, without the interrupt bitmap."""

    __slots__ = ()
    _fields_ = [
        *fields(kvm_segment, "cs ds es fs gs ss tr ldt"),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        *fields(u64, "cr0 cr2 cr3 cr4 cr8 efer apic_base flags"),
        ("pdptrs", u64 * 4),
    ]


KVM_SREGS2_FLAGS_PDPTRS_VALID = 1


@layout(
    size=416,
    offsets={
        "fpr": 0,
        "fcw": 128,
        "ftwx": 132,
        "last_opcode": 134,
        "last_ip": 136,
        "xmm": 152,
        "mxcsr": 408,
        "pad2": 412,
    },
)
class kvm_fpu(Structure):
    """KVM_GET_FPU, KVM_SET_FPU: x87 and SSE state; `ftwx` is the abridged tag word of FXSAVE."""

    __slots__ = ()
    _fields_ = [
        ("fpr", u8 * 16 * 8),
        ("fcw", u16),
        ("fsw", u16),
        ("ftwx", u8),
        ("pad1", u8),
        ("last_opcode", u16),
        ("last_ip", u64),
        ("last_dp", u64),
        ("xmm", u8 * 16 * 16),
        ("mxcsr", u32),
        ("pad2", u32),
    ]


@layout(size=32, offsets={"exception": 0, "pad": 4, "pc": 8, "dr6": 16, "dr7": 24})
class kvm_debug_exit_arch(Structure):
    """What KVM_EXIT_DEBUG tells: exception number, RIP, DR6 and DR7 at the time."""

    __slots__ = ()
    _fields_ = [("exception", u32), ("pad", u32), *fields(u64, "pc dr6 dr7")]


KVM_GUESTDBG_USE_SW_BP = 0x00010000
KVM_GUESTDBG_USE_HW_BP = 0x00020000
KVM_GUESTDBG_INJECT_DB = 0x00040000
KVM_GUESTDBG_INJECT_BP = 0x00080000
KVM_GUESTDBG_BLOCKIRQ = 0x00100000


@layout(size=64, offsets={"debugreg": 0})
class kvm_guest_debug_arch(Structure):
    """KVM_SET_GUEST_DEBUG: DR0-DR3 in [0..3], DR7 in [7]."""

    __slots__ = ()
    _fields_ = [("debugreg", u64 * 8)]


KVM_VCPUEVENT_VALID_NMI_PENDING = 0x00000001
KVM_VCPUEVENT_VALID_SIPI_VECTOR = 0x00000002
KVM_VCPUEVENT_VALID_SHADOW = 0x00000004
KVM_VCPUEVENT_VALID_SMM = 0x00000008
KVM_VCPUEVENT_VALID_PAYLOAD = 0x00000010
KVM_VCPUEVENT_VALID_TRIPLE_FAULT = 0x00000020

KVM_X86_SHADOW_INT_MOV_SS = 0x01
KVM_X86_SHADOW_INT_STI = 0x02


@layout(
    size=8,
    offsets={"injected": 0, "nr": 1, "has_error_code": 2, "pending": 3, "error_code": 4},
    inside="kvm_vcpu_events",
)
class kvm_vcpu_events_exception(Structure):
    """The exception being delivered or waiting."""

    __slots__ = ()
    _fields_ = [*fields(u8, "injected nr has_error_code pending"), ("error_code", u32)]


@layout(size=4, offsets={"injected": 0, "nr": 1, "soft": 2, "shadow": 3}, inside="kvm_vcpu_events")
class kvm_vcpu_events_interrupt(Structure):
    """The interrupt being delivered; `shadow` takes KVM_X86_SHADOW_*."""

    __slots__ = ()
    _fields_ = [*fields(u8, "injected nr soft shadow")]


@layout(size=4, offsets={"injected": 0, "pending": 1, "masked": 2, "pad": 3}, inside="kvm_vcpu_events")
class kvm_vcpu_events_nmi(Structure):
    """NMI state."""

    __slots__ = ()
    _fields_ = [*fields(u8, "injected pending masked pad")]


@layout(
    size=4, offsets={"smm": 0, "pending": 1, "smm_inside_nmi": 2, "latched_init": 3}, inside="kvm_vcpu_events"
)
class kvm_vcpu_events_smi(Structure):
    """System management mode."""

    __slots__ = ()
    _fields_ = [*fields(u8, "smm pending smm_inside_nmi latched_init")]


@layout(size=1, offsets={"pending": 0}, inside="kvm_vcpu_events")
class kvm_vcpu_events_triple_fault(Structure):
    """A triple fault that waits (KVM_CAP_X86_TRIPLE_FAULT_EVENT)."""

    __slots__ = ()
    _fields_ = [("pending", u8)]


@layout(
    size=64,
    offsets={
        "exception": 0,
        "interrupt": 8,
        "nmi": 12,
        "sipi_vector": 16,
        "smi": 24,
        "triple_fault": 28,
        "reserved": 29,
        "exception_has_payload": 55,
        "exception_payload": 56,
    },
)
class kvm_vcpu_events(Structure):
    """KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS: events waiting or being delivered.

    `flags` takes KVM_VCPUEVENT_VALID_*: which optional members count on SET."""

    __slots__ = ()
    _fields_ = [
        ("exception", kvm_vcpu_events_exception),
        ("interrupt", kvm_vcpu_events_interrupt),
        ("nmi", kvm_vcpu_events_nmi),
        ("sipi_vector", u32),
        ("flags", u32),
        ("smi", kvm_vcpu_events_smi),
        ("triple_fault", kvm_vcpu_events_triple_fault),
        ("reserved", u8 * 26),
        ("exception_has_payload", u8),
        ("exception_payload", u64),
    ]


@layout(size=128, offsets={"db": 0, "dr6": 32, "dr7": 40, "flags": 48, "reserved": 56})
class kvm_debugregs(Structure):
    """KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS: DR0-DR3 in `db`, DR6, DR7."""

    __slots__ = ()
    _fields_ = [("db", u64 * 4), *fields(u64, "dr6 dr7 flags"), ("reserved", u64 * 9)]


@layout(size=4096, offsets={"region": 0})
class kvm_xsave(Structure):
    """KVM_GET_XSAVE, KVM_SET_XSAVE: the XSAVE area in the standard format, at least 4096 bytes.

    With KVM_CAP_XSAVE2 larger than 4096 on the VM, `make_kvm_xsave` gives the rest as `extra`."""

    __slots__ = ()
    _fields_ = [("region", u32 * 1024)]


make_kvm_xsave = flexible_array(kvm_xsave, "extra", u32)

KVM_MAX_XCRS = 16


@layout(size=16, offsets={"xcr": 0, "reserved": 4, "value": 8})
class kvm_xcr(Structure):
    """One extended control register: number and value."""

    __slots__ = ()
    _fields_ = [("xcr", u32), ("reserved", u32), ("value", u64)]


@layout(size=392, offsets={"nr_xcrs": 0, "flags": 4, "xcrs": 8, "padding": 264})
class kvm_xcrs(Structure):
    """KVM_GET_XCRS, KVM_SET_XCRS: `nr_xcrs` registers of `xcrs` are valid."""

    __slots__ = ()
    _fields_ = [("nr_xcrs", u32), ("flags", u32), ("xcrs", kvm_xcr * KVM_MAX_XCRS), ("padding", u64 * 16)]


KVM_SYNC_X86_REGS = 1 << 0
KVM_SYNC_X86_SREGS = 1 << 1
KVM_SYNC_X86_EVENTS = 1 << 2

KVM_SYNC_X86_VALID_FIELDS = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS


@layout(size=520, offsets={"regs": 0, "sregs": 144, "events": 456})
class kvm_sync_regs(Structure):
    """The registers that KVM_CAP_SYNC_REGS carries in kvm_run."""

    __slots__ = ()
    _fields_ = [("regs", kvm_regs), ("sregs", kvm_sregs), ("events", kvm_vcpu_events)]


@layout(
    size=64,
    offsets={"status": 0, "addr": 8, "misc": 16, "mcg_status": 24, "bank": 32, "pad1": 33, "pad2": 40},
)
class kvm_x86_mce(Structure):
    """KVM_X86_SET_MCE: a machine check event for bank `bank`."""

    __slots__ = ()
    _fields_ = [
        *fields(u64, "status addr misc mcg_status"),
        ("bank", u8),
        ("pad1", u8 * 7),
        ("pad2", u64 * 3),
    ]
