# SPDX-License-Identifier: Apache-2.0
"""The Hyper-V interface on KVM: how guests reach it, and what it needs of KVM.

What the interface does is the pure packages' business (`vmm.hypercall`, `vmm.hvmsr`, `vmm.synic`, `vmm.timers`).
Here is the way to and from a guest:

| module | what it holds |
|---|---|
| `flags` | what a user asked for (QEMU's `hv-*`) as features, calls and CPUID words |
| `offer` | from that to what CPUID says |
| `interface` | `HypervInterface`: all of it for one machine |
| `transport` | which instruction leaves the guest, and which calls come by it |
| `page_code` | the hypercall page's bytes |
| `mapped_overlays`, `refused_writes` | overlay pages in a VTL's mapping of RAM; #GP for a write to a read-only one |
| `caller` | one VP: its hypercalls and its MSR exits, on the VP's thread |
| `services` | interrupts, run time, reset, crash reports |
| `local_apic`, `auto_eoi` | EOI, ICR and TPR of the kernel's local APIC; interrupts without EOI |
| `idle` | sleep by the idle MSR |
| `tlbs` | flushing the TLBs of several VPs |
| `vp_registers` | HvCallGetVpRegisters, HvCallSetVpRegisters |
| `register_access`, `fpu_registers`, `event_registers`, `apic_registers` | their registers, by kind |
| `address_spaces`, `starts` | page tables of VPs; starting a VP with a given state |
| `errands` | what one VP has done on another one's thread |
| `patience` | how long a VP waits for others |
| `xmm` | XMM registers of a vCPU |
| `guest_tsc`, `native` | the guest's TSC, atomic OR: the few instructions that Python does not have |

It works on every KVM with MSR filters; nothing of the kernel's own Hyper-V emulation is used. A machine without the
interface loads none of this.

What KVM itself does: an INVD loses no data, KVM writes caches back or does nothing in its place.

Threads: a VP's exits are handled on its own thread, which alone may use its vCPU. The timer thread, other VPs and
the main thread reach a VP by KVM_SIGNAL_MSI and `VirtualProcessor.kick`.

Implements: MISC-009
"""
