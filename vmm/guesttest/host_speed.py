# SPDX-License-Identifier: Apache-2.0
"""How much longer guests may take on a host that runs them slowly.

Time limits of test guests are made for processors that run ring 0 themselves, with room for a few seconds of waiting
and a busy host. A KVM that emulates ring 0, or a host that is emulated itself, takes a thousand times as long for
what a guest computes and not longer for what it waits for. So limits grow with the measured slowness, up to
`MOST_PATIENCE`: more would make a guest that hangs hold up its run for most of an hour.
"""

from __future__ import annotations

from typing import Final

from vmm.backend.ring0 import SLOW_BELOW, Ring0

MOST_PATIENCE: Final = 6.0
"""The slowest guest of kvm-unit-tests that passes, hyperv_connections, counts to sixty million: 250 to 430 s at 1.7
million instructions a second, with a limit of 90 s."""


def patience(ring0: Ring0) -> float:
    """The factor for time limits: 1 where ring 0 is fast, or where its speed could not be measured."""
    if not ring0.slow:
        return 1.0
    return min(SLOW_BELOW / ring0.instructions_per_second, MOST_PATIENCE)
