# SPDX-License-Identifier: Apache-2.0
"""Virtual Secure Mode: which VTLs there are, which of them runs, and who may change that (TLFS chapter 15).

Pure state machines: no KVM, no files, no threads (one lock). What a guest sees is decided here; what KVM does is the
backend's.

| module | what it holds |
|---|---|
| `vp` | `VsmVp`: the VTLs of one VP; VTL call and return, entries, the choice of what runs |
| `partition` | `VsmPartition`: enabling, starting, INIT and SIPI, reset |
| `vtl` | `VpVtl`: VINA and TLB locks held by one VTL of one VP |
| `actions` | what the machine tells a VP's thread to do |
| `outside` | what it needs of the backend, as protocols |
| `calls` | the hypercalls, for `vmm.hypercall.dispatcher` |
| `register_calls`, `register_homes` | HvCallGetVpRegisters, HvCallSetVpRegisters: every VP register |
| `registers`, `config` | the VP registers of VSM itself |
| `tlb_locks` | TLB locks |
| `scope` | which registers VTLs share: what a switch carries over |
| `intercept_calls`, `intercept_table`, `intercept_messages` | ports and MSRs of which a VTL wants to be told, and how |
| `protections`, `ranges`, `rights` | what each VTL may do with each page of memory |
| `memory`, `device_memory` | guest memory with a VTL's rights: all that the VMM reads and writes for a guest |
| `offer`, `profile` | what a machine offers; where sources disagree |

How a backend uses it (one KVM VM per VTL, one thread per VP)
-------------------------------------------------------------

Once: `VsmPartition(vps, VsmOffer(...), services, protections)`, where `services` is an `outside.VsmServices`; the
handlers `calls.handlers(partition)` go to the dispatcher beside those of `vmm.hvcalls.handlers`. `partition.vp_mask`
is what `vmm.hvcalls.outside.Processors` asks for. A hypercall's context is an `outside.VsmCaller`: one per VP and
VTL; its `vtl` is `vp.active` whenever it runs.

Each VP's thread:

    vp = partition.vps[index]
    while True:
        match vp.next_step(entering, taking):      # whenever the VP was woken, switched or has exited for an event
            case Run(vtl=vtl): run the vCPU of vtl until it exits
            case SwitchVtl() as switch: carry_over(switch)
            case RaiseVina(vtl=vtl, vector=vector): a fixed, edge interrupt to vtl's local APIC
            case WaitForStartup() | WaitForTlbLock(): sleep until `wake`

After a hypercall or other exit that changes nothing of the above, it runs on without asking. `entering` and `taking`
are masks of VTLs, made from the local APICs: see `VsmVp.next_step`. The backend computes `entering` for VTLs above
the active one, and `taking` for those below only where the active VTL has VINA enabled
(`vp.vtls[vp.active].vina.Enabled`).

VTL call and return are hypercalls: at `Outcome.VTL_SWITCH` the backend moves RIP behind the trap instruction, does
`caller.switch` and asks `next_step` before the target runs, since a return may bring the VP straight back (VSM-055).
At `Outcome.INVALID_OPCODE` it injects #UD with RIP at the trap instruction.

To carry out a `SwitchVtl`: take the shared registers (`scope.switched_registers`) of `source`'s vCPU to `target`'s,
then `registers` into RAX and RCX (and RDX) where given; or with `store_registers`, `source`'s RAX and RCX to
`target`'s VP assist page. Nothing of the VTL's own (`vmm.hv.access.VtlScope.PRIVATE`) moves. `vp.active` is `target`
already: from then on nothing of `source` may run. Shared MSRs (`scope.SWITCHED_MSRS`) go the same way, or each write
of one to the vCPUs of all VTLs.

Other threads and VPs: `services.wake(vp)` is called, without the partition's lock, when something about a VP changed.
Its thread leaves the guest and asks `next_step`. A wake must not be lost: one that comes before the VP enters the
guest ends that entry. An interrupt made for any VTL of a VP is such a change too. `services.visit` is how one VP gets
at another's registers: on that one's thread, with a caller that serves others while it waits, and gives up where the
other has not begun soon, so VPs cannot wait for each other in a circle. HvRegisterPendingEvent0 is a register of the
target VTL's vCPU like others: the exception is taken when that VTL runs next.

INIT and SIPI: a VTL of a VP hears them only while `partition.accepts_startup_signal` says so; the VP is woken when the
answer is another one. The kernel's local APIC carries both out and tells nobody. So `WaitForStartup` of a VP that
accepts them is a KVM_RUN of VTL0's vCPU, and `partition.signalled` is told what has become of it when it may have
changed and somebody is about to rely on it. Of a VP that does not accept them it is a sleep, and an INIT that the
kernel still has for VTL0's vCPU is dropped before that one runs again (KVM_SET_VCPU_EVENTS, smi.latched_init clear).

TLB flushes: `partition.tlb_locks.blocks(vtl, vps)` before a flush is carried out; while it holds, the flush answers
"not done" (`vmm.hvcalls.outside.Tlbs.flush` returns False) and the hypercall comes again.

Reset: with all VPs stopped, `partition.reset()` says which vCPUs go and whether memory is zeroed; `HvState.reset`
drops the rest.

Memory protections: `protections.MemoryProtections` over an `outside.Enforcement`; without one, what would restrict
anything is refused. A VM that is new is told `restricted(vtl)` with `lock` held. An access that the host refuses is
looked up with `refusing`: nobody, and it is made again, for the table may be an instant behind; else
`outside.MemoryIntercepts` tells that VTL. The VMM itself reads and writes for a VTL by `memory.VtlMemory` only, and for
devices by `device_memory.DeviceMemory`; overlays that a VTL sees of higher ones are in `MemoryProtections.from_above`.

Intercepts: `partition.intercepts` says which ports and MSRs are to leave the guest, and whom to tell of an access;
`services.ports_changed` and `msrs_changed` say when that is another answer. `intercept_messages` has the messages. One
in the intercept page goes with `VsmVp.enter(vtl, SwitchReason.INTERCEPT)`; one to SINT0 needs no call here: its
interrupt makes the VTL enter.
"""
