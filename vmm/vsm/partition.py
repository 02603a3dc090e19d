# SPDX-License-Identifier: Apache-2.0
"""`VsmPartition`: the VTLs of a partition and of its VPs; who may enable and start which (TLFS 15.3 to 15.5).

| transition | who may | then |
|---|---|---|
| `enable_partition_vtl` | a higher VTL; the highest enabled one below the target | the VTL can be enabled on VPs |
| `enable_vp_vtl`, no VP has the target yet | the same; from below on the own VP only | the VTL has a context there |
| `enable_vp_vtl`, later | the target or a higher VTL, on any VP | the same |
| `start` | any VTL, unless a higher one denies it; targets up to itself | the VP runs its highest VTL |
| INIT, SIPI (`accepts_startup_signal`) | VTL0 of a VP without higher VTLs, unless one denies it | it waits, or starts |
| `reset` | the machine | only VTL0 is left |

What more than one VP can change, changes under one lock, which is held only while sets of VTLs are computed and the
backend adds a VTL, brings rights to memory into force, or has other MSRs leave the guest. TLB locks and rights have
locks of their own.
"""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

from vmm.hv.constants import HV_NUM_VTLS_ARCHITECTURAL
from vmm.hv.inputs import HV_ENABLE_PARTITION_VTL_FLAGS
from vmm.hv.register_bits import HV_REGISTER_VSM_PARTITION_CONFIG, HV_REGISTER_VSM_PARTITION_STATUS
from vmm.hv.status import HvStatus
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT
from vmm.hvcalls.initial_context import settled_context
from vmm.vsm.config import CONFIG_AT_RESET
from vmm.vsm.intercept_table import InterceptTable
from vmm.vsm.offer import VsmOffer
from vmm.vsm.outside import Protections, VsmServices
from vmm.vsm.profile import rules
from vmm.vsm.tlb_locks import TlbLocks
from vmm.vsm.vp import VsmVp, highest
from vmm.vsm.vtl import VpVtl

BOOT_VP: Final = 0
VTL0: Final = 0
_PARAVISOR_VTL: Final = 2
"""The VTL whose HvRegisterGuestVsmPartitionConfig limits those below it (VSM-019)."""


class ResetPlan(NamedTuple):
    """What the machine does beside, at a reset."""

    dropped: tuple[tuple[int, int], ...]
    """`(VP, VTL)` that are gone: their vCPUs too."""
    zero_memory: bool
    """Whether guest memory is zeroed before anything is loaded (VSM-010)."""


class VsmPartition:
    """See the module. Thread-safe but for `reset`, for which all VPs have stopped.

    It is a `vmm.hvcalls.start.VpStarter`.
    """

    def __init__(
        self,
        vps: int,
        offer: VsmOffer,
        services: VsmServices,
        protections: Protections | None = None,
    ) -> None:
        """vps: their number; VP 0 boots. protections: what applies protections, None where nothing can."""
        self.offer = offer
        self.rules = rules(offer.profile)
        self.services = services
        self.protections = protections
        self.lock = threading.Lock()
        self.intercepts = InterceptTable()
        self.tlb_locks = TlbLocks(services.wake)
        self.vps = tuple(
            VsmVp(
                index,
                VpVtl(services.assist_page(index, VTL0), services.synthetic_msrs(index, VTL0)),
                self.rules,
                self.tlb_locks,
                started=index == BOOT_VP,
            )
            for index in range(vps)
        )
        self.tlb_locks.attach(self.vps)
        self._forget()

    def _forget(self) -> None:
        self.enabled = 1
        self.mbec = 0
        self.guest_maximum_vtl = HV_NUM_VTLS_ARCHITECTURAL - 1
        """HvRegisterGuestVsmPartitionConfig: how high VTLs below VTL2 may go."""
        self.configs: dict[int, HV_REGISTER_VSM_PARTITION_CONFIG] = {}
        """By VTL; replaced, never changed: `start_denied` takes no lock."""

    def config(self, vtl: int) -> HV_REGISTER_VSM_PARTITION_CONFIG:
        """HvRegisterVsmPartitionConfig of a VTL above 0."""
        return self.configs.get(vtl, CONFIG_AT_RESET)

    @property
    def status(self) -> HV_REGISTER_VSM_PARTITION_STATUS:
        """HvRegisterVsmPartitionStatus.

        Implements: VSM-002
        """
        return HV_REGISTER_VSM_PARTITION_STATUS.make(
            EnabledVtlSet=self.enabled,
            MaximumVtl=self.offer.maximum_vtl,
            MbecEnabledVtlSet=self.mbec,
        )

    # ---- enabling ------------------------------------------------------------------------------------

    def enable_partition_vtl(self, caller_vtl: int, vtl: int, flags: int) -> HvStatus:
        """HvCallEnablePartitionVtl of a caller in `caller_vtl`.

        Implements: VSM-023, VSM-024, VSM-025, VSM-037
        """
        if not 0 < vtl <= self._maximum(caller_vtl, vtl):
            return HvStatus.INVALID_PARAMETER
        mbec = HV_ENABLE_PARTITION_VTL_FLAGS.EnableMbec.mask
        if flags & ~mbec or (flags & mbec and not self.offer.mbec_vtls >> vtl & 1):
            return HvStatus.INVALID_PARAMETER
        with self.lock:
            if not self._is_next_below(caller_vtl, vtl):
                return HvStatus.ACCESS_DENIED
            if self.enabled >> vtl & 1:
                return self.rules.partition_vtl_repeated
            self.enabled |= 1 << vtl
            if flags & mbec:
                self.mbec |= 1 << vtl
        return HvStatus.SUCCESS

    def _maximum(self, caller_vtl: int, vtl: int) -> int:
        below_paravisor = caller_vtl < _PARAVISOR_VTL and vtl < _PARAVISOR_VTL
        return (
            min(self.offer.maximum_vtl, self.guest_maximum_vtl) if below_paravisor else self.offer.maximum_vtl
        )

    def _is_next_below(self, caller_vtl: int, vtl: int) -> bool:
        """Whether the caller is above the target, or the highest of the partition's VTLs below it."""
        return caller_vtl > vtl or caller_vtl == highest(self.enabled & (1 << vtl) - 1)

    def enable_vp_vtl(
        self, caller_vp: int, caller_vtl: int, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT
    ) -> int:
        """HvCallEnableVpVtl: an `HvStatus`, or `AGAIN`. `vp` exists.

        Implements: VSM-028, VSM-029, VSM-030, VSM-031, VSM-038, OHCL-005
        """
        if vtl == VTL0:
            return HvStatus.INVALID_PARAMETER
        with self.lock:
            if not self.enabled >> vtl & 1:
                return self.rules.vp_vtl_before_partition
            if not self._may_enable_vp_vtl(caller_vp, caller_vtl, vp, vtl):
                return HvStatus.ACCESS_DENIED
            target = self.vps[vp]
            if target.enabled >> vtl & 1:
                return self.rules.vp_vtl_repeated
            settled = settled_context(context, self.offer.widths, real_mode=False)
            if settled is None:
                return HvStatus.INVALID_REGISTER_VALUE
            status = self.services.add_vtl(vp, vtl, settled)
            if status != HvStatus.SUCCESS:
                return status
            services = self.services
            target.add_vtl(vtl, VpVtl(services.assist_page(vp, vtl), services.synthetic_msrs(vp, vtl)))
        services.wake(vp)  # an interrupt may have come before
        return HvStatus.SUCCESS

    def _may_enable_vp_vtl(self, caller_vp: int, caller_vtl: int, vp: int, vtl: int) -> bool:
        if any(each.enabled >> vtl & 1 for each in self.vps):
            return caller_vtl >= vtl
        if not self._is_next_below(caller_vtl, vtl):
            return False
        return caller_vtl > vtl or caller_vp == vp

    # ---- starting ------------------------------------------------------------------------------------

    def has_vp(self, vp: int) -> bool:
        """Whether a VP has this index."""
        return 0 <= vp < len(self.vps)

    def has_vtl(self, vp: int, vtl: int) -> bool:
        """Whether `vtl` is enabled on the VP."""
        return self.has_vp(vp) and bool(self.vps[vp].enabled >> vtl & 1)

    def vp_mask(self, vtl: int) -> int:
        """Bit n: VP n has `vtl`."""
        return sum(1 << each.index for each in self.vps if each.enabled >> vtl & 1)

    def start_denied(self, vp: int, caller_vtl: int) -> bool:
        """Whether a VTL above `caller_vtl` has set DenyLowerVtlStartup; it holds on every VP.

        Implements: VSM-011
        """
        return any(config.DenyLowerVtlStartup for owner, config in self.configs.items() if owner > caller_vtl)

    def start(self, caller: int, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        """HvCallStartVirtualProcessor behind its handler's checks: an `HvStatus`, or `AGAIN`.

        VTL0 can be started once, a higher VTL only where the VP has not run.

        Implements: VP-003
        """
        target = self.vps[vp]
        if target.startable & 1 if vtl == VTL0 else target.started:
            return HvStatus.INVALID_VP_STATE
        # Not under the lock, since it may take a while: of several that try, the backend lets one succeed.
        status = self.services.start_vtl(caller, vp, vtl, context)
        if status != HvStatus.SUCCESS:
            return status
        with self.lock:
            target.start(vtl)
        self.services.wake(vp)
        return HvStatus.SUCCESS

    def accepts_startup_signal(self, vp: int, vtl: int) -> bool:
        """Whether INIT and SIPI, which local APICs of `vtl` send each other, do anything to `vtl` of a VP.

        VTLs above 0 start by hypercall only; so does VTL0 of a VP that has a higher VTL, or whose start one denies.

        Implements: VSM-129, VP-002, IMP-006
        """
        return vtl == VTL0 and self.vps[vp].enabled == 1 and not self.start_denied(vp, vtl)

    def signalled(self, vp: int, *, waits: bool) -> None:
        """What VTL0 of a VP without higher VTLs does by now, since INIT and SIPI that it accepted change it untold.

        On the VP's thread. waits: whether it waits for INIT or SIPI. The boot VP never does: INIT has it begin anew.
        """
        state = self.vps[vp]
        if waits != state.started or (waits and vp == BOOT_VP):
            return
        with self.lock:
            if waits:
                state.init()
            else:
                state.start(VTL0)

    def wake(self) -> None:
        """S3 has ended, with all VPs frozen: VTL0 of all but the boot VP waits for its start, as after a reset.

        Where a VP has higher VTLs that is HvCallStartVirtualProcessor (VSM-129).
        """
        with self.lock:
            for vp in self.vps:
                if vp.index != BOOT_VP:
                    vp.wake()

    # ---- reset ---------------------------------------------------------------------------------------

    def reset(self) -> ResetPlan:
        """The state after power-on: VTL0 alone, on the boot VP.

        Implements: VSM-010, VSM-021, VSM-039
        """
        dropped = tuple(
            (vp.index, vtl)
            for vp in self.vps
            for vtl in range(1, vp.enabled.bit_length())
            if vp.enabled >> vtl & 1
        )
        zero = any(self.config(vtl).ZeroMemoryOnReset for vtl in range(1, 16) if self.enabled >> vtl & 1)
        self._forget()
        if self.protections is not None:
            self.protections.reset()
        for vp in self.vps:
            vp.reset(started=vp.index == BOOT_VP)
        self.tlb_locks.reset()
        self.intercepts.reset()
        return ResetPlan(dropped, zero)
