# SPDX-License-Identifier: Apache-2.0
"""What of VSM a machine offers its guest: decided once, told by HvRegisterVsmCapabilities and PartitionStatus."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmm.hv.register_bits import HV_REGISTER_VSM_CAPABILITIES, HV_REGISTER_VSM_PARTITION_CONFIG
from vmm.hvcalls.register_values import Widths
from vmm.vsm.profile import VsmProfile

Config = HV_REGISTER_VSM_PARTITION_CONFIG

BASE_CONFIG_BITS = (
    Config.EnableVtlProtection.mask
    | Config.DefaultVtlProtectionMask.mask
    | Config.ZeroMemoryOnReset.mask
    | Config.DenyLowerVtlStartup.mask
    | Config.InterceptPage.mask
)
"""What every machine carries out; a default protection mask that restricts VTLs only with a `Protections`."""


@dataclass(frozen=True, slots=True)
class VsmOffer:
    """Settings of a machine with VSM."""

    maximum_vtl: int = 1
    """1 to 15."""
    profile: VsmProfile = VsmProfile.HYPERV
    widths: Widths = field(default_factory=Widths)
    """Of the processor model."""
    mbec_vtls: int = 0
    """Bit N: mode-based execute control works for VTL N."""
    dr6_shared: bool = False
    """Whether a VTL switch carries DR6 over."""
    config_bits: int = BASE_CONFIG_BITS
    """Bits of HvRegisterVsmPartitionConfig that may be set; those beyond the base only with a `Protections`."""

    def __post_init__(self) -> None:
        if not 1 <= self.maximum_vtl <= 15:
            raise ValueError(f"maximum VTL {self.maximum_vtl}: expected 1 to 15 (VTL numbers have four bits)")

    @property
    def capabilities(self) -> HV_REGISTER_VSM_CAPABILITIES:
        """HvRegisterVsmCapabilities, in the layout that guests read (DIS-01).

        Implements: VSM-001, WIN-002
        """
        return HV_REGISTER_VSM_CAPABILITIES.make(
            Dr6Shared=self.dr6_shared,
            MbecVtlMask=self.mbec_vtls,
            DenyLowerVtlStartup=bool(self.config_bits & Config.DenyLowerVtlStartup.mask),
            InterceptPageAvailable=bool(self.config_bits & Config.InterceptPage.mask),
            InterceptNotPresentAvailable=bool(self.config_bits & Config.InterceptNotPresent.mask),
            InterceptSystemResetAvailable=bool(self.config_bits & Config.InterceptSystemReset.mask),
        )
