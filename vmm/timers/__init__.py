# SPDX-License-Identifier: Apache-2.0
"""Hyper-V time: the reference counter, the reference TSC page and the synthetic timers (TLFS chapter 12).

| module | what it holds |
|---|---|
| `reference` | partition reference time in 100 ns, from the guest's TSC or from the machine's clock |
| `tsc_page` | the page from which a guest computes that time itself, one per VTL |
| `periodic` | when a periodic timer expires next, and what is done about missed periods |
| `stimer` | the four synthetic timers of one VP and VTL |

No KVM, threads or files: time comes through `vmm.outside.Clock` and `GuestTsc`, messages go to `vmm.synic`.
"""
