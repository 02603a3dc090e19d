# SPDX-License-Identifier: Apache-2.0
"""Interrupts of an 8259 that lives in the VMM, given to a processor whose local APIC lives in the kernel.

api.rst KVM_CAP_SPLIT_IRQCHIP, KVM_INTERRUPT and struct kvm_run: the vector is injected when kvm_run says that the
processor takes external interrupts (IF is set, its LINT0 is an unmasked ExtINT); until then
`request_interrupt_window` makes KVM_RUN return at the moment it does.
"""

from __future__ import annotations

from typing import Protocol

from kvmapi.uapi import kvm as k
from vmm.backend.vp import VirtualProcessor

# Bytes of struct kvm_run.
_REQUEST_INTERRUPT_WINDOW = 0
_READY_FOR_INTERRUPT_INJECTION = 12


class InterruptSource(Protocol):
    """An interrupt controller's output. Thread-safe."""

    intr: bool

    def acknowledge(self) -> int:
        """The processor's interrupt acknowledge: the vector."""


class ExternalInterrupts:
    """Delivers the interrupts of `source` to `vp`. Made before the VP's thread starts."""

    def __init__(self, vp: VirtualProcessor, source: InterruptSource) -> None:
        self._vp = vp
        self._source = source
        vp.handlers[k.KVM_EXIT_IRQ_WINDOW_OPEN] = self._inject
        vp.after_kick = self._inject

    def intr_changed(self, level: bool) -> None:
        """The source's output changed. Any thread; returns at once. A fall is noticed when the window opens."""
        if level:
            self._vp.vcpu.run.u8[_REQUEST_INTERRUPT_WINDOW] = 1
            if not self._vp.is_current_thread():
                self._vp.kick()  # in HLT it would see no window

    def state_replaced(self) -> None:
        """The vCPU's registers were set anew (reset): what kvm_run said of them is void. The VP is frozen."""
        # A vector that was injected but not yet taken stays with the kernel, which has no call to withdraw it.
        self._vp.vcpu.run.u8[_READY_FOR_INTERRUPT_INJECTION] = 0

    def _inject(self) -> None:
        u8 = self._vp.vcpu.run.u8
        if self._source.intr and u8[_READY_FOR_INTERRUPT_INJECTION]:
            u8[_READY_FOR_INTERRUPT_INJECTION] = 0  # KVM_RUN says when it takes the next one
            self._vp.vcpu.interrupt(self._source.acknowledge())
        # A rise that this overwrites has kicked the thread: it comes back here before the guest goes on.
        u8[_REQUEST_INTERRUPT_WINDOW] = self._source.intr
