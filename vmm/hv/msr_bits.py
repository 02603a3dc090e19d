# SPDX-License-Identifier: Apache-2.0
"""Synthetic MSRs whose value is made of bits (TLFS appendix C and the chapters named)."""

from __future__ import annotations

from vmm.hv.bits import Bits, bit, bits, reserved, rsvdp, rsvdz


class HV_X64_MSR_GUEST_OS_ID_CONTENTS(Bits):
    """Open source form of the guest's identity (TLFS 2.6, HCP-001). The content is not validated."""

    BuildNumber = bits(0, 16)
    Version = bits(16, 32)
    OsId = bits(48, 8)
    OsType = bits(56, 7)
    """1 Linux, 2 FreeBSD, 3 Xen, 4 illumos."""
    OpenSource = bit(63)


class HV_X64_MSR_GUEST_OS_ID_CONTENTS_PROPRIETARY(Bits):
    """The other form, with bit 63 clear (TLFS 2.6)."""

    BuildNumber = bits(0, 16)
    ServiceVersion = bits(16, 8)
    MinorVersion = bits(24, 8)
    MajorVersion = bits(32, 8)
    OsId = bits(40, 8)
    VendorId = bits(48, 15)
    OpenSource = bit(63)


class HV_X64_MSR_HYPERCALL_CONTENTS(Bits):
    """Where the hypercall page lies (TLFS 3.13, HCP-003)."""

    Enable = bit(0)
    Locked = bit(1)
    RsvdP = rsvdp(2, 10)
    GpaPageNumber = bits(12, 52)


class HV_X64_MSR_VP_INDEX_CONTENTS(Bits):
    """TLFS 7.8.1."""

    VpIndex = bits(0, 32)
    Reserved = reserved(32, 32)


class HV_X64_MSR_RESET_CONTENTS(Bits):
    """TLFS appendix C gives no bits; KVM takes bit 0 (MISC-004)."""

    Reset = bit(0)
    Reserved = reserved(1, 63)


class HV_X64_MSR_OVERLAY_PAGE_CONTENTS(Bits):
    """Where an overlay page lies: reference TSC page, VP assist page, SIEFP, SIMP (TLFS 5.2, 11.8, 12.7)."""

    Enable = bit(0)
    RsvdP = rsvdp(1, 11)
    GpaPageNumber = bits(12, 52)


class HV_X64_MSR_NPIEP_CONFIG_CONTENTS(Bits):
    """Instructions kept from user mode (TLFS 8.12, MISC-006)."""

    PreventSgdt = bit(0)
    PreventSidt = bit(1)
    PreventSldt = bit(2)
    PreventStr = bit(3)
    RsvdZ = rsvdz(4, 60)


class HV_X64_MSR_EOI_CONTENTS(Bits):
    """TLFS 10.2. The high half is ignored: Windows' VTL1 writes non-zero there (WIN-005)."""

    EoiValue = bits(0, 32)
    Reserved = reserved(32, 32)


class HV_X64_MSR_ICR_CONTENTS(Bits):
    """The local APIC's interrupt command register (TLFS 10.2)."""

    IcrLow = bits(0, 32)
    IcrHigh = bits(32, 32)


class HV_X64_MSR_TPR_CONTENTS(Bits):
    """The local APIC's task priority (TLFS 10.2)."""

    Tpr = bits(0, 8)
    Reserved = reserved(8, 56)


class HV_X64_MSR_SCONTROL_CONTENTS(Bits):
    """TLFS 11.8.1."""

    Enable = bit(0)
    RsvdP = rsvdp(1, 63)


class HV_X64_MSR_SVERSION_CONTENTS(Bits):
    """TLFS 11.8.2."""

    Version = bits(0, 32)
    Reserved = reserved(32, 32)


class HV_X64_MSR_SINT_CONTENTS(Bits):
    """A synthetic interrupt source (TLFS 11.8.5, SYN-004); AsIntercept and Proxy are Linux's names."""

    Vector = bits(0, 8)
    RsvdP0 = rsvdp(8, 8)
    Masked = bit(16)
    AutoEoi = bit(17)
    Polling = bit(18)
    AsIntercept = bit(19)
    Proxy = bit(20)
    RsvdP1 = rsvdp(21, 43)


class HV_X64_MSR_STIMER_CONFIG(Bits):
    """A synthetic timer (TLFS 12.5)."""

    Enabled = bit(0)
    Periodic = bit(1)
    Lazy = bit(2)
    AutoEnable = bit(3)
    ApicVector = bits(4, 8)
    DirectMode = bit(12)
    ReservedZ0 = rsvdz(13, 3)
    SINTx = bits(16, 4)
    ReservedZ1 = rsvdz(20, 44)


class HV_CRASH_CTL_REG_CONTENTS(Bits):
    """Read: the actions on offer; write: the actions to take (TLFS 4.3, MISC-002)."""

    Reserved = reserved(0, 58)
    PreOSId = bits(58, 3)
    NoCrashDump = bit(61)
    CrashMessage = bit(62)
    CrashNotify = bit(63)


class HV_REENLIGHTENMENT_CONTROL(Bits):
    """The interrupt that announces a migration (TLFS 12.8)."""

    Vector = bits(0, 8)
    RsvdZ0 = rsvdz(8, 8)
    Enabled = bit(16)
    RsvdZ1 = rsvdz(17, 15)
    TargetVp = bits(32, 32)


class HV_TSC_EMULATION_CONTROL(Bits):
    """TLFS 12.8."""

    Enabled = bit(0)
    RsvdZ = rsvdz(1, 63)


class HV_TSC_EMULATION_STATUS(Bits):
    """TLFS 12.8."""

    InProgress = bit(0)
    RsvdP = rsvdp(1, 63)


class HV_X64_MSR_UNHALTED_TIMER_CONFIG(Bits):
    """TLFS 12.6."""

    Vector = bits(0, 8)
    Enabled = bit(8)
    RsvdZ = rsvdz(9, 55)


class HV_X64_MSR_TSC_INVARIANT(Bits):
    """Linux: show the invariant TSC bit in CPUID 0x80000007."""

    ExposeInvariantTsc = bit(0)
    Reserved = reserved(1, 63)
