# SPDX-License-Identifier: Apache-2.0
"""Our guests of memory protections on this host's KVM: the rules one by one, and the attack suite.

What a host cannot enforce is skipped by the guests, by name, with the status that VTL1 was told. Rows of the attack
suite that a host is known not to come back from are left out by name here.
"""

from __future__ import annotations

import pytest

from kvmapi import Kvm
from kvmapi.vsm_support import vsm_support
from tests.host.run.launch import guest, vmm_run
from vmm.backend.host_profile import kvm_modules
from vmm.backend.protection.choose import AUTO, Way, choose

pytestmark = [pytest.mark.host, pytest.mark.timeout(150)]

ROWS = {
    "access": 59,
    "ring-3": 13,
    "read-only": 20,
    "fetch": 10,
    "page-tables": 15,
    "delivery": 5,
    "hypercall": 20,
    "overlay": 38,
    "DMA": 9,
    "registers": 35,
    "register-writes": 13,
    "processors": 7,
}
"""Of the attack suite, by class."""

EMULATED_RING_0_LACKS = {
    "page-tables": ("a_walk_through", "an_accessed_bit", "a_dirty_bit"),
    "delivery": ("the_stack",),
}
"""Words of rows, _ for blanks: KVM gives VTL0 a fault of its own and tells nobody. VTL0 sees and changes nothing."""


def has_attributes() -> bool:
    """Whether this host's KVM enforces rights by memory attributes."""
    with Kvm.open() as kvm:
        return choose(AUTO, vsm_support(kvm), huge_pages=False) is Way.ATTRIBUTES


def lacking(name: str) -> tuple[str, ...]:
    """Words of the rows of a class that this host is known not to enforce, or not to tell of exactly."""
    if has_attributes() or kvm_modules().hardware:
        return ()
    return EMULATED_RING_0_LACKS.get(name, ())


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_every_rule_is_kept(cpus: int) -> None:
    result = vmm_run(guest("vtlprotect"), "--machine", "vsm=on", "--cpus", str(cpus), "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert result.stdout.count("PASS") > 150
    assert result.stderr == ""


@pytest.mark.tlfs("DISC-007")
def test_vtls_that_a_flag_of_the_processor_asks_for_protect_as_well() -> None:
    result = vmm_run(guest("vtlprotect"), "--cpu", "max,hv-passthrough,hv-vsm", "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert result.stdout.count("PASS") > 150
    assert result.stderr == ""


@pytest.mark.tlfs("DISC-007")
def test_what_the_user_says_of_protection_counts_for_them_too() -> None:
    result = vmm_run(guest("vtlprotect"), "--cpu", "max,hv-passthrough,hv-vsm", "--protection", "attributes")

    refused = "--protection attributes: expected a KVM with R/W/X memory attributes" in result.stderr
    assert (result.returncode, refused) == ((1, False) if has_attributes() else (2, True)), result.stderr


@pytest.mark.tlfs("VSM-010", "VSM-039")
@pytest.mark.parametrize("words", ["reboot", "reboot keep"])
def test_a_reset_ends_protections(words: str) -> None:
    result = vmm_run(guest("vtlprotect"), "--machine", "vsm=on", "--append", words, "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert "PASS: after a reset: VTL0 reads a page that it could not" in result.stdout


@pytest.mark.tlfs("VSM-009")
def test_a_default_mask_without_execute_holds_or_is_refused() -> None:
    """Refused where ring 0 is emulated, which would find no page table (`vmm.backend.protection.mapping`)."""
    result = vmm_run(guest("vtlprotect"), "--machine", "vsm=on", "--append", "mask=3", "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    refused = "SKIP: this machine protects no memory with default mask 0x3" in result.stdout
    holds = "PASS: default mask: execute with default mask 0x3: 1 intercepts" in result.stdout
    can_hold = has_attributes() or kvm_modules().hardware
    assert (holds, refused) == (can_hold, not can_hold)


@pytest.mark.tlfs("IMP-007")
@pytest.mark.parametrize("name", ROWS)
def test_no_attack_gets_through(name: str) -> None:
    known = lacking(name)
    words = f"class={name}" + (f" without={','.join(known)}" if known else "")

    result = vmm_run(
        guest("attacks"), "--machine", "vsm=on", "--cpus", "2", "--append", words, "--time-limit", "50"
    )

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert f"\n{ROWS[name]} rows\n" in result.stdout.replace("\r", "")
    assert result.stdout.count("left out") >= len(known)


def test_a_crash_report_tells_no_secret() -> None:
    result = vmm_run(guest("attacks"), "--machine", "vsm=on", "--append", "crash", "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "the guest reports a crash" in result.stderr
    assert ".SEcRET." not in result.stdout + result.stderr
