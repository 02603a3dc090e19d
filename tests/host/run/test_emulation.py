# SPDX-License-Identifier: Apache-2.0
"""Instructions that KVM may not be able to emulate do what the SDM says, on hosts where it can and where it cannot."""

from __future__ import annotations

import pytest

from tests.host.run.launch import guest, vmm_run

pytestmark = pytest.mark.host

# Every instruction of the guest that comes back on all hosts: VMCALL and VMMCALL never do on some.
NAMES = (
    "clac", "stac", "int3", "int", "xgetbv", "xsetbv", "invpcid", "clwb", "clflushopt", "movbe", "rdpru",
    "monitor", "ud2",
)  # fmt: skip


# KVM's emulator carries CLFLUSHOPT out whether CPUID has it or not.
WITHOUT_CLFLUSHOPT = tuple(name for name in NAMES if name != "clflushopt")


@pytest.mark.parametrize(("cpu", "names"), [("max", NAMES), ("qemu64", WITHOUT_CLFLUSHOPT)])
def test_every_instruction_executes_or_faults_as_cpuid_says(cpu: str, names: tuple[str, ...]) -> None:
    result = vmm_run(guest("badinsn"), "--append", " ".join(names), "--cpu", cpu, "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    verdicts = [line.split() for line in result.stdout.splitlines() if line.startswith(("PASS: ", "SKIP: "))]
    assert sorted(words[1].rstrip(":") for words in verdicts) == sorted(names)
    assert ["PASS:", "clac:"] in [words[:2] for words in verdicts]


@pytest.mark.parametrize("cpu", ["max", "qemu64"])
def test_effects_return_addresses_and_faults(cpu: str) -> None:
    result = vmm_run(guest("ringzero"), "--cpu", cpu, "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert "PASS: INT n returns behind itself" in result.stdout
