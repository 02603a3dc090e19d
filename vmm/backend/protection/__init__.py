# SPDX-License-Identifier: Apache-2.0
"""Rights of VTLs to guest memory on KVM (`vmm.vsm.outside.Enforcement`), and the exits of accesses that they refuse.

| module | what it holds |
|---|---|
| `choose`, `host` | which of the two ways a machine takes; `HostProtection`, what both offer to it |
| `attributes` | enforcement by KVM_SET_MEMORY_ATTRIBUTES, where a kernel has R, W and X |
| `faults` | the exits of such a kernel |
| `covers` | pages that an overlay hides: their rights wait until they are seen again |
| `mapping`, `view` | enforcement by what each VTL's VM has mapped, on any KVM |
| `mapping_faults`, `mapping_host` | the exits of such a machine; its `HostProtection` |
| `mmio_exit` | what KVM_EXIT_MMIO says, and its answer |
| `mmio_writes` | those of its accesses that are writes: made, or their instructions taken back |
| `repeats` | instructions that stop again and again for no known reason |
| `lacking` | the pages that an instruction or event needs and the mapping does not have |
| `touches`, `operands` | which memory an instruction or an event touches, to find a refused access without an address |
| `decoded` | what capstone says of an instruction |
| `vector_operands`, `far_operands`, `state_operands` | operands of those that access more, or less, than it says |
| `write_origin`, `unfinished` | instructions that KVM's emulator has half done: found, and taken back |
| `kept_writes` | writes of those that are not found: made when the VTL goes on |
| `events` | exceptions and interrupts whose delivery was refused |
| `stepping`, `alone` | one instruction with pages in the mapping that must not be executed |
| `by_hand` | instructions that must not be carried out that way |
| `stuck` | processors that KVM keeps at one instruction without an exit |
| `exactness` | what a host can enforce and tell that way, and what it costs |
"""
