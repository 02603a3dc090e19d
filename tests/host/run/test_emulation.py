# SPDX-License-Identifier: Apache-2.0
"""Instructions that KVM may not be able to emulate do what the SDM says, on hosts where it can and where it cannot."""

from __future__ import annotations

import pytest

from tests.host.run.launch import guest, vmm_run
from tests.patience import IN_LAB
from vmm.backend.host_profile import kvm_modules

pytestmark = pytest.mark.host

# Every instruction of the guest that comes back on all hosts: VMCALL and VMMCALL never do on some.
NAMES = (
    "clac", "stac", "int3", "int", "xgetbv", "xsetbv", "invpcid", "clwb", "clflushopt", "movbe", "rdpru",
    "monitor", "ud2",
)  # fmt: skip

NOT_AS_CPUID_SAYS = {
    ("emulated", "max"): set(),
    # KVM's emulator carries CLFLUSHOPT out whether CPUID has it or not.
    ("emulated", "qemu64"): {"clflushopt"},
    # VT-x and SVM carry out what the host's processor has; and KVM makes MONITOR a NOP where a guest has none
    # (api.rst KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS).
    ("hardware", "max"): {"monitor"},
    ("hardware", "qemu64"): {"monitor", "clac", "stac", "clwb", "clflushopt", "movbe"},
}
"""By whether ring 0 is emulated and the processor's model: instructions that KVM does not make follow CPUID."""

OF_THE_LABS_PROCESSOR = {
    "FAIL: INT n through an absent gate: #NP of the IDT's entry",  # its error code has twice the entry's number
    # CLWB does nothing there.
    "FAIL: CLWB of an absent page: #PF, a read's",
    "FAIL: CLWB of an address that is not canonical: #GP(0)",
    "FAIL: the same through RBP: #SS(0)",
}
"""Checks of ringzero that QEMU's software emulation fails, not KVM."""


@pytest.mark.parametrize("cpu", ["max", "qemu64"])
def test_every_instruction_executes_or_faults_as_cpuid_says(cpu: str) -> None:
    ring0 = "hardware" if kvm_modules().hardware else "emulated"
    names = [name for name in NAMES if name not in NOT_AS_CPUID_SAYS[ring0, cpu]]

    result = vmm_run(guest("badinsn"), "--append", " ".join(names), "--cpu", cpu, "--time-limit", "50")

    assert result.returncode == 1, result.stdout + result.stderr
    verdicts = [line.split() for line in result.stdout.splitlines() if line.startswith(("PASS: ", "SKIP: "))]
    assert sorted(words[1].rstrip(":") for words in verdicts) == sorted(names)
    assert ["PASS:", "int3:"] in [words[:2] for words in verdicts]
    assert (["PASS:", "clac:"] in [words[:2] for words in verdicts]) is ("clac" in names)


@pytest.mark.parametrize("cpu", ["max", "qemu64"])
def test_effects_return_addresses_and_faults(cpu: str) -> None:
    result = vmm_run(guest("ringzero"), "--cpu", cpu, "--cpus", "2", "--time-limit", "50")

    failed = {line for line in result.stdout.splitlines() if line.startswith("FAIL")}
    assert result.returncode == (3 if failed else 1), result.stdout + result.stderr
    assert failed <= (OF_THE_LABS_PROCESSOR if IN_LAB else set()), result.stdout
    assert "PASS: INT n returns behind itself" in result.stdout
