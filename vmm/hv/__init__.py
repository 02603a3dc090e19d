# SPDX-License-Identifier: Apache-2.0
"""The Hyper-V guest interface (TLFS, x86-64) as data: numbers, names, layouts. No behaviour lives here.

| module | what it holds |
|---|---|
| `constants` | partition and VP ids, VTL numbers, sizes |
| `status` | `HvStatus`, what a hypercall returns |
| `call_codes` | `HypercallCode` |
| `registers` | `HvRegisterName`: VP registers with type, access, VTL scope, MSR alias, bits |
| `msrs` | `HvMsr`: synthetic MSRs with access, VTL scope, privilege, reset value, bits |
| `x64_msrs` | `X64Msr`: architectural MSRs with access and VTL scope |
| `cpuid` | leaves 0x40000000 to 0x4000000C and 0x40000080 to 0x40000082 |
| `messages` | `HvMessageType`, `HV_MESSAGE` and the intercept messages |
| `inputs`, `outputs` | the parameter blocks of hypercalls |
| `vp_pages` | VP assist page, reference TSC page |
| `hypercall_words`, `register_bits`, `msr_bits`, `memory_bits` | 64-bit words with named bits |
| `bits`, `layout`, `open_enum`, `access` | how the above is written down |

Names are those of the TLFS, so that a search for one finds its number, its layout and its handler. Where
documents disagree, the text says which reading is taken; the numbers of the disagreements (DIS-01 ...) are
those of section 13 of `tests/data/tlfs-vsm-checklist.md`.
"""
