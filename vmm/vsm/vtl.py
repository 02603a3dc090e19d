# SPDX-License-Identifier: Apache-2.0
"""What one VTL of one VP has beside its registers: what VSM adds to it, and what its owners rule over it."""

from __future__ import annotations

from typing import Final

from vmm.hv.register_bits import HV_REGISTER_VSM_VINA, HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG
from vmm.vsm.outside import AssistPage, SyntheticMsrs

TLB_LOCKED: Final = HV_REGISTER_VSM_VP_SECURE_VTL_CONFIG.TlbLocked.mask


class VpVtl:
    """State of one VTL on one VP. Its fields change under the partition's lock, or on the VP's thread (`vina`)."""

    __slots__ = (
        "assist",
        "msrs",
        "secure_config",
        "tlb_locks",
        "vina",
        "vina_enabled",
        "vina_raised",
        "waits_for",
    )

    def __init__(self, assist: AssistPage, msrs: SyntheticMsrs) -> None:
        self.assist = assist
        self.msrs = msrs
        self.set_vina(HV_REGISTER_VSM_VINA(0))
        self.vina_raised = False
        """VinaAsserted for a VTL without a VP assist page to keep it in."""
        self.secure_config: dict[int, int] = {}
        """HvRegisterVsmVpSecureConfigVtlN that this VTL, as the owner, has set: N -> value (VSM-014)."""
        self.tlb_locks = 0
        """Bit N: this VTL, as the owner, holds the TLB of VTL N of this VP locked."""
        self.waits_for: set[tuple[int, int]] = set()
        """`(VP, owner VTL)` of the TLB locks that must go before this VTL runs (VSM-018)."""

    def set_vina(self, vina: HV_REGISTER_VSM_VINA) -> None:
        """HvRegisterVsmVina. `vina_enabled` is looked at before each entry into the guest."""
        self.vina = vina
        self.vina_enabled = vina.Enabled

    @property
    def vina_asserted(self) -> bool:
        """Whether the VTL has been told and has not cleared it: its own word, where it has a place for one."""
        return self.assist.vina_asserted if self.assist.enabled else self.vina_raised

    def assert_vina(self) -> None:
        """Remember that it was told."""
        self.vina_raised = True
        self.assist.vina_asserted = True

    def enter(self, reason: int) -> None:
        """Write what a VTL finds in its VP assist page at an entry.

        Implements: VSM-050, VSM-051, VSM-057, VSM-133
        """
        self.assist.set_entry_reason(reason)
        if self.vina_raised:
            self.vina_raised = False
            if self.vina.AutoReset:
                self.assist.vina_asserted = False
