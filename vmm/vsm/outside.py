# SPDX-License-Identifier: Apache-2.0
"""What the VTL state machine needs of the rest of the VMM, as small protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from vmm.hv.register_bits import HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hv.status import HvStatus
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT
from vmm.hvcalls.outside import VpContext
from vmm.hypercall.call import Reply
from vmm.vsm.actions import SwitchVtl


class AssistPage(Protocol):
    """The VP assist page of one VTL of one VP: `vmm.hvmsr.vp_assist.VpAssistPage` is one."""

    vina_asserted: bool

    @property
    def enabled(self) -> bool:
        """Whether the guest has placed it."""

    def set_entry_reason(self, reason: int) -> None:
        """HV_VTL_ENTRY_REASON; nothing where the page is not enabled."""

    def return_registers(self) -> tuple[int, int]:
        """(RAX, RCX) of a 64-bit VTL."""

    def return_registers_x86(self) -> tuple[int, int, int]:
        """(EAX, ECX, EDX) of a 32-bit VTL."""


class SyntheticMsrs(Protocol):
    """The synthetic MSRs of one VTL of one VP: `vmm.hvmsr.msr_file.MsrFile` is one."""

    def value(self, msr: int) -> int | None:
        """What RDMSR would give, without what it does beside; None for #GP."""

    def put(self, msr: int, value: int) -> HvStatus:
        """WRMSR, or why it would be #GP: ACCESS_DENIED, INVALID_PARAMETER where the MSR is only read,
        INVALID_REGISTER_VALUE."""


class VpRegisters(Protocol):
    """The registers of a VP's vCPUs, one for each VTL, while the VP runs no guest code.

    Values are those of HV_REGISTER_VALUE as one number, 128 bits at most.
    """

    def read(self, vtl: int, register: int) -> int | None:
        """None where this processor model does not have it."""

    def write(self, vtl: int, register: int, value: int) -> HvStatus:
        """INVALID_PARAMETER where the model does not have it, INVALID_REGISTER_VALUE for a value that it refuses. A
        write has no other effect, but HvRegisterPendingEvent0 ends a halt."""


class VsmServices(Protocol):
    """The backend. Thread-safe."""

    def add_vtl(self, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        """Make what `vtl` of a VP needs: vCPU, local APIC, `HvState.enable_vtl`; give the vCPU its context. What the
        context does not name is as after a reset (VSM-033), but the local APIC is software enabled (VSM-034).

        An `HvStatus`: SUCCESS, INVALID_REGISTER_VALUE for what the processor model does not have, INSUFFICIENT_MEMORY;
        or `AGAIN`. Called with the partition's lock held: must not wait for another VP.
        """

    def start_vtl(self, caller_vp: int, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        """Give the vCPU of `vtl`, which is not running, this context and let it leave wait-for-startup.

        Called on the thread of `caller_vp`, without a lock. An `HvStatus` as for `add_vtl`, INVALID_VP_STATE where
        somebody else was faster, or `AGAIN`.
        """

    def assist_page(self, vp: int, vtl: int) -> AssistPage:
        """Asked for once, behind `add_vtl` (for VTL0: when the partition is made)."""

    def synthetic_msrs(self, vp: int, vtl: int) -> SyntheticMsrs:
        """Asked for once, behind `add_vtl` (for VTL0: when the partition is made)."""

    def code_page_offsets(self, vtl: int, bits_64: bool) -> int:
        """HvRegisterVsmCodePageOffsets: where that VTL's hypercall page has its VTL call and return entries, for a
        reader in 64-bit or 32-bit mode (VSM-005)."""

    def constant_register(self, register: int) -> int | None:
        """The value of a VP register that never changes: a copy of a CPUID leaf (EAX lowest), a clock's frequency. None
        where there is none."""

    def visit(self, caller_vp: int, vp: int, work: Callable[[VpRegisters], Reply]) -> Reply | None:
        """Have `work` done on the thread of `vp`, between two entries into the guest, and return what it returns.

        Called on the thread of `caller_vp`, which may be the same VP, without a lock. None: it was not done, and will
        not be. The call is then made again. So no VP waits for long while it could be waited for itself.
        """

    def ports_can_be_seen(self, first: int, last: int) -> bool:
        """Whether accesses of lower VTLs to all ports from `first` to `last` leave the guest for the VMM."""

    def ports_changed(self, caller_vp: int) -> bool:
        """The intercepted ports (`vmm.vsm.intercept_table`) are others now; whether all VPs know. Called on the thread
        of `caller_vp`, without a lock. False: not yet, the call is then made again."""

    def msrs_changed(self) -> HvStatus:
        """The intercepted MSRs are others now: have their accesses leave the guest. In force when it returns.

        SUCCESS, or INSUFFICIENT_MEMORY where the host cannot tell so many apart: then what was in force is. Called with
        the partition's lock held."""

    def wake(self, vp: int) -> None:
        """Something about the VP has changed: its thread is to ask `next_step` before it runs anything again."""


class Refused(NamedTuple):
    """Who does not allow an access, and the first byte that it does not allow."""

    owner: int
    gpa: int


class Protections(Protocol):
    """What lower VTLs may do with memory: `vmm.vsm.protections.MemoryProtections` is one. Thread-safe.

    A machine without it refuses every setting that restricts a VTL.
    """

    def configure(
        self, vtl: int, old: HV_REGISTER_VSM_PARTITION_CONFIG, new: HV_REGISTER_VSM_PARTITION_CONFIG
    ) -> int:
        """Apply what `new` asks of `vtl`'s protections: an `HvStatus`, or `AGAIN`. Anything but SUCCESS leaves
        everything as it was. Called with the partition's lock held: must not wait for another VP."""

    def modify(
        self, caller_vtl: int, target_vtl: int, map_flags: int, gpns: Sequence[int]
    ) -> tuple[HvStatus, int]:
        """HvCallModifyVtlProtectionMask of a VTL that has EnableVtlProtection: the status, and how many pages have the
        rights. target_vtl: a VTL below the caller, or the caller's own: all below it."""

    def refusing(self, vtl: int, gpa: int, size: int, wanted: int) -> Refused | None:
        """Who keeps `vtl` from an access that needs all the rights in `wanted`, None if nobody does."""

    def reset(self) -> None:
        """Nobody restricts anything. All VPs are frozen."""


class RightsChange(NamedTuple):
    """From now on a VTL has `rights` (`vmm.vsm.rights`) to `pages` guest pages from page number `gpn` on."""

    gpn: int
    pages: int
    rights: int


class Enforcement(Protocol):
    """What makes the processors keep to the rights of VTLs. Thread-safe.

    It knows the rights that it was told last, and that a page it was never told of has all of them. Where an overlay
    hides a page, the page's rights count again when it is seen again.
    """

    def apply(self, vtl: int, changes: Sequence[RightsChange]) -> HvStatus:
        """Bring new rights of `vtl` into force, on all VPs: from the return on, none of them, and no translation kept
        anywhere, allows more. Pages lie in RAM and in one change only.

        SUCCESS, or INSUFFICIENT_MEMORY where the host refuses: then the old rights are in force.
        Called with the lock of the protections held: must not wait for a VP.
        """

    def reset(self) -> None:
        """All VTLs have all rights. All VPs are frozen."""


class MemoryAccess(NamedTuple):
    """An access of a VTL to guest memory that a higher VTL has not allowed. Nothing of it has happened."""

    gpa: int
    """The first byte refused; where the host knows the page only, the page's first."""
    wanted: int
    """READ, WRITE or EXECUTE (`vmm.vsm.rights`): exactly one. An access that reads and writes is a WRITE."""
    gva: int | None = None
    """Its guest virtual address, None where it is not known, or where there is none (a hypercall's parameters)."""
    instruction: bytes = b""
    """The instruction's bytes, as far as they are known; none for EXECUTE."""
    length: int = 0
    """Of the instruction in bytes, 0 when unknown."""
    page_walk: bool = False
    """The processor's own, in a walk of page tables: `gva` is the address that was translated."""


class MemoryIntercepts(Protocol):
    """Who tells a VTL of accesses that it has not allowed."""

    def memory(self, vp: int, vtl: int, owner: int, access: MemoryAccess) -> None:
        """`vtl` of VP `vp` has made `access`, which `owner` refuses: tell that one, and run it next where it will run.

        On the VP's thread, which is outside the guest; RIP is at the instruction, and all registers are as before it.
        `vtl` makes the access again when it runs again, unless its registers say otherwise by then.
        """


class VsmCaller(VpContext, Protocol):
    """A caller of the hypercalls in this package. Used on its VP's thread."""

    switch: SwitchVtl | None
    """Where the handlers of VTL call and return put the switch; taken by the backend at `Outcome.VTL_SWITCH`."""

    @property
    def bits_64(self) -> bool:
        """Whether the caller runs in 64-bit mode (CR0.PE and EFER.LMA)."""
