# SPDX-License-Identifier: Apache-2.0
"""Which way of enforcing VTLs' rights to memory a machine takes, by the user's wish and the host."""

from __future__ import annotations

from enum import StrEnum

from kvmapi.uapi.vsm import KVM_X86_VSM_FAULT_ACCESS, KVM_X86_VSM_RWX_ATTRIBUTES
from kvmapi.vsm_support import VsmSupport

AUTO = "auto"
_ATTRIBUTES = KVM_X86_VSM_RWX_ATTRIBUTES | KVM_X86_VSM_FAULT_ACCESS


class Way(StrEnum):
    """The values of `--protection` beside "auto"."""

    ATTRIBUTES = "attributes"


class ProtectionError(ValueError):
    """What was asked for is not to be had here: one line for the user."""


def choose(wanted: str, vsm: VsmSupport) -> Way | None:
    """The way, or None where there is none and "auto" was asked for. Errors: `ProtectionError`."""
    if vsm.features & _ATTRIBUTES == _ATTRIBUTES:
        return Way.ATTRIBUTES
    if wanted == Way.ATTRIBUTES:
        raise ProtectionError(
            "--protection attributes: expected a KVM with R/W/X memory attributes, found none: build the kernel with "
            "kernel/series, or use --protection auto"
        )
    return None
