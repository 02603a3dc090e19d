# SPDX-License-Identifier: Apache-2.0
"""Overlay pages: pages of the VMM's own that a guest finds at a GPA it chose (TLFS 5.2).

`pages` holds the pages and the rule for several on one GPA; `copying` shows them by copying into guest RAM.
What is in a page (messages, time, code) is its owner's business: `vmm.synic`, `vmm.timers`, `vmm.hvmsr`.

No KVM, threads or files here: how a page comes to be seen by a guest is an `OverlayBackend`.
"""
