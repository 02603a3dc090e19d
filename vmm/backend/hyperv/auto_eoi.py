# SPDX-License-Identifier: Apache-2.0
"""Interrupts that need no EOI (SINT with AutoEoi), on a local APIC that knows no such thing.

The kernel's local APIC takes the interrupt into service like any other, and the guest never ends it. So the VMM
ends it: some time after the interrupt was requested the VP is brought out of the guest, and if its local APIC serves
the vector, an EOI is made in the guest's place. Until then interrupts of the same and lower priority wait, so the
guest sees them up to `FIRST_LOOK_NS` late; CPUID recommends not to use AutoEoi (DeprecateAutoEoi).

An interrupt that the guest does not take for a while, or that is interrupted itself, is looked for again, less and
less often. A KVM that emulates ring 0 keeps nothing in service: there a look finds nothing to do.

Implements: SYN-024
"""

from __future__ import annotations

import threading
from typing import Final

from vmm.backend.hyperv.local_apic import IRR, ISR, KvmLocalApic, has
from vmm.backend.vp import VirtualProcessor
from vmm.outside import Clock

FIRST_LOOK_NS: Final = 200_000
"""A guest with interrupts enabled has taken the interrupt by then; sooner would cost it a further exit each time."""
LONGEST_WAIT_NS: Final = 50_000_000


class AutoEoi:
    """The interrupts without EOI of one VTL of a VP. `requested` is thread-safe, `look` is the VP's thread's."""

    def __init__(self, processor: VirtualProcessor, apic: KvmLocalApic, clock: Clock) -> None:
        """apic: that of the VTL."""
        self._apic = apic
        self._clock = clock
        self._timer = clock.timer(processor.kick)
        self._lock = threading.Lock()
        self._vectors: set[int] = set()
        self._wait_ns = FIRST_LOOK_NS

    def requested(self, vector: int) -> None:
        """The interrupt is pending in the local APIC."""
        with self._lock:
            if vector in self._vectors:
                return
            self._vectors.add(vector)
            self._wait_ns = FIRST_LOOK_NS
            self._timer.arm(self._clock.now_ns() + FIRST_LOOK_NS)

    def reset(self) -> None:
        """Nothing is pending any more. The VP is frozen."""
        with self._lock:
            self._vectors.clear()
            self._timer.cancel()

    def look(self) -> None:
        """End what is in service. Errors: `KvmError`."""
        if not self._vectors:
            return
        with self._lock:
            for vector in sorted(self._vectors, reverse=True):
                lapic = self._apic.vcpu.get_lapic()
                served = has(lapic, ISR, vector) and not self._apic.end_if_in_service(vector, lapic)
                if not served and not has(lapic, IRR, vector):
                    self._vectors.discard(vector)
            if self._vectors:
                self._wait_ns = min(2 * self._wait_ns, LONGEST_WAIT_NS)
                self._timer.arm(self._clock.now_ns() + self._wait_ns)
