# SPDX-License-Identifier: Apache-2.0
"""`make spec`: how much of the Hyper-V and VSM checklist is implemented, and what proves it.

The 315 items are those of tests/data/tlfs-vsm-checklist.md. Nothing is counted that is not written down:

- **implemented**: a docstring or comment in `vmm/` has a line `Implements: HC-003, HC-004` at the code that does it.
  The list may go on in the next line after a comma.
- **tested**: a test has `@pytest.mark.tlfs("HC-003", "HC-004")`, on the function, its class, a parameter, or as
  the module's `pytestmark`.
- **proven**: implemented, and tested by at least one test that passed when it last ran, and by none that failed.
  `tests/conftest.py` has every test run leave its results in build/spec/, one file for each ring (pure, host, lab).

- **class**: why an item cannot be shown, in `classes`, with a reason each. What is neither proven nor in a class is
  open.

A result counts only as long as the test still claims the item. An id that the checklist does not have is an error.

The results' place is build/spec, or $VMM_SPEC_DIR. They are told apart by host: the pure ring has none, else it is
what gives the machine its /dev/kvm (kvm_intel, kvm_amd ...), or the words of $VMM_SPEC_HOST, for a run in the lab.
"""
