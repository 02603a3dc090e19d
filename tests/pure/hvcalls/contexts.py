# SPDX-License-Identifier: Apache-2.0
"""Initial VP contexts as guests pass them."""

from __future__ import annotations

from typing import Any

from vmm.hv.register_bits import HV_X64_SEGMENT_ATTRIBUTES
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT, HV_X64_SEGMENT_REGISTER, HV_X64_TABLE_REGISTER

CODE64, DATA, TASK, LOCAL_TABLE = 0xA09B, 0xC093, 0x8B, 0x82
FLAT = 0xFFFF_FFFF


def segment(attributes: int, limit: int = FLAT, base: int = 0, selector: int = 8) -> HV_X64_SEGMENT_REGISTER:
    """A segment register by its attributes."""
    return HV_X64_SEGMENT_REGISTER(
        Base=base, Limit=limit, Selector=selector, Attributes=HV_X64_SEGMENT_ATTRIBUTES(attributes)
    )


def context(**changes: Any) -> HV_INITIAL_VP_CONTEXT:
    """A 64-bit kernel's: flat segments, paging on, LMA left to the hypervisor."""
    data = segment(DATA)
    values: dict[str, Any] = {
        "Rip": 0xFFFF_8000_0010_0000,
        "Rsp": 0xFFFF_8000_0020_0000,
        "Rflags": 2,
        "Cs": segment(CODE64),
        "Ds": data,
        "Es": data,
        "Fs": data,
        "Gs": segment(DATA, base=0xFFFF_8000_0030_0000),
        "Ss": data,
        "Tr": segment(TASK, limit=0xFFFF),
        "Ldtr": segment(0, limit=0, selector=0),
        "Idtr": HV_X64_TABLE_REGISTER(Limit=0xFFF, Base=0xFFFF_8000_0040_0000),
        "Gdtr": HV_X64_TABLE_REGISTER(Limit=0x7F, Base=0xFFFF_8000_0050_0000),
        "Efer": 0x100,  # LME
        "Cr0": 0x8001_0033,
        "Cr3": 0x9000,
        "Cr4": 0x6A0,
        "MsrCrPat": 0x0007_0406_0007_0406,
    }
    return HV_INITIAL_VP_CONTEXT(**values | changes)


def opentmk_context() -> HV_INITIAL_VP_CONTEXT:
    """What OTMK's VTL tests pass (VSM-035): no PAT, a TSS of the largest small size."""
    return context(MsrCrPat=0, Tr=segment(TASK, limit=0xFFFF, selector=0))


def kvm_unit_tests_context() -> HV_INITIAL_VP_CONTEXT:
    """What kvm-unit-tests' VSM tests pass (VSM-035): LME and LMA, an LDTR that is there, no PAT."""
    return context(
        Efer=0x500,
        Cr0=0x8001_0001,
        Cr4=0x220,
        MsrCrPat=0,
        Ldtr=segment(LOCAL_TABLE, limit=0, selector=0),
        Tr=segment(TASK, limit=0x67, selector=0x80),
    )


def real_mode_context() -> HV_INITIAL_VP_CONTEXT:
    """A processor as STARTUP begins it, at 0x8000."""
    data = segment(0x93, limit=0xFFFF, selector=0)
    return context(
        Rip=0,
        Cs=segment(0x9B, limit=0xFFFF, base=0x8000, selector=0x800),
        **dict.fromkeys(("Ds", "Es", "Fs", "Gs", "Ss"), data),
        Efer=0,
        Cr0=0x10,
        Cr4=0,
    )


def protected_mode(**changes: Any) -> HV_INITIAL_VP_CONTEXT:
    """A 32-bit kernel's before it turns paging on."""
    values: dict[str, Any] = {
        "Rip": 0x10_0000,
        "Cs": segment(0xC09B),
        "Gs": segment(DATA),
        "Efer": 0,
        "Cr0": 0x11,
        "Cr4": 0,
    }
    return context(**values | changes)
