# SPDX-License-Identifier: Apache-2.0
"""The synthetic interrupt controller (TLFS chapter 11): messages, event flags, connections.

| module | what it holds |
|---|---|
| `interrupts` | the way to a VP's local APIC, as a protocol |
| `messages` | a message: from the moment it is posted until the guest finds it in its slot |
| `synic` | one VP's and VTL's SynIC: registers, message queues, event flags |
| `connections` | from a connection id to the port behind it: HvPostMessage and HvSignalEvent |
| `test_routes` | what kvm-unit-tests' hyperv-testdev asks for |

No KVM, threads or files.

Locks: each `Synic` has one, taken below a timer's and above the overlay lock. It is never held while an
interrupt is requested or a sender is told.
"""
