# SPDX-License-Identifier: Apache-2.0
"""What the VPs of a machine do, counted: `vmm run --stats`.

A machine whose VPs nobody counts has none of this: counters are put around KVM_RUN (`counting`), and given to the VTL
schedulers, before it runs.

| module | what it holds |
|---|---|
| `counts` | the counters of a machine, a VP, a VTL, and who may add to them |
| `counting` | KVM_RUN with counters around it |
| `kernel_counts` | what KVM itself counts of a vCPU |
| `figures` | all of it at one moment, differences, and the JSON form |
"""
