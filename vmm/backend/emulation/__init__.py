# SPDX-License-Identifier: Apache-2.0
"""Instructions that this host's KVM cannot carry out, carried out by the VMM.

A KVM that emulates ring 0 knows fewer instructions than a processor. Where its emulator gives up it stops with
`KVM_EXIT_INTERNAL_ERROR` (suberror `KVM_INTERNAL_ERROR_EMULATION`) and most VMMs stop there too. `Emulator`
decodes the instruction, and if `table` knows it, does what the SDM says and lets the guest go on.

| module | what it is |
|---|---|
| `emulator` | `Emulator.carry_out`: the way in |
| `execute` | the steps of one instruction |
| `table` | which instructions, as data: encoding, CPUID bit, handler |
| `decode` | prefixes, opcode, ModRM, immediate |
| `system`, `cache`, `software_interrupts`, `integers`, `vector`, `vector_moves`, `xsave` | the handlers |
| `interrupt`, `stack_frame`, `descriptors` | delivery through the IDT, as SDM volume 3, chapter 6 |
| `processor` | the vCPU's registers while an instruction is carried out |
| `vector_state` | x87, MMX and vector registers |
| `addressing`, `linear` | effective address -> linear address -> guest RAM |
| `page_walk` | paging: all modes, permissions, accessed and dirty bits |
| `faults`, `registers` | how a handler ends, bit names |

Reached only from ring 0, as KVM exits there alone. KVM_CAP_EXIT_ON_EMULATION_FAILURE would bring failures in
ring 3 here too; it stays off. Measured on a KVM without hardware virtualization: INT n in ring 3 is #UD there before
any emulation, so the capability changes nothing; elsewhere it would only turn KVM's own #UD into an exit that ends
in the same #UD (`Emulator.carry_out` does that, should someone turn it on).

Known gaps: memory is written past KVM, so a frame pushed onto a page that the guest uses as a page table is not
noticed by KVM's shadow of it; accessed and dirty bits are set byte by byte, not atomically; data breakpoints are
not looked at; XSAVE and its like write back what they leave alone in their area.

Not here: whatever KVM does itself, nested guests (`KVM_RUN_X86_GUEST_MODE`), virtual-8086 mode, task gates,
CET shadow stacks. Those end as if this package did not exist.
"""
