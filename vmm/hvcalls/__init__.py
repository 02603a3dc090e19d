# SPDX-License-Identifier: Apache-2.0
"""Handlers of hypercalls about messages, interrupts, TLBs and processors, over the state in `vmm.hvmsr`.

| module | calls |
|---|---|
| `messages` | HvCallPostMessage, HvCallSignalEvent, and their Direct forms |
| `ipi` | HvCallSendSyntheticClusterIpi, Ex |
| `assertion` | HvCallAssertVirtualInterrupt |
| `tlb` | HvCallFlushVirtualAddressSpace, List, both Ex |
| `processors` | HvCallGetVpIndexFromApicId, HvCallNotifyLongSpinWait |
| `start` | HvCallStartVirtualProcessor |
| `translate` | HvCallTranslateVirtualAddress, Ex |
| `extended` | HvExtCallQueryCapabilities |
| `initial_context`, `register_values` | what a VP can start with, what a register can hold |
| `vp_sets` | from a mask or sparse set to VPs |
| `handlers` | those over `vmm.hvmsr` alone as one table for `vmm.hypercall.dispatcher` |
| `outside` | what they need of the rest of the VMM |

Parsing, privileges and the caller's VTL are `vmm.hypercall`'s business. No KVM, threads or files.
"""
