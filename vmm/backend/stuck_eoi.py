# SPDX-License-Identifier: Apache-2.0
"""Getting an EOI out of a halted processor.

KVM makes an EOI that a userspace I/O APIC waits for known by an exit before the processor's next entry. A KVM that
emulates ring 0 (no hardware virtualization) may carry out EOI, IRET and HLT in one go: the processor then sleeps
with the exit pending, the I/O APIC never hears of the EOI, and the interrupt that would wake the processor never
comes. So an interrupt that is not finished after a while is looked into: a processor that sleeps although its local
APIC neither holds nor serves the interrupt is woken. The guest sees an HLT that ends early, as an SMI may end it.
On a KVM with hardware virtualization the local APIC always has the interrupt in service until its EOI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvmapi.uapi import kvm as k
from vmm.backend.vp import VirtualProcessor
from vmm.outside import Clock

FIRST_LOOK_NS = 2_000_000
"""Longer than nearly all handlers take: what ends sooner costs nothing."""
LONGEST_PERIOD_NS = 100_000_000
"""A guest may never end an interrupt: looks become rarer, up to 10 per second."""

_LAPIC_ISR, _LAPIC_IRR = 0x100, 0x200


class StuckEoiWatch:
    """Watches over level-triggered interrupts from their delivery to their EOI. `watch` is thread-safe."""

    def __init__(
        self,
        vps: Sequence[VirtualProcessor],
        clock: Clock,
        unfinished: Callable[[], Sequence[tuple[int, int]]],
    ) -> None:
        """unfinished: `(APIC id, vector)` of the interrupts without EOI that have one processor as destination.

        Made before the VPs' threads start; what they do `after_kick` is kept and done behind the look.
        """
        self._vps = {vp.vcpu.vcpu_id: vp for vp in vps}
        self._vcpus = {vp.vcpu.vcpu_id: vp.vcpu for vp in vps}  # VTL0's, to whom all devices' interrupts go
        self._clock = clock
        self._unfinished = unfinished
        self._timer = clock.timer(self._on_timer)
        self._period_ns = 0  # 0: nothing is watched
        self._wanted: dict[int, list[int]] = {}  # APIC id -> vectors that its VP is to look for
        for vp in vps:
            vp.after_kick = _Look(self, vp)

    def watch(self) -> None:
        """An interrupt was delivered."""
        if not self._period_ns:
            self._period_ns = FIRST_LOOK_NS
            self._timer.arm(self._clock.now_ns() + FIRST_LOOK_NS)

    def _on_timer(self) -> None:
        self._period_ns = min(2 * self._period_ns, LONGEST_PERIOD_NS)
        self._timer.arm(self._clock.now_ns() + self._period_ns)
        wanted: dict[int, list[int]] = {}
        for apic_id, vector in self._unfinished():
            wanted.setdefault(apic_id, []).append(vector)
        self._wanted = wanted
        for apic_id in wanted:
            if apic_id in self._vps:
                self._vps[apic_id].kick()
        if not wanted:
            self._timer.cancel()
            self._period_ns = 0
            if self._unfinished():  # delivered meanwhile, when a watch still seemed to be on
                self.watch()

    def look(self, vp: VirtualProcessor) -> None:
        """On the thread of `vp`: wake it if an EOI is stuck in it. Errors: `KvmError`."""
        vcpu = self._vcpus[vp.vcpu.vcpu_id]
        vectors = self._wanted.pop(vcpu.vcpu_id, None)
        if vectors is None or vcpu.get_mp_state() != k.KVM_MP_STATE_HALTED:
            return
        registers = vcpu.get_lapic().regs
        if not all(
            _has(registers, _LAPIC_IRR, vector) or _has(registers, _LAPIC_ISR, vector) for vector in vectors
        ):
            vcpu.set_mp_state(k.KVM_MP_STATE_RUNNABLE)


class _Look:
    def __init__(self, watch: StuckEoiWatch, vp: VirtualProcessor) -> None:
        self._watch = watch
        self._vp = vp
        self._then = vp.after_kick

    def __call__(self) -> None:
        self._watch.look(self._vp)
        self._then()


def _has(registers: Sequence[int], base: int, vector: int) -> bool:
    """Bit `vector` of a 256-bit register, 32 bits in every 16 bytes (SDM volume 3, 11.8.4)."""
    return bool(registers[base + vector // 32 * 16 + vector % 32 // 8] >> vector % 8 & 1)
