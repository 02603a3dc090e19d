# SPDX-License-Identifier: Apache-2.0
"""linux/kvm.h: arguments of vCPU ioctls, and of those that a vCPU and a VM share."""

from kvmapi.uapi.layout import Structure, fields, flexible_array, layout, u8, u32, u64
from kvmapi.uapi.x86_vcpu import kvm_guest_debug_arch


@layout(
    size=24,
    offsets={
        "linear_address": 0,
        "physical_address": 8,
        "valid": 16,
        "writeable": 17,
        "usermode": 18,
        "pad": 19,
    },
)
class kvm_translation(Structure):
    """KVM_TRANSLATE: the guest physical address behind `linear_address`."""

    __slots__ = ()
    _fields_ = [
        ("linear_address", u64),
        ("physical_address", u64),
        *fields(u8, "valid writeable usermode"),
        ("pad", u8 * 5),
    ]


@layout(size=4, offsets={"irq": 0})
class kvm_interrupt(Structure):
    """KVM_INTERRUPT: inject vector `irq` (no in-kernel irqchip)."""

    __slots__ = ()
    _fields_ = [("irq", u32)]


@layout(size=4, offsets={"len": 0})
class kvm_signal_mask(Structure):
    """KVM_SET_SIGNAL_MASK: `len` bytes of signal mask follow (8 on x86-64)."""

    __slots__ = ()
    _fields_ = [("len", u32)]


make_kvm_signal_mask = flexible_array(kvm_signal_mask, "sigset", u8)


@layout(size=40, offsets={"enabled": 0, "flags": 4, "reserved": 8})
class kvm_tpr_access_ctl(Structure):
    """KVM_TPR_ACCESS_REPORTING: 1 turns KVM_EXIT_TPR_ACCESS on."""

    __slots__ = ()
    _fields_ = [("enabled", u32), ("flags", u32), ("reserved", u32 * 8)]


@layout(size=8, offsets={"vapic_addr": 0})
class kvm_vapic_addr(Structure):
    """KVM_SET_VAPIC_ADDR: guest physical address of the virtual APIC page."""

    __slots__ = ()
    _fields_ = [("vapic_addr", u64)]


KVM_MP_STATE_RUNNABLE = 0
KVM_MP_STATE_UNINITIALIZED = 1
KVM_MP_STATE_INIT_RECEIVED = 2
KVM_MP_STATE_HALTED = 3
KVM_MP_STATE_SIPI_RECEIVED = 4
KVM_MP_STATE_STOPPED = 5
KVM_MP_STATE_CHECK_STOP = 6
KVM_MP_STATE_OPERATING = 7
KVM_MP_STATE_LOAD = 8
KVM_MP_STATE_AP_RESET_HOLD = 9
KVM_MP_STATE_SUSPENDED = 10


@layout(size=4, offsets={"mp_state": 0})
class kvm_mp_state(Structure):
    """KVM_GET_MP_STATE, KVM_SET_MP_STATE: KVM_MP_STATE_*."""

    __slots__ = ()
    _fields_ = [("mp_state", u32)]


KVM_GUESTDBG_ENABLE = 0x00000001
KVM_GUESTDBG_SINGLESTEP = 0x00000002


@layout(size=72, offsets={"control": 0, "pad": 4, "arch": 8})
class kvm_guest_debug(Structure):
    """KVM_SET_GUEST_DEBUG: KVM_GUESTDBG_* in `control`."""

    __slots__ = ()
    _fields_ = [("control", u32), ("pad", u32), ("arch", kvm_guest_debug_arch)]


KVM_X86_DISABLE_EXITS_MWAIT = 1 << 0
KVM_X86_DISABLE_EXITS_HLT = 1 << 1
KVM_X86_DISABLE_EXITS_PAUSE = 1 << 2
KVM_X86_DISABLE_EXITS_CSTATE = 1 << 3
KVM_X86_DISABLE_VALID_EXITS = (
    KVM_X86_DISABLE_EXITS_MWAIT
    | KVM_X86_DISABLE_EXITS_HLT
    | KVM_X86_DISABLE_EXITS_PAUSE
    | KVM_X86_DISABLE_EXITS_CSTATE
)


@layout(size=104, offsets={"cap": 0, "flags": 4, "args": 8, "pad": 40})
class kvm_enable_cap(Structure):
    """KVM_ENABLE_CAP: `args` by capability."""

    __slots__ = ()
    _fields_ = [("cap", u32), ("flags", u32), ("args", u64 * 4), ("pad", u8 * 64)]


KVM_CLOCK_TSC_STABLE = 2
KVM_CLOCK_REALTIME = 1 << 2
KVM_CLOCK_HOST_TSC = 1 << 3


@layout(size=48, offsets={"clock": 0, "flags": 8, "pad0": 12, "realtime": 16, "host_tsc": 24, "pad": 32})
class kvm_clock_data(Structure):
    """KVM_GET_CLOCK, KVM_SET_CLOCK: kvmclock in ns, with the host's time when `flags` says so."""

    __slots__ = ()
    _fields_ = [
        ("clock", u64),
        ("flags", u32),
        ("pad0", u32),
        ("realtime", u64),
        ("host_tsc", u64),
        ("pad", u32 * 4),
    ]


KVM_REG_ARCH_MASK = 0xFF00000000000000
KVM_REG_GENERIC = 0x0000000000000000
KVM_REG_X86 = 0x2000000000000000
KVM_REG_SIZE_SHIFT = 52
KVM_REG_SIZE_MASK = 0x00F0000000000000
KVM_REG_SIZE_U8 = 0x0000000000000000
KVM_REG_SIZE_U16 = 0x0010000000000000
KVM_REG_SIZE_U32 = 0x0020000000000000
KVM_REG_SIZE_U64 = 0x0030000000000000
KVM_REG_SIZE_U128 = 0x0040000000000000
KVM_REG_SIZE_U256 = 0x0050000000000000
KVM_REG_SIZE_U512 = 0x0060000000000000
KVM_REG_SIZE_U1024 = 0x0070000000000000
KVM_REG_SIZE_U2048 = 0x0080000000000000


@layout(size=8, offsets={"n": 0})
class kvm_reg_list(Structure):
    """KVM_GET_REG_LIST: `n` register ids follow."""

    __slots__ = ()
    _fields_ = [("n", u64)]


make_kvm_reg_list = flexible_array(kvm_reg_list, "reg", u64)


@layout(size=16, offsets={"id": 0, "addr": 8})
class kvm_one_reg(Structure):
    """KVM_GET_ONE_REG, KVM_SET_ONE_REG: register `id`, value at address `addr`."""

    __slots__ = ()
    _fields_ = [("id", u64), ("addr", u64)]


KVM_BUS_LOCK_DETECTION_OFF = 1 << 0
KVM_BUS_LOCK_DETECTION_EXIT = 1 << 1
KVM_PMU_CAP_DISABLE = 1 << 0
KVM_X86_NOTIFY_VMEXIT_ENABLED = 1 << 0
KVM_X86_NOTIFY_VMEXIT_USER = 1 << 1
