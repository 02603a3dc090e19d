# SPDX-License-Identifier: Apache-2.0
"""Which registers a VP's VTLs share, and so what a VTL switch carries over (TLFS 15.11).

`vmm.hv` has what documents say. This module settles the rest: DR6 by the offer, and by `CHOSEN` the registers of which
nobody says anything. What is neither is private: each VTL has a vCPU of its own, and a register that nobody calls
shared shows a lower VTL nothing of a higher one.

Implements: VSM-060, VSM-061, VSM-062, VSM-064, VSM-066
"""

from __future__ import annotations

from typing import Final

from vmm.hv.access import VtlScope
from vmm.hv.registers import HvRegisterName
from vmm.hv.x64_msrs import X64Msr
from vmm.vsm.register_homes import HOMES, Home

_N = HvRegisterName

CHOSEN: Final[dict[int, tuple[VtlScope, str]]] = {
    _N.HvX64RegisterTscDeadline: (VtlScope.PRIVATE, "the timer of the VTL's own local APIC"),
    _N.HvX64RegisterTscAdjust: (VtlScope.PRIVATE, "a write is seen by its VTL's RDTSC alone"),
    _N.HvX64RegisterXss: (VtlScope.PRIVATE, "supervisor state components"),
    _N.HvX64RegisterSCet: (VtlScope.PRIVATE, "supervisor shadow stacks lie in a VTL's own memory"),
    _N.HvX64RegisterPl0Ssp: (VtlScope.PRIVATE, "as S_CET"),
    _N.HvX64RegisterPl1Ssp: (VtlScope.PRIVATE, "as S_CET"),
    _N.HvX64RegisterPl2Ssp: (VtlScope.PRIVATE, "as S_CET"),
    _N.HvX64RegisterInterruptSspTableAddr: (VtlScope.PRIVATE, "as S_CET"),
    _N.HvX64RegisterUCet: (
        VtlScope.PRIVATE,
        "user shadow stacks belong to address spaces, which are private",
    ),
    _N.HvX64RegisterPl3Ssp: (VtlScope.PRIVATE, "as U_CET"),
    _N.HvX64RegisterSpecCtrl: (
        VtlScope.PRIVATE,
        "a lower VTL must not switch a higher one's mitigations off",
    ),
    _N.HvX64RegisterDebugCtl: (VtlScope.PRIVATE, "a lower VTL must not trace a higher one"),
    _N.HvX64RegisterMsrIa32MiscEnable: (
        VtlScope.PRIVATE,
        "a lower VTL must not change a higher one's processor",
    ),
}
"""Scopes that neither TLFS nor its markdown states, each with its reason (VSM-064)."""


def is_shared(register: int, *, dr6_shared: bool) -> bool:
    """Whether a VP has one instance of a register for all its VTLs. An unknown register is not."""
    name = HvRegisterName.of(register)
    if not isinstance(name, HvRegisterName):
        return False
    if name.vtl_scope is VtlScope.SHARED_IF_DR6_SHARED:
        return dr6_shared
    if name.vtl_scope is VtlScope.UNSPECIFIED:
        return CHOSEN.get(register, (VtlScope.PRIVATE, ""))[0] is VtlScope.SHARED
    return name.vtl_scope is VtlScope.SHARED


def switched_registers(*, dr6_shared: bool) -> tuple[HvRegisterName, ...]:
    """The processor registers that a VTL switch carries over and that can be written.

    SSE and AVX state goes as one with all that XSAVE saves (PKRU, AVX-512).
    """
    return tuple(
        name
        for name in HvRegisterName
        if HOMES[name] is Home.PROCESSOR and name.access.writable and is_shared(name, dr6_shared=dr6_shared)
    )


SWITCHED_MSRS: Final = tuple(
    msr for msr in X64Msr if msr.vtl_scope is VtlScope.SHARED and msr.access.writable
)
"""Processor MSRs that the VTLs of a VP share and that can be written: the MTRRs, which are VP registers too, and
MCG_STATUS. Guests write them so seldom that a backend need not look at them at each switch: it can do each write to the
vCPUs of all VTLs."""
