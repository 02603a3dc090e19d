# SPDX-License-Identifier: Apache-2.0
"""A vCPU's whole state, to be put back later: taken once after creation, it is the state of a reset.

Order matters when it is put back (api.rst, and KVM's own checks): CPUID is already set, the local APIC must be
there before its timer's MSR, events and the MP state come last.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from kvmapi import KvmMsrError, Vcpu
from kvmapi import run as run_page
from kvmapi.uapi import x86

# Writing it back would set the guest's clock back: a reset does not stop the TSC.
MSR_IA32_TSC = 0x10

_REGS = slice(run_page.SYNC_REGS, run_page.SYNC_REGS + ctypes.sizeof(x86.kvm_regs))
_SREGS = slice(_REGS.stop, _REGS.stop + ctypes.sizeof(x86.kvm_sregs))


@dataclass(frozen=True)
class VcpuState:
    """What `take` read. The structures are KVM's own; `msrs` are `(index, value)` pairs."""

    regs: x86.kvm_regs
    sregs: x86.kvm_sregs
    xsave: x86.kvm_xsave
    xcrs: x86.kvm_xcrs
    debugregs: x86.kvm_debugregs
    events: x86.kvm_vcpu_events
    lapic: x86.kvm_lapic_state
    mp_state: int
    msrs: list[tuple[int, int]]


def take(vcpu: Vcpu, msr_indices: list[int]) -> VcpuState:
    """Read the state of a vCPU that is not in `KVM_RUN`.

    msr_indices: which MSRs; one that this vCPU does not have is left out.
    """
    return VcpuState(
        regs=vcpu.get_regs(),
        sregs=vcpu.get_sregs(),
        xsave=vcpu.get_xsave(),
        xcrs=vcpu.get_xcrs(),
        debugregs=vcpu.get_debugregs(),
        events=vcpu.get_vcpu_events(),
        lapic=vcpu.get_lapic(),
        mp_state=vcpu.get_mp_state(),
        msrs=readable_msrs(vcpu, msr_indices),
    )


def put(vcpu: Vcpu, state: VcpuState) -> None:
    """Put `state` back into a vCPU that is not in `KVM_RUN`. Errors: `KvmError`."""
    vcpu.set_mp_state(state.mp_state)
    vcpu.set_sregs(state.sregs)
    vcpu.set_regs(state.regs)
    vcpu.set_xsave(state.xsave)
    if state.xcrs.nr_xcrs:  # none on a host without XSAVE, where KVM refuses to be given any
        vcpu.set_xcrs(state.xcrs)
    vcpu.set_debugregs(state.debugregs)
    vcpu.set_lapic(state.lapic)
    vcpu.set_msrs(changed_msrs(vcpu, state.msrs))
    vcpu.set_vcpu_events(state.events)
    vcpu.set_mp_state(state.mp_state)


def forget_exit(vcpu: Vcpu) -> None:
    """Registers in kvm_run, where they came with the last exit, are those that the vCPU has now. Errors: `KvmError`."""
    run = vcpu.run
    run.u8[_REGS] = bytes(vcpu.get_regs())
    run.u8[_SREGS] = bytes(vcpu.get_sregs())
    run.u64[run_page.DIRTY_REGS // 8] = 0


def readable_msrs(vcpu: Vcpu, indices: list[int]) -> list[tuple[int, int]]:
    """`(index, value)` of those of `indices` that this vCPU has."""
    found: list[tuple[int, int]] = []
    rest = [index for index in indices if index != MSR_IA32_TSC]
    while rest:
        try:
            found += vcpu.get_msrs(rest)
            return found
        except KvmMsrError as error:
            # KVM lists what its host has; this one the vCPU's CPUID does not offer.
            found += error.done
            rest = rest[len(error.done) + 1 :]
    return found


def changed_msrs(vcpu: Vcpu, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of `wanted` that have another value now. Some may be read but not written, not even unchanged."""
    current = dict(vcpu.get_msrs([index for index, _ in wanted]))
    return [(index, value) for index, value in wanted if current[index] != value]
