# SPDX-License-Identifier: Apache-2.0
"""What our own guests find of the Hyper-V interface on a real KVM, item by item of the checklist.

A guest runs once for each way to switch the interface on; a test looks for the lines of its item.
"""

from __future__ import annotations

import pytest

from tests.host.run.launch import guest, vmm_run

pytestmark = pytest.mark.host
LIMIT = ("--time-limit", "50")
CHECKS = 78
"""Checks of the guest `hvcalls`."""
WAYS = [
    ["--machine", "hyperv=on"],
    ["--machine", "hyperv=on,irqchip=split"],
    ["--cpu", "qemu64,hv_passthrough,-x2apic"],
]


class Printed:
    """A guest's output."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()

    def passed(self, *beginnings: str) -> bool:
        """Whether there is a passed check for each, and no failed one."""
        return all(
            any(line.startswith(f"PASS: {beginning}") for line in self.lines)
            and not any(line.startswith(f"FAIL: {beginning}") for line in self.lines)
            for beginning in beginnings
        )


def run(name: str, *options: str) -> Printed:
    result = vmm_run(guest(name), *options, *LIMIT)
    assert "internal error" not in result.stderr
    return Printed(result.stdout + result.stderr)


@pytest.fixture(scope="module", params=WAYS, ids=lambda options: " ".join(options))
def calls(request: pytest.FixtureRequest) -> Printed:
    """`hvcalls` with three processors."""
    return run("hvcalls", *request.param, "--cpus", "3")


@pytest.fixture(scope="module")
def basics() -> Printed:
    """`hyperv` with two processors."""
    return run("hyperv", *WAYS[0], "--cpus", "2")


@pytest.fixture(scope="module")
def idle() -> Printed:
    """`hvcalls` with the idle MSR."""
    return run("hvcalls", "--cpu", "max,hv-passthrough,hv-guest-idle=on", "--append", "idle")


def test_no_check_fails(calls: Printed) -> None:
    assert [line for line in calls.lines if line.startswith(("FAIL", "SKIP"))] == []
    assert f"SUMMARY: {CHECKS} tests" in calls.lines


# ---- discovery -------------------------------------------------------------------------------------------


@pytest.mark.tlfs("DISC-001")
def test_a_hypervisor_is_present(calls: Printed) -> None:
    assert calls.passed("a hypervisor is present")


@pytest.mark.tlfs("DISC-015")
def test_no_virtualization_stack(calls: Printed) -> None:
    assert calls.passed("no virtualization stack")


# ---- hypercalls ------------------------------------------------------------------------------------------


@pytest.mark.tlfs("HCP-009")
def test_calling_the_page_is_a_hypercall_and_returns(basics: Printed) -> None:
    assert basics.passed("a fast call", "a slow call", "changes no register but RAX")


@pytest.mark.tlfs("HC-008")
def test_a_call_changes_nothing_but_its_result(basics: Printed) -> None:
    assert basics.passed("changes no register but RAX", "nor a flag")


@pytest.mark.tlfs("HC-007")
def test_fast_output(basics: Printed) -> None:
    assert basics.passed("fast GetVpRegisters", "its value in XMM1", "XMM0 stays")


@pytest.mark.tlfs("HC-020", "LNX-003")
def test_extended_calls(calls: Printed) -> None:
    assert calls.passed("extended capabilities", "announced", "no other extended call")


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("vendor, leaves to;interface Hv#1", marks=pytest.mark.tlfs("DISC-002", "DISC-003")),
        pytest.param("VP index;a read-only MSR refuses a write", marks=pytest.mark.tlfs("DISC-018")),
        pytest.param("a write-only MSR refuses a read", marks=pytest.mark.tlfs("APIC-001")),
        pytest.param("an unknown MSR refuses a read", marks=pytest.mark.tlfs("MISC-007")),
        pytest.param("TSC frequency", marks=pytest.mark.tlfs("TMR-018")),
        pytest.param("SynIC version", marks=pytest.mark.tlfs("SYN-002")),
        pytest.param("a SINT refuses vector 5", marks=pytest.mark.tlfs("SYN-004")),
        pytest.param("OS id 0 takes the page away", marks=pytest.mark.tlfs("HCP-002")),
        pytest.param("no hypercall page without an OS id", marks=pytest.mark.tlfs("HCP-004")),
        pytest.param("the page covers memory;and gives it back", marks=pytest.mark.tlfs("MISC-008")),
        pytest.param("reserved bit", marks=pytest.mark.tlfs("HC-001")),
        pytest.param("misaligned input", marks=pytest.mark.tlfs("HC-004")),
        pytest.param("unknown code", marks=pytest.mark.tlfs("HC-013")),
        pytest.param("stops at an unknown one: 0x100000005", marks=pytest.mark.tlfs("HC-010")),
        pytest.param("a fast cluster IPI;each got one;a slow one;vector 5", marks=pytest.mark.tlfs("VP-008")),
        pytest.param(
            "a timer message;message 0x80000010 of 24;due", marks=pytest.mark.tlfs("TMR-013", "SYN-020")
        ),
        pytest.param("a one-shot timer is off then;due", marks=pytest.mark.tlfs("TMR-011")),
        pytest.param(
            "a taken slot is marked;EOM brings the next", marks=pytest.mark.tlfs("SYN-022", "SYN-005")
        ),
        pytest.param("a periodic direct timer;silent when off", marks=pytest.mark.tlfs("TMR-014")),
        pytest.param("100 ns units", marks=pytest.mark.tlfs("TMR-002")),
        pytest.param("the counter lies between two reads of the page", marks=pytest.mark.tlfs("TMR-003")),
    ],
)
def test_of_the_basics(basics: Printed, lines: str) -> None:
    """Beginnings of lines of the guest `hyperv`, separated by semicolons, that prove an item together."""
    assert basics.passed(*lines.split(";"))


# ---- registers -------------------------------------------------------------------------------------------


@pytest.mark.tlfs("REG-001", "REG-002")
def test_registers_are_read_and_written(calls: Printed) -> None:
    assert calls.passed(
        "95 registers are read",
        "those that can be written keep their value",
        "CR3, EFER, PAT and SPIV are the processor's",
        "a written MSR is written",
    )


@pytest.mark.tlfs("REG-016")
def test_segments_are_laid_out_as_the_tlfs_says(calls: Printed) -> None:
    assert calls.passed("CS as TLFS lays it out")


@pytest.mark.tlfs("REG-005")
def test_partition_and_vp(calls: Printed) -> None:
    assert calls.passed("another partition", "a VP that is not there")


@pytest.mark.tlfs("REG-006")
def test_unknown_registers(calls: Printed) -> None:
    assert calls.passed("an unknown register", "a register of VTL1")


@pytest.mark.tlfs("REG-007", "REG-012")
def test_values_that_are_refused(calls: Printed) -> None:
    assert calls.passed(
        "a register that is read only",
        "paging without protection",
        "a memory type that is none",
        "a bit of CR4 that is none",
    )


@pytest.mark.tlfs("REG-015")
def test_registers_of_another_vp_while_it_runs(calls: Printed) -> None:
    assert calls.passed(
        "its RBX and RIP, while it runs", "its VP index and CR3", "its APIC id", "it saw the change"
    )


@pytest.mark.tlfs("REG-013")
def test_an_exception_for_another_vp(calls: Printed) -> None:
    assert calls.passed(
        "an exception for it", "it took the exception: error code 0x28", "no error code for an exception"
    )


# ---- processors ------------------------------------------------------------------------------------------


@pytest.mark.tlfs("VP-001", "VP-002", "VP-005")
def test_a_processor_starts_with_the_state_that_it_is_given(calls: Printed) -> None:
    assert calls.passed(
        "start: 0x0",
        "the second processor runs",
        "its control registers",
        "LMA is set",
        "its stack and GS base",
        "its flags and PAT",
        "its GDT",
    )


@pytest.mark.tlfs("VP-003")
def test_starts_that_are_refused(calls: Printed) -> None:
    assert calls.passed(
        "no processor starts with paging and without protection",
        "nor without a task register",
        "nor with bits of CR4 that are none",
        "nobody starts itself",
        "nor a processor that is not there",
        "nor another partition's",
        "nor one in VTL1",
        "a processor that runs is not started: 0x15",
        "the third still waits",
    )


@pytest.mark.tlfs("VP-006", "VP-007")
def test_vp_indices_of_apic_ids(calls: Printed) -> None:
    assert calls.passed("VP indices of two APIC ids")


@pytest.mark.tlfs("VP-020", "VP-022", "VP-023", "VP-024")
def test_addresses_are_translated(calls: Printed) -> None:
    assert calls.passed(
        "a page: code 0",
        "user mode may not read it",
        "nor anybody write it",
        "a page that is no memory",
        "a page that is not there",
        "the hypercall page is an overlay",
        "that nobody writes",
    )


@pytest.mark.tlfs("VP-021")
def test_flags_of_a_translation(calls: Printed) -> None:
    assert calls.passed("looking sets no bits", "unless asked to", "nothing to validate is an error")


@pytest.mark.tlfs("VP-025")
def test_the_ex_form_of_a_translation(calls: Printed) -> None:
    assert calls.passed("the Ex form")


# ---- interrupts, TLBs, the rest --------------------------------------------------------------------------


@pytest.mark.tlfs("APIC-002")
def test_icr_and_tpr_by_msr(calls: Printed, basics: Printed) -> None:
    assert calls.passed("the TPR's MSR holds an interrupt back", "the ICR's MSR reads")
    assert basics.passed("an IPI by the ICR's MSR", "TPR by MSR")


@pytest.mark.tlfs("APIC-003")
def test_an_ipi_to_oneself_comes_at_once(calls: Printed) -> None:
    assert calls.passed("an IPI to oneself by the ICR's MSR comes before the next instruction")


@pytest.mark.tlfs("APIC-004")
def test_no_eoi_is_needless(calls: Printed) -> None:
    assert calls.passed("no EOI is said to be needless: all 100 are made")


@pytest.mark.tlfs("SYN-024")
def test_interrupts_without_eoi(calls: Printed) -> None:
    assert calls.passed("the same vector again and again without an EOI: 5 times", "none stays in service")


@pytest.mark.tlfs("TLB-003", "TLB-001")
def test_a_flush_of_another_processor(basics: Printed) -> None:
    assert basics.passed("flush of both processors", "afterwards it reads the second only")


@pytest.mark.tlfs("TLB-006")
def test_the_address_space_is_switched(calls: Printed) -> None:
    assert calls.passed("address space switched", "none beyond physical memory")


@pytest.mark.tlfs("MISC-003")
def test_the_idle_msr_sleeps_until_an_interrupt(idle: Printed) -> None:
    assert idle.passed(
        "slept until the timer, interrupts off",
        "the interrupt is still to come",
        "slept until the timer, interrupts on",
        "the interrupt is taken",
        "without running",
    )


@pytest.mark.tlfs("MISC-005")
def test_run_time(calls: Printed) -> None:
    assert calls.passed("run time grows")


@pytest.mark.tlfs("MISC-009")
def test_invd_loses_nothing(calls: Printed) -> None:
    assert calls.passed("INVD loses nothing: 0")


def test_what_is_not_offered_faults(calls: Printed) -> None:
    assert calls.passed("no NPIEP: its MSR faults", "no idle MSR unless it is announced")
