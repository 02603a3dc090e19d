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
    MAPPING = "mapping"


class ProtectionError(ValueError):
    """What was asked for is not to be had here: one line for the user."""


def choose(wanted: str, vsm: VsmSupport, *, huge_pages: bool) -> Way | None:
    """The way, or None where there is none and "auto" was asked for.

    huge_pages: whether huge pages of the host back guest memory. No 4 KiB of them can be taken out of a mapping, nor
    replaced by an overlay, which lies in RAM then, where a higher VTL may take it for its own.
    Errors: `ProtectionError`.
    """
    if huge_pages:
        if wanted == AUTO:
            return None
        raise ProtectionError(
            f"--protection {wanted}: expected guest memory in pages of 4 KiB, found huge pages: leave out hugepages=on"
        )
    if wanted != Way.MAPPING and vsm.features & _ATTRIBUTES == _ATTRIBUTES:
        return Way.ATTRIBUTES
    if wanted == Way.ATTRIBUTES:
        raise ProtectionError(
            "--protection attributes: expected a KVM with R/W/X memory attributes, found none: build the kernel with "
            "kernel/series, or use --protection auto"
        )
    return Way.MAPPING
