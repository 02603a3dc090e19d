# SPDX-License-Identifier: Apache-2.0
"""Virtual Trust Levels on KVM: a VM per VTL, and on each VP's thread the vCPU of the VTL that `vmm.vsm` says.

| module | what it holds |
|---|---|
| `shared_state` | what a VTL switch carries from one vCPU to another |
| `readiness` | whether the local APIC of an inactive VTL wants its VP |
"""
