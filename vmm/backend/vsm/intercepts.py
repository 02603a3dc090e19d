# SPDX-License-Identifier: Apache-2.0
"""`Intercepts`: a VTL is told of what it has not allowed a lower VTL of the same VP, and runs next (TLFS 15.13).

The message goes to SINT0 of the VTL that owns the intercept, whose interrupt then enters it; or, where the owner has
set InterceptPage in HvRegisterVsmPartitionConfig, into its VP assist page, and the owner is entered with that reason.

| what is in the way | then |
|---|---|
| slot of SINT0 in use, SynIC or message page off | no message: the lower VTL goes on, and meets the intercept again |
| SINT0 masked, the local APIC or its TPR refuses | the message is stored; the lower VTL goes on and meets it again |
| InterceptPage without a VP assist page | SINT0 |
| the owner is not enabled on this VP | no message: the lower VTL tries for as long as it has not been |

So nothing is lost, for the lower VTL's state is that before the instruction. It goes on in the usual way, in which a
VP that is asked to leave the guest does.

The owner acts by registers: RIP, PendingEvent0 and what else a higher VTL may write (VSM-112). No EOM is needed for the
next message.

Implements: SYN-007, VSM-080, VSM-100, VSM-101, VSM-102, VSM-103, VSM-104, VSM-105, VSM-106, VSM-107, VSM-112
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from kvmapi import Vcpu
from vmm.backend.emulation.page_walk import Access, TableMemory
from vmm.backend.hyperv import memory_types
from vmm.backend.vsm import guest_address, guest_code, vp_state
from vmm.backend.vsm.scheduler import VpScheduler
from vmm.hv.messages import HvCacheType
from vmm.hvmsr.state import HvState
from vmm.hvmsr.vp_assist import INTERCEPT_MESSAGE_OFFSET
from vmm.synic.messages import PostedMessage
from vmm.vsm.actions import SwitchReason
from vmm.vsm.intercept_messages import (
    InterceptMessage,
    MsrAccess,
    PortAccess,
    memory_intercept,
    msr_intercept,
    port_intercept,
)
from vmm.vsm.intercept_table import READ as READ_ACCESS
from vmm.vsm.intercept_table import WRITE as WRITE_ACCESS
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.partition import VsmPartition
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import EXECUTE, READ, WRITE

INTERCEPT_SINT: Final = 0
"""HV_SYNIC_INTERCEPTION_SINT_INDEX."""
_KINDS: Final = {READ: "read", WRITE: "write", EXECUTE: "execute"}
NOT_TOLD: Final = "not told"
"""Counts intercepts for whose message there was no room: each is made again."""


class Intercepts:
    """A machine's. Everything but the counts: on the thread of the VP, which is outside the guest."""

    causes: Final = ("read", "write", "execute", "hypercall", "msr", "port")
    """The kinds there are."""

    def __init__(self, partition: VsmPartition, state: HvState, memory: Callable[[int], TableMemory]) -> None:
        """memory: with the rights of a VTL. `attach` follows."""
        self._partition = partition
        self._rules = partition.rules
        self._state = state
        self._make_memory = memory
        self._memories: dict[tuple[int, int], TableMemory] = {}
        """By VP and VTL: each is used on one thread only."""
        self._schedulers: Sequence[VpScheduler] = ()
        self.protections: MemoryProtections | None = None
        """None where nothing protects memory."""
        self.counts: list[dict[tuple[int, str], int]] = [{} for _ in partition.vps]
        """By VP: (VTL that was intercepted, kind) -> how often: "read", "write", "execute", "hypercall", "msr", "port",
        and `NOT_TOLD`."""

    def attach(self, schedulers: Sequence[VpScheduler]) -> None:
        """By VP. Before the VPs start."""
        self._schedulers = schedulers

    def reset(self) -> None:
        """Counts begin anew. All VPs are frozen."""
        for counts in self.counts:
            counts.clear()
        self._memories.clear()

    # ---- memory --------------------------------------------------------------------------------------

    def memory(self, vp: int, vtl: int, owner: int, access: MemoryAccess) -> None:
        """See `vmm.vsm.outside.MemoryIntercepts`. Errors: `KvmError`."""
        vcpu = self._schedulers[vp].vtls[vtl].vcpu
        memory = self._memory(vp, vtl)
        told = self._completed(memory, vcpu, access)
        cache_type = _cache_type(memory, vcpu, told)
        message = memory_intercept(vp_state.take(vp, vtl, vcpu), told, cache_type, self._rules)
        self.deliver(vp, vtl, owner, _KINDS[access.wanted], message)

    def hypercall_parameter(self, vp: int, vtl: int, gpa: int, write: bool) -> None:
        """A hypercall of `vtl` could not be carried out since a higher VTL protects a page of its parameters.

        Its registers are as before the call. It is made again if nobody protects the page any more.
        """
        wanted = WRITE if write else READ
        refused = None if self.protections is None else self.protections.refusing(vtl, gpa, 1, wanted)
        if refused is None:
            return
        vcpu = self._schedulers[vp].vtls[vtl].vcpu
        message = memory_intercept(
            vp_state.take(vp, vtl, vcpu),
            MemoryAccess(gpa, wanted),
            int(HvCacheType.WriteBack),
            self._rules,
        )
        self.deliver(vp, vtl, refused.owner, "hypercall", message)

    # ---- ports and MSRs ------------------------------------------------------------------------------

    def port(self, vp: int, vtl: int, access: PortAccess) -> None:
        """`vtl` is before an access to a port. Nobody may be interested any more: it is made then. Errors:
        `KvmError`."""
        kind = WRITE_ACCESS if access.write else READ_ACCESS
        owner = self._partition.intercepts.port_owner(vtl, access.port, access.size, kind)
        if owner is not None:
            state = vp_state.take(vp, vtl, self._schedulers[vp].vtls[vtl].vcpu)
            self.deliver(vp, vtl, owner, "port", port_intercept(state, access))

    def msr(self, vp: int, vtl: int, owner: int, access: MsrAccess) -> None:
        """`vtl` is before an RDMSR or WRMSR that `owner` wants to be told of. Errors: `KvmError`."""
        state = vp_state.take(vp, vtl, self._schedulers[vp].vtls[vtl].vcpu)
        self.deliver(vp, vtl, owner, "msr", msr_intercept(state, access))

    # ---- the instruction -----------------------------------------------------------------------------

    def _memory(self, vp: int, vtl: int) -> TableMemory:
        found = self._memories.get((vp, vtl))
        if found is None:
            found = self._memories[vp, vtl] = self._make_memory(vtl)
        return found

    def _completed(self, memory: TableMemory, vcpu: Vcpu, access: MemoryAccess) -> MemoryAccess:
        """With bytes and length of exactly one instruction, and the virtual address."""
        regs, sregs = vcpu.run.regs, vcpu.run.sregs
        if access.wanted == EXECUTE:
            if self._rules.execute_intercept_branch_length:
                length = guest_code.call_length(memory, regs, sregs) or access.length
                access = access._replace(length=length)
            return guest_address.located(memory, regs, sregs, access, b"")
        code = access.instruction or guest_code.fetch(memory, regs, sregs)
        length = guest_code.length(code, guest_code.bits(regs, sregs))
        if not length and access.instruction:  # what the host told was cut off
            code = guest_code.fetch(memory, regs, sregs)
            length = guest_code.length(code, guest_code.bits(regs, sregs))
        access = access._replace(instruction=code[:length], length=length)
        return guest_address.located(memory, regs, sregs, access, code)

    # ---- delivery ------------------------------------------------------------------------------------

    def deliver(self, vp: int, vtl: int, owner: int, kind: str, message: InterceptMessage) -> bool:
        """Tell `owner` of what `vtl` was about to do, and run it if its local APIC lets it. Errors: `KvmError`.

        False: it was not told. Either way the VP runs next what `scheduler` says; the vCPU of `vtl` is not entered
        in between.
        """
        scheduler = self._schedulers[vp]
        counts = self.counts[vp]
        counts[vtl, kind] = counts.get((vtl, kind), 0) + 1
        if scheduler.counts is not None:
            scheduler.counts.intercepted(vtl, kind)
        state = self._state.vp(vp, owner)
        if (
            state is None
        ):  # what a VTL asks for holds on all VPs, also on those that it has not been enabled on yet
            counts[vtl, NOT_TOLD] = counts.get((vtl, NOT_TOLD), 0) + 1
            scheduler.attend()
            return False
        posted = PostedMessage(*message)
        if self._partition.config(owner).InterceptPage and state.vp_assist.enabled:
            state.vp_assist.write(INTERCEPT_MESSAGE_OFFSET, posted.compose())
            scheduler.switch(scheduler.vp.enter(owner, SwitchReason.INTERCEPT))
            return True
        told = state.synic.deliver_now(INTERCEPT_SINT, posted)
        if not told:
            counts[vtl, NOT_TOLD] = counts.get((vtl, NOT_TOLD), 0) + 1
        scheduler.attend()
        return told


def _cache_type(memory: TableMemory, vcpu: Vcpu, access: MemoryAccess) -> int:
    """HV_CACHE_TYPE of the access. Errors: `KvmError`."""
    if access.gva is None or access.page_walk:
        return int(HvCacheType.WriteBack)
    regs, sregs = vcpu.run.regs, vcpu.run.sregs
    asked = Access(write=access.wanted == WRITE, fetch=access.wanted == EXECUTE, user=sregs.ss.dpl == 3)
    found = guest_code.translate(memory, regs, sregs, access.gva, asked)
    return int(HvCacheType.WriteBack) if found is None else memory_types.of(vcpu, found.pat_index)
