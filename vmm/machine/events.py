# SPDX-License-Identifier: Apache-2.0
"""What can happen to a running machine: posted by devices, VP threads and signal handlers, done by one thread.

The thread in `Machine.run` takes one event after the other, so no two of them ever interleave.
"""

from __future__ import annotations

from dataclasses import dataclass
from queue import SimpleQueue

from vmm.backend import outcome
from vmm.backend.outcome import Outcome, OutcomeKind
from vmm.backend.vp import VirtualProcessor


@dataclass(frozen=True)
class End:
    """The run is over."""

    outcome: Outcome


class Reset:
    """All of the machine starts anew."""


class Suspend:
    """ACPI S3: processors off, memory and wake-up devices on."""


class Wake:
    """Leave S3."""


Event = End | Reset | Suspend | Wake


class Control:
    """`vmm.outside.MachineControl`: each request freezes the VPs at once and becomes an event.

    Thread-safe, returns at once; may be called from a signal handler.
    """

    def __init__(self) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.vps: list[VirtualProcessor] = []

    def end(self, result: Outcome) -> None:
        """End the run. The first outcome posted is the one that counts."""
        self.events.put(End(result))  # before the VPs stop: what they say about being stopped comes second
        self._freeze()

    def debug_exit(self, code: int) -> None:
        """End the run with process status `(code << 1 | 1) & 0xff`."""
        self.end(outcome.debug_exit(code))

    def power_off(self) -> None:
        """End the run with status 0."""
        self.end(Outcome(OutcomeKind.POWER_OFF, 0, "the guest powered off"))

    def reset(self) -> None:
        """Reset the machine, or end the run where the user asked for no reboot."""
        self.events.put(Reset())
        self._freeze()

    def suspend(self) -> None:
        """Stop the processors until `wake`."""
        self.events.put(Suspend())
        self._freeze()

    def wake(self) -> None:
        """Leave S3. Without effect on a machine that is not in it."""
        self.events.put(Wake())

    def _freeze(self) -> None:
        for vp in self.vps:
            vp.freeze()
