# SPDX-License-Identifier: Apache-2.0
"""The KVM UAPI in ctypes, under C's names and without behaviour.

| module | header |
|---|---|
| `kvm` | linux/kvm.h of Linux 6.12 |
| `x86` | asm/kvm.h and the kvm_para.h headers |
| `vsm` | what a kernel with Hyper-V VSM adds; in no released header |

The first two only collect the modules that hold a family of declarations each (`kvm_run`, `x86_vcpu` ...).
A test compiles C against the headers and compares every structure, offset and constant.
"""
