# SPDX-License-Identifier: Apache-2.0
"""`Alone`: one VP runs one instruction while no other VP of the machine is in the guest.

A page that is let into a VTL's mapping for an instruction is there for all its processors, so the others are kept out
meanwhile. Nobody waits for his turn inside an exit's handler: `begin` says no while another VP has its turn, and the
caller goes back to its loop, where it is kept out, and repeats the instruction afterwards. So two VPs that both want
to be alone cannot wait for each other; a VP that is being frozen, or stopped, is out of the guest soon, whoever waits.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from vmm.backend.vp import VirtualProcessor


class Alone:
    """One machine's. Its methods are called on VPs' threads."""

    def __init__(self, processors: Sequence[VirtualProcessor]) -> None:
        self._processors = processors
        self._turn = threading.Lock()

    def begin(self, processor: VirtualProcessor) -> bool:
        """Wait until all other VPs are outside the guest and stay there. False: another one has its turn."""
        if not self._turn.acquire(blocking=False):
            return False
        others = [other for other in self._processors if other is not processor]
        for other in others:
            other.keep_out()
        for other in others:
            other.wait_frozen()
        return True

    def end(self, processor: VirtualProcessor) -> None:
        """The others may run again."""
        for other in self._processors:
            if other is not processor:
                other.let_in()
        self._turn.release()
