# SPDX-License-Identifier: Apache-2.0
"""Virtual Trust Levels on KVM: a VM per VTL, and on each VP's thread the vCPU of the VTL that `vmm.vsm` says.

| module | what it holds |
|---|---|
| `vtls` | `Vtls`: a machine's VMs and vCPUs; what `vmm.vsm.outside` asks of a backend |
| `scheduler` | `VpScheduler`: what the thread of one VP runs next |
| `shared_state`, `shared_msrs` | what VTLs share: carried over by a switch, written to all vCPUs at once |
| `vp_registers` | processor registers of any VTL, for the hypercalls |
| `startup`, `startup_signals` | how VTL0 of a VP starts; INIT and SIPI |
| `readiness`, `apic_timer`, `poke` | whether the local APIC of an inactive VTL wants its VP, and when its timer will |
| `waits`, `ipi_watch`, `kernel_wait`, `sentry` | the two ways to hear of interrupts of inactive VTLs |
| `intercepts`, `vp_state` | a VTL is told of what a lower one was about to do, and of the VP's state then |
| `watched_accesses` | which port and MSR accesses leave the guest for that |
| `port_exits`, `port_code`, `msr_exits`, `undo_exit` | exits of intercepted ports and MSRs, taken back |
| `guest_code`, `guest_address` | the instruction at which a VP stopped, and the address that it was looking at |
"""
