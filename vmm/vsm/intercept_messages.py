# SPDX-License-Identifier: Apache-2.0
"""The messages that tell a VTL of an intercept: from the state of the VP to their payload (TLFS 13.2; hvdef).

All describe the VP before the intercepted instruction, so that it can be made again, skipped or emulated. Where the
profiles differ (`vmm.vsm.profile`), memory intercepts do; the others are those of hvdef in both.

Implements: VSM-108, VSM-109, VSM-110, VSM-117, VSM-121, WIN-009
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vmm.hv.messages import (
    HV_X64_INSTRUCTION_LENGTH,
    HV_X64_INTERCEPT_MESSAGE_HEADER,
    HV_X64_IO_PORT_ACCESS_INFO,
    HV_X64_IO_PORT_INTERCEPT_MESSAGE,
    HV_X64_MEMORY_ACCESS_INFO,
    HV_X64_MEMORY_INTERCEPT_MESSAGE,
    HV_X64_MSR_INTERCEPT_MESSAGE,
    HV_X64_VP_EXECUTION_STATE,
    HvInterceptAccessType,
    HvMessageType,
)
from vmm.hv.vp_context import HV_X64_SEGMENT_REGISTER
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.profile import Rules
from vmm.vsm.rights import EXECUTE, READ, WRITE

INSTRUCTION_BYTES: Final = 16
"""Room for an instruction's bytes in each message."""
_RFLAGS_RF: Final = 1 << 16
_CR0_PE, _CR0_AM = 1 << 0, 1 << 18
_EFER_LMA: Final = 1 << 10
_LONGEST: Final = 15
_KINDS: Final = {
    READ: int(HvInterceptAccessType.Read),
    WRITE: int(HvInterceptAccessType.Write),
    EXECUTE: int(HvInterceptAccessType.Execute),
}


class VpState(NamedTuple):
    """A VP in one of its VTLs, between two instructions."""

    vp: int
    vtl: int
    cpl: int
    rip: int
    rflags: int
    cr0: int
    cr8: int
    efer: int
    cs: HV_X64_SEGMENT_REGISTER
    ds: HV_X64_SEGMENT_REGISTER
    es: HV_X64_SEGMENT_REGISTER
    ss: HV_X64_SEGMENT_REGISTER
    general: tuple[int, ...]
    """RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15."""
    debug_active: bool = False
    """A breakpoint of DR7 is on."""
    interruption_pending: bool = False
    """An event was being delivered: HvRegisterPendingInterruption has it."""
    interrupt_shadow: bool = False


class PortAccess(NamedTuple):
    """IN, OUT, INS or OUTS, which has had no effect yet."""

    port: int
    size: int
    """In bytes: 1, 2 or 4."""
    write: bool
    string: bool = False
    rep: bool = False
    instruction: bytes = b""
    length: int = 0
    """Of the instruction in bytes."""


class MsrAccess(NamedTuple):
    """RDMSR or WRMSR, which has had no effect yet. EDX:EAX are in the VP's registers."""

    msr: int
    write: bool
    length: int = 2


class InterceptMessage(NamedTuple):
    """HV_MESSAGE's type and payload."""

    type: int
    payload: bytes


def _header(
    state: VpState, kind: int, length: int, *, rflags: int | None = None, cr0_am: bool = True
) -> HV_X64_INTERCEPT_MESSAGE_HEADER:
    return HV_X64_INTERCEPT_MESSAGE_HEADER(
        VpIndex=state.vp,
        InstructionLength=HV_X64_INSTRUCTION_LENGTH.make(
            InstructionLength=min(length, _LONGEST), Cr8=state.cr8 & 0xF
        ),
        InterceptAccessType=kind,
        ExecutionState=HV_X64_VP_EXECUTION_STATE.make(
            Cpl=state.cpl,
            Cr0Pe=bool(state.cr0 & _CR0_PE),
            Cr0Am=bool(cr0_am and state.cr0 & _CR0_AM),
            EferLma=bool(state.efer & _EFER_LMA),
            DebugActive=state.debug_active,
            InterruptionPending=state.interruption_pending,
            Vtl=state.vtl,
            InterruptShadow=state.interrupt_shadow,
        ),
        CsSegment=state.cs,
        Rip=state.rip,
        Rflags=state.rflags if rflags is None else rflags,
    )


def memory_intercept(state: VpState, access: MemoryAccess, cache_type: int, rules: Rules) -> InterceptMessage:
    """HvMessageTypeGpaIntercept. cache_type: HV_CACHE_TYPE of the access.

    `access.length` and `access.instruction` are those of exactly one instruction; for EXECUTE the length is that of
    the control transfer that led there, which only one profile tells.
    """
    fetch = access.wanted == EXECUTE
    length = access.length if not fetch or rules.execute_intercept_branch_length else 0
    code = b"" if fetch else access.instruction[:INSTRUCTION_BYTES]
    gva = access.gva if rules.intercept_has_gva else None
    header = _header(
        state,
        _KINDS[access.wanted],
        length,
        rflags=state.rflags | _RFLAGS_RF if rules.intercept_sets_rf else None,
        cr0_am=rules.intercept_has_am,
    )
    message = HV_X64_MEMORY_INTERCEPT_MESSAGE(
        header,
        cache_type,
        len(code),
        HV_X64_MEMORY_ACCESS_INFO.make(
            GvaValid=gva is not None, GvaGpaValid=gva is not None and not access.page_walk
        ),
        state.cr8,
        gva or 0,
        access.gpa,
        code.ljust(INSTRUCTION_BYTES, b"\0"),
        state.ds,
        state.ss,
        *state.general,
    )
    return InterceptMessage(int(HvMessageType.HvMessageTypeGpaIntercept), message.pack())


def msr_intercept(state: VpState, access: MsrAccess) -> InterceptMessage:
    """HvMessageTypeMsrIntercept."""
    kind = HvInterceptAccessType.Write if access.write else HvInterceptAccessType.Read
    message = HV_X64_MSR_INTERCEPT_MESSAGE(
        _header(state, int(kind), access.length), access.msr, state.general[2], state.general[0]
    )
    return InterceptMessage(int(HvMessageType.HvMessageTypeMsrIntercept), message.pack())


def port_intercept(state: VpState, access: PortAccess) -> InterceptMessage:
    """HvMessageTypeX64IoPortIntercept."""
    kind = HvInterceptAccessType.Write if access.write else HvInterceptAccessType.Read
    code = access.instruction[:INSTRUCTION_BYTES]
    message = HV_X64_IO_PORT_INTERCEPT_MESSAGE(
        _header(state, int(kind), access.length),
        access.port,
        HV_X64_IO_PORT_ACCESS_INFO.make(AccessSize=access.size, StringOp=access.string, RepPrefix=access.rep),
        len(code),
        state.general[0],
        code.ljust(INSTRUCTION_BYTES, b"\0"),
        state.ds,
        state.es,
        state.general[1],
        state.general[6],
        state.general[7],
    )
    return InterceptMessage(int(HvMessageType.HvMessageTypeX64IoPortIntercept), message.pack())
