# SPDX-License-Identifier: Apache-2.0
"""Starting a VP with HvCallStartVirtualProcessor (`vmm.hvcalls.start.VpStarter`).

A VP that can be started waits in the kernel for its INIT or STARTUP interrupt. Its own thread gives it its registers
and makes it runnable; everything that the context does not name stays as after INIT.

Implements: VP-002
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kvmapi import KvmError, Vcpu
from kvmapi.uapi import kvm as k
from vmm.backend.hyperv.errands import Errands
from vmm.backend.hyperv.register_access import copy, put_segment, put_table
from vmm.backend.vp import VirtualProcessor
from vmm.hv.status import HvStatus
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT
from vmm.hvcalls.register_values import segment_number, table_number
from vmm.hvmsr.state import HvState
from vmm.hypercall.call import AGAIN

WAITING: Final = frozenset({k.KVM_MP_STATE_UNINITIALIZED, k.KVM_MP_STATE_INIT_RECEIVED})
_MSR_PAT: Final = 0x277
_SEGMENTS: Final = {
    "Cs": "cs",
    "Ds": "ds",
    "Es": "es",
    "Fs": "fs",
    "Gs": "gs",
    "Ss": "ss",
    "Tr": "tr",
    "Ldtr": "ldt",
}
_TABLES: Final = {"Idtr": "idt", "Gdtr": "gdt"}
_CONTROLS: Final = {"Cr0": "cr0", "Cr3": "cr3", "Cr4": "cr4", "Efer": "efer"}
_GENERAL: Final = {"Rip": "rip", "Rsp": "rsp", "Rflags": "rflags"}


class VpStarts:
    """A machine's VPs. Thread-safe; see the package for threads."""

    def __init__(self, processors: Sequence[VirtualProcessor], errands: Errands, state: HvState) -> None:
        self._processors = processors
        self._errands = errands
        self._state = state

    def has_vp(self, vp: int) -> bool:
        """Whether a VP has this index."""
        return vp < len(self._processors)

    def has_vtl(self, vp: int, vtl: int) -> bool:
        """Whether `vtl` is enabled on the VP."""
        return self._state.vp(vp, vtl) is not None

    def start_denied(self, vp: int, caller_vtl: int) -> bool:
        """False: with VTL0 alone nobody stands above the caller."""
        return False

    def start(self, caller: int, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        """Let `vp` begin with `context`. Errors: `KvmError`."""
        vcpu = self._processors[vp].vcpu
        status = self._errands.ask(caller, vp, lambda: begin(vcpu, context))
        return AGAIN if status is None else int(status)


def begin(vcpu: Vcpu, context: HV_INITIAL_VP_CONTEXT) -> HvStatus:
    """Give a waiting vCPU its registers and let it run, on its VP's thread."""
    if vcpu.get_mp_state() not in WAITING:
        return HvStatus.INVALID_VP_STATE
    try:
        load(vcpu, context)
    except KvmError:  # KVM checks what the processor model would check
        return HvStatus.INVALID_REGISTER_VALUE
    vcpu.set_mp_state(k.KVM_MP_STATE_RUNNABLE)
    return HvStatus.SUCCESS


def load(vcpu: Vcpu, context: HV_INITIAL_VP_CONTEXT) -> None:
    """Put a context (`vmm.hvcalls.initial_context.settled_context`) into a vCPU outside of the guest.

    Errors: `KvmError`, with segment and control registers as they were.

    Implements: VSM-027
    """
    sregs = vcpu.get_sregs()
    for field, name in _CONTROLS.items():
        setattr(sregs, name, getattr(context, field))
    for field, name in _SEGMENTS.items():
        put_segment(getattr(sregs, name), segment_number(getattr(context, field)))
    for field, name in _TABLES.items():
        put_table(getattr(sregs, name), table_number(getattr(context, field)))
    vcpu.set_sregs(sregs)
    vcpu.set_msrs([(_MSR_PAT, context.MsrCrPat)])
    regs = vcpu.get_regs()
    for field, name in _GENERAL.items():
        setattr(regs, name, getattr(context, field))
    vcpu.set_regs(regs)
    # Who looks at the synchronised registers before the next exit shall see these.
    copy(vcpu.run.sregs, sregs)
    copy(vcpu.run.regs, regs)
