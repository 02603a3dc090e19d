# SPDX-License-Identifier: Apache-2.0
"""The synthetic MSRs of a guest, and all Hyper-V state of a partition behind them.

| module | what it holds |
|---|---|
| `state` | `HvState`: everything of a partition, per VTL, and per VP and VTL; read_msr, write_msr |
| `bindings` | which method of which object answers which MSR |
| `msr_file` | the MSRs of one VP and VTL as two flat tables, filtered by what CPUID announces |
| `hypercall_page` | guest OS id and hypercall page |
| `vp_assist` | VP assist page |
| `crash` | crash parameters and their report |
| `reenlightenment` | what a guest wants to be told after a migration |
| `outside` | what the rest of the VMM does for it, as protocols |

What an MSR is (number, access, scope, privilege) stands in `vmm.hv.msrs`; SynIC, timers and overlay pages have
packages of their own. No KVM, threads or files here.
"""
