# SPDX-License-Identifier: Apache-2.0
"""How long a VP waits for other VPs before its guest makes the hypercall again, so that its interrupts are served.

The VMM cannot know a repeated call from an equal one that is made later: between the two the guest may have been
reset, been given other registers, or have left the call from an interrupt handler. So nothing is kept of a call that is
not done, and others have to come while their caller waits. A fixed time could always be over just before they do: it
is twice as long after each call that had to be repeated.
"""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 0.001
"""How long a call may wait at first. Longer than a kick takes; an interrupt of the caller's may be this late."""

MOST_S: Final = 0.064
"""How long it may wait where the others have not come in time, on a host that is as late with all it does."""


class Patience:
    """One VP's. Used on its thread."""

    def __init__(self) -> None:
        self.seconds = PATIENCE_S

    def ran_out(self) -> None:
        """The call has to be made again."""
        self.seconds = min(2 * self.seconds, MOST_S)

    def sufficed(self) -> None:
        """The others have come."""
        self.seconds = max(self.seconds / 2, PATIENCE_S)
