# SPDX-License-Identifier: Apache-2.0
"""`InterceptTable`: which port and MSR accesses of lower VTLs each VTL wants to be told of.

| asked for by | where it holds |
|---|---|
| HvCallInstallIntercept: ports, MSRs by number, MSRs that the processor does not know | all VPs |
| HvX64RegisterCrInterceptControl and its masks: MSRs | the VP |

Of several VTLs that want an access the lowest is told (VSM-106).

Implements: VSM-106, VSM-113, VSM-114, VSM-115, VSM-119
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from vmm.hv.constants import HV_NUM_VTLS_ARCHITECTURAL
from vmm.hv.register_bits import HV_REGISTER_CR_INTERCEPT_CONTROL

READ: Final = 1 << 0
WRITE: Final = 1 << 1
PORTS: Final = 0x10000
Control = HV_REGISTER_CR_INTERCEPT_CONTROL

MISC_ENABLE: Final = 0x1A0
CONTROLS: Final[dict[int, tuple[tuple[int, ...], int]]] = {
    Control.IA32MiscEnableRead.mask: ((MISC_ENABLE,), READ),
    Control.IA32MiscEnableWrite.mask: ((MISC_ENABLE,), WRITE),
    Control.MsrLstarRead.mask: ((0xC000_0082,), READ),
    Control.MsrLstarWrite.mask: ((0xC000_0082,), WRITE),
    Control.MsrStarRead.mask: ((0xC000_0081,), READ),
    Control.MsrStarWrite.mask: ((0xC000_0081,), WRITE),
    Control.MsrCstarRead.mask: ((0xC000_0083,), READ),
    Control.MsrCstarWrite.mask: ((0xC000_0083,), WRITE),
    Control.ApicBaseMsrRead.mask: ((0x1B,), READ),
    Control.ApicBaseMsrWrite.mask: ((0x1B,), WRITE),
    Control.MsrEferRead.mask: ((0xC000_0080,), READ),
    Control.MsrEferWrite.mask: ((0xC000_0080,), WRITE),
    Control.MsrSysenterCsWrite.mask: ((0x174,), WRITE),
    Control.MsrSysenterEipWrite.mask: ((0x176,), WRITE),
    Control.MsrSysenterEspWrite.mask: ((0x175,), WRITE),
    Control.MsrSfmaskWrite.mask: ((0xC000_0084,), WRITE),
    Control.MsrTscAuxWrite.mask: ((0xC000_0103,), WRITE),
    Control.MsrSgxLaunchControlWrite.mask: (tuple(range(0x8C, 0x90)), WRITE),
    Control.MsrXssWrite.mask: ((0xDA0,), WRITE),
    Control.MsrScetWrite.mask: ((0x6A2,), WRITE),
    Control.MsrPlsSspWrite.mask: (tuple(range(0x6A4, 0x6A7)), WRITE),
    Control.MsrInterruptSspTableAddrWrite.mask: ((0x6A8,), WRITE),
}
"""Bit of the control register -> MSRs and access. Any KVM can hand these over; writes of CR0, CR4, XCR0, GDTR, IDTR,
LDTR and TR none can, so their bits are refused."""
CONTROL_BITS: Final = sum(CONTROLS)

_Changes = Callable[[], int]


class InterceptTable:
    """A partition's. Changed under the partition's lock; asked on any thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nobody wants anything. All VPs are frozen."""
        # By owner. Each value is replaced, never changed: asking takes no lock.
        self._ports: dict[int, bytes] = {}
        self._msrs: dict[int, dict[int, int]] = {}
        self._unknown_msrs: dict[int, int] = {}
        self._controls: dict[tuple[int, int], dict[int, int]] = {}
        """`(VP, owner)` -> register -> value."""

    # ---- HvCallInstallIntercept ----------------------------------------------------------------------

    def set_ports(self, owner: int, first: int, last: int, accesses: int) -> bool:
        """`owner` wants these accesses to ports `first` to `last`, and no others; whether that is a change."""
        before = self._ports.get(owner, bytes(PORTS))
        after = before[:first] + bytes([accesses]) * (last - first + 1) + before[last + 1 :]
        self._ports = {**self._ports, owner: after}
        return after != before

    def set_msr(self, owner: int, msr: int, accesses: int) -> None:
        """`owner` wants these accesses to an MSR."""
        wanted = {**self._msrs.get(owner, {}), msr: accesses}
        self._msrs = {**self._msrs, owner: {number: mask for number, mask in wanted.items() if mask}}

    def set_unknown_msrs(self, owner: int, accesses: int) -> None:
        """`owner` wants these accesses to MSRs that the processor does not know."""
        self._unknown_msrs = {**self._unknown_msrs, owner: accesses}

    def unknown_msrs(self, owner: int) -> int:
        """What `set_unknown_msrs` was told."""
        return self._unknown_msrs.get(owner, 0)

    def msrs(self, owner: int) -> dict[int, int]:
        """What `set_msr` was told: MSR -> accesses."""
        return self._msrs.get(owner, {})

    # ---- HvX64RegisterCrIntercept* -------------------------------------------------------------------

    def control(self, vp: int, owner: int, register: int) -> int:
        """One of the four registers of `owner` on a VP."""
        return self._controls.get((vp, owner), {}).get(register, 0)

    def set_control(self, vp: int, owner: int, register: int, value: int) -> None:
        """Only bits of `CONTROL_BITS` in the control register."""
        registers = {**self._controls.get((vp, owner), {}), register: value}
        self._controls = {**self._controls, (vp, owner): registers}

    # ---- asking --------------------------------------------------------------------------------------

    def ports(self, vtl: int) -> bytes | None:
        """For each port the accesses of `vtl` that some VTL wants; None where there is none at all."""
        wanted = [ports for owner, ports in self._ports.items() if owner > vtl and any(ports)]
        if not wanted:
            return None
        found = 0
        for ports in wanted:
            found |= int.from_bytes(ports, "little")
        return found.to_bytes(PORTS, "little")

    def port_owner(self, vtl: int, port: int, size: int, access: int) -> int | None:
        """Who wants an access of `vtl` to one of `size` ports; None: nobody."""
        for owner in sorted(self._ports):
            if owner > vtl and any(mask & access for mask in self._ports[owner][port : port + size]):
                return owner
        return None

    def msr_accesses(self, vtl: int) -> dict[int, int]:
        """MSR -> the accesses of `vtl` that some VTL wants on some VP."""
        found: dict[int, int] = {}
        for owner, msrs in self._msrs.items():
            if owner > vtl:
                for msr, accesses in msrs.items():
                    found[msr] = found.get(msr, 0) | accesses
        for (_, owner), registers in self._controls.items():
            if owner > vtl:
                for msr, access in _controlled(registers.get(REGISTER_CONTROL, 0)):
                    found[msr] = found.get(msr, 0) | access
        return found

    def unknown_msr_accesses(self, vtl: int) -> int:
        """The accesses of `vtl` to unknown MSRs that some VTL wants."""
        found = 0
        for owner, accesses in self._unknown_msrs.items():
            found |= accesses if owner > vtl else 0
        return found

    def msr_owner(self, vp: int, vtl: int, msr: int, access: int, changes: _Changes) -> int | None:
        """Who wants an access of `vtl` on a VP to an MSR; None: nobody.

        changes: the bits that a write would change, asked for where only some count (VSM-114).
        """
        for owner in range(vtl + 1, HV_NUM_VTLS_ARCHITECTURAL):
            if self._msrs.get(owner, {}).get(msr, 0) & access:
                return owner
            registers = self._controls.get((vp, owner))
            if registers is not None and (msr, access) in _controlled(registers.get(REGISTER_CONTROL, 0)):
                only = registers.get(REGISTER_MISC_ENABLE_MASK, 0)
                if msr != MISC_ENABLE or access == READ or changes() & only:
                    return owner
        return None

    def unknown_msr_owner(self, vtl: int, access: int) -> int | None:
        """Who wants an access of `vtl` to an MSR that the processor does not know; None: nobody."""
        for owner in sorted(self._unknown_msrs):
            if owner > vtl and self._unknown_msrs[owner] & access:
                return owner
        return None


REGISTER_CONTROL: Final = 0xE0000
REGISTER_MISC_ENABLE_MASK: Final = 0xE0003


@lru_cache(maxsize=64)
def _controlled(control: int) -> frozenset[tuple[int, int]]:
    """The `(MSR, access)` that a value of the control register means."""
    return frozenset(
        (msr, access) for bit, (msrs, access) in CONTROLS.items() if control & bit for msr in msrs
    )
