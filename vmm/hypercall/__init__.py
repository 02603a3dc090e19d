# SPDX-License-Identifier: Apache-2.0
"""The hypercall calling convention (TLFS chapter 3), without a hypercall of its own.

| module | what it holds |
|---|---|
| `dispatcher` | `Dispatcher.dispatch(context, registers, mode)`: the one entry; returns an `Outcome` |
| `prepared` | how simple, rep and VTL switch calls are taken apart and answered; kept by control word |
| `calls` | the call table: one row per hypercall |
| `call` | what a row says; what a handler gets and gives |
| `header` | the fixed header as a typed value; the VTL that a call names |
| `convention`, `control` | registers and words of 64-bit and 32-bit callers |
| `elements` | arrays in parameter blocks as typed values |
| `announce` | CPUID bits that follow from the handled calls |
| `outside` | protocols: the caller's registers, memory and rights |

Handlers live with the state they act on (`vmm.synic`, `vmm.vsm` ...) and are given to the dispatcher by code. How the
trap instruction reached us, and moving RIP, is the backend's. Nothing here touches KVM, threads or files.

A handler:

    def signal_event(caller: Caller, call: CallInput[HV_INPUT_SIGNAL_EVENT, None]) -> Reply:
        port = caller.ports.get(call.header.ConnectionId)
        if port is None:
            return failed(HvStatus.INVALID_CONNECTION_ID)
        return port.signal(call.header.FlagNumber)
"""
