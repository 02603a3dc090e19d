# SPDX-License-Identifier: Apache-2.0
"""Handlers of hypercalls about messages, interrupts, TLBs and processors, over the state in `vmm.hvmsr`.

| module | calls |
|---|---|
| `messages` | HvCallPostMessage, HvCallSignalEvent, and their Direct forms |
| `ipi` | HvCallSendSyntheticClusterIpi, Ex |
| `tlb` | HvCallFlushVirtualAddressSpace, List, both Ex |
| `processors` | HvCallGetVpIndexFromApicId, HvCallNotifyLongSpinWait |
| `extended` | HvExtCallQueryCapabilities |
| `vp_sets` | from a mask or sparse set to VPs |
| `handlers` | all of them as one table for `vmm.hypercall.dispatcher` |
| `outside` | what they need of the rest of the VMM |

Parsing, privileges and the caller's VTL are `vmm.hypercall`'s business. No KVM, threads or files.
"""
