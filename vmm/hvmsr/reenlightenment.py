# SPDX-License-Identifier: Apache-2.0
"""Re-enlightenment: a nested hypervisor's guest wants to know when the TSC's frequency changed (TLFS 16.6).

After a migration to a host with another TSC, accesses to the TSC may be emulated at the old frequency until the
guest has found its new bearings: it asks for that (TSC emulation control), is told by an interrupt, and ends the
emulation by clearing the status. Offered only where CPUID announces it.

Implements: TMR-019
"""

from __future__ import annotations

import threading
from typing import Final

from vmm.hv.msr_bits import (
    HV_REENLIGHTENMENT_CONTROL,
    HV_TSC_EMULATION_CONTROL,
    HV_TSC_EMULATION_STATUS,
)
from vmm.synic.interrupts import FIRST_VECTOR, InterruptSink

_IN_PROGRESS: Final = HV_TSC_EMULATION_STATUS.InProgress.mask


class Reenlightenment:
    """The three MSRs, one set for the partition. Thread-safe; the interrupt is requested without the lock."""

    def __init__(self, interrupts: InterruptSink) -> None:
        self._interrupts = interrupts
        self._lock = threading.Lock()
        self._control = HV_REENLIGHTENMENT_CONTROL(0)
        self._control_vtl = 0  # the VTL that wrote it gets the interrupt
        self._emulation = HV_TSC_EMULATION_CONTROL(0)
        self._status = 0

    def reset(self) -> None:
        """Nothing asked for."""
        with self._lock:
            self._control = HV_REENLIGHTENMENT_CONTROL(0)
            self._emulation = HV_TSC_EMULATION_CONTROL(0)
            self._status = 0

    def read_control(self) -> int:
        """HV_X64_MSR_REENLIGHTENMENT_CONTROL."""
        return int(self._control)

    def write_control(self, vtl: int, value: int) -> bool:
        """Refused: reserved bits; an enabled vector below 16."""
        control = HV_REENLIGHTENMENT_CONTROL(value)
        if value & control.RSVDZ_MASK or (control.Enabled and control.Vector < FIRST_VECTOR):
            return False
        with self._lock:
            self._control, self._control_vtl = control, vtl
        return True

    def read_emulation_control(self) -> int:
        """HV_X64_MSR_TSC_EMULATION_CONTROL."""
        return int(self._emulation)

    def write_emulation_control(self, value: int) -> bool:
        """Refused: reserved bits."""
        emulation = HV_TSC_EMULATION_CONTROL(value)
        if value & emulation.RSVDZ_MASK:
            return False
        self._emulation = emulation
        return True

    def read_emulation_status(self) -> int:
        """HV_X64_MSR_TSC_EMULATION_STATUS."""
        return self._status

    def write_emulation_status(self, value: int) -> bool:
        """Ends the emulation. Refused: starting it, which is the VMM's to do."""
        if value & _IN_PROGRESS:
            return False
        self._status = value
        return True

    @property
    def emulating(self) -> bool:
        """Whether the guest still counts on the TSC frequency from before."""
        return self._status & _IN_PROGRESS != 0

    def tsc_frequency_changed(self) -> None:
        """The partition goes on with another TSC frequency than before."""
        with self._lock:
            control, vtl = self._control, self._control_vtl
            if self._emulation.Enabled:
                self._status |= _IN_PROGRESS
        if control.Enabled:
            self._interrupts.request_interrupt(control.TargetVp, vtl, control.Vector, False)
