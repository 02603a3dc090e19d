# SPDX-License-Identifier: Apache-2.0
"""Rights of VTLs to guest memory on KVM (`vmm.vsm.outside.Enforcement`), and the exits of accesses that they refuse.

| module | what it holds |
|---|---|
| `attributes` | enforcement by KVM_SET_MEMORY_ATTRIBUTES, where a kernel has R, W and X |
| `faults` | the exits of such a kernel |
| `covers` | pages that an overlay hides: their rights wait until they are seen again |
"""
