# SPDX-License-Identifier: Apache-2.0
"""Our guests with Virtual Trust Levels pass on this host's KVM, with one and with several processors."""

from __future__ import annotations

import pytest

from tests.host.run.launch import guest, vmm_run

pytestmark = [pytest.mark.host, pytest.mark.timeout(150)]


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "vtlenable",
            marks=pytest.mark.tlfs("VSM-027", "VSM-033", "VSM-034", "VSM-036", "WIN-004", "LNX-006"),
        ),
        pytest.param(
            "vtlswitch", marks=pytest.mark.tlfs("VSM-043", "VSM-045", "VSM-052", "IMP-001", "WIN-014")
        ),
        pytest.param(
            "vtlirq",
            marks=pytest.mark.tlfs(
                "VSM-059",
                "VSM-123",
                "VSM-124",
                "VSM-125",
                "VSM-126",
                "VSM-128",
                "VSM-130",
                "VSM-131",
                "TMR-016",
                "SYN-030",
                "IMP-003",
            ),
        ),
        pytest.param(
            "vtlregs",
            marks=pytest.mark.tlfs(
                "DISC-017",
                "VSM-044",
                "VSM-060",
                "VSM-061",
                "VSM-062",
                "VSM-063",
                "VSM-068",
                "VSM-069",
                "IMP-005",
                "IMP-008",
            ),
        ),
        pytest.param("vtltime", marks=pytest.mark.tlfs("VSM-067", "IMP-004")),
        "vtlvina",
        "vtlaccess",
        pytest.param("vtlio", marks=pytest.mark.tlfs("VSM-112", "VSM-119", "VSM-120", "VSM-105", "WIN-008")),
        pytest.param("vtlmsr", marks=pytest.mark.tlfs("VSM-112", "VSM-113", "VSM-114", "VSM-117", "REG-013")),
        "worlds",
    ],
)
def test_every_check_passes(name: str, cpus: int) -> None:
    result = vmm_run(guest(name), "--machine", "vsm=on", "--cpus", str(cpus), "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert "SUMMARY" in result.stdout
    assert result.stderr == ""


def test_all_ports_can_be_intercepted_where_kvm_decodes_none() -> None:
    options = ("--machine", "vsm=on,irqchip=split", "--cpus", "2", "--append", "split")

    result = vmm_run(guest("vtlio"), *options)

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert "PASS: VTL0's hypercalls are not ports" in result.stdout


@pytest.mark.tlfs("SYN-029", "SYN-030", "VSM-090")
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_a_third_vtl_is_above_the_second(cpus: int) -> None:
    result = vmm_run(
        guest("vtl2"),
        *("--machine", "vsm=on,vtls=3", "--cpus", str(cpus), "--append", "reboot", "--time-limit", "50"),
    )

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    for check in ("VINA: and no more", "direct: rights: nor of VTL0's, when that has its rights back"):
        assert result.stdout.count(f"PASS: {check}") == 2  # before and after the reboot


def test_a_third_vtl_is_there_only_where_the_machine_has_it() -> None:
    result = vmm_run(guest("vtl2"), "--machine", "vsm=on")

    assert "SKIP: VTL2 is not offered" in result.stdout


@pytest.mark.tlfs("WIN-003")
def test_processors_start_as_their_vtls_say() -> None:
    # no-init: KVM carries out INIT and SIPI to a processor that runs, whatever VTLs it has.
    result = vmm_run(guest("vtlstart"), "--machine", "vsm=on", "--cpus", "5", "--append", "no-init")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout


@pytest.mark.tlfs("WIN-003")
def test_a_secure_kernel_comes_up_on_all_processors_and_protects_memory() -> None:
    result = vmm_run(guest("worlds"), "--machine", "vsm=on", "--cpus", "2", "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "enabled on 2 processors: by VTL0 on the first, by VTL1 on the others" in result.stdout
    assert "VTL1 takes from VTL0: its vault" in result.stdout
    assert result.stdout.count("PASS: VTL1 answers with #GP, and nothing is seen or changed") >= 3
    assert "FAIL" not in result.stdout and "SKIP" not in result.stdout


def test_the_two_worlds_survive_a_reboot() -> None:
    result = vmm_run(guest("worlds"), "--machine", "vsm=on", "--cpus", "2", "--append", "reboot")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout


def test_every_ipi_between_higher_vtls_comes() -> None:
    result = vmm_run(
        guest("vtlwait"), "--machine", "vsm=on", "--cpus", "2", "--append", "rounds=30", "--time-limit", "100"
    )

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout


def test_counts_add_up_under_stress() -> None:
    result = vmm_run(guest("vtlstress"), "--machine", "vsm=on", "--cpus", "4", "--append", "seconds=10")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout


def test_a_machine_without_them_offers_none() -> None:
    result = vmm_run(guest("vtlenable"), "--machine", "hyperv=on")

    assert "SKIP" in result.stdout
    assert "PASS: VTL1" not in result.stdout


def test_virtual_trust_levels_need_the_interface() -> None:
    result = vmm_run(guest("dummy"), "--machine", "vsm=on,hyperv=off")

    assert result.returncode == 2
    assert result.stderr.startswith("vmm: Virtual Trust Levels are a part of the Hyper-V interface")
