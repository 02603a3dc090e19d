# SPDX-License-Identifier: Apache-2.0
"""Say in a line what this host's KVM has of VSM, and what `tests/kernel` therefore does on it."""

from __future__ import annotations

from kvmapi.vsm_support import VsmSeries, VsmSupport


def sentence(support: VsmSupport) -> str:
    """For the user of `make test`, who should know which kernel was tested."""
    features = ", ".join(support.feature_names)
    match support.series:
        case VsmSeries.OURS:
            return f"this host's KVM has our VSM series ({features}): tests/kernel tests it on this /dev/kvm"
        case VsmSeries.ORIGINAL:
            return (
                f"this host's KVM has the original VSM series of June 2024 ({features}): tests/kernel tests it on this "
                "/dev/kvm, and expects the defects that kernel/README.md lists"
            )
    return "this host's KVM has no VSM: tests/kernel makes sure of that; the lab's kernels have it"
