# SPDX-License-Identifier: Apache-2.0
"""The real /dev/kvm: what is probed is what KVM does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmapi import Kvm, KvmError
from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from tests.patience import patient
from vmm.backend.host_profile import HostProfile, probe
from vmm.backend.ring0 import RATE, Outcome, main, measure_ring0
from vmm.machine.cpu import CpuidEntry, Topology, parse_cpu, resolve_cpu
from vmm.machine.cpu.models import NAMES

pytestmark = pytest.mark.host
ROOT = Path(__file__).parents[3]
FEW_CPUS = 4


@pytest.fixture(scope="module")
def kvm() -> Iterator[Kvm]:
    with Kvm.open() as opened:
        yield opened


@pytest.fixture(scope="module")
def host(kvm: Kvm) -> HostProfile:
    return probe(kvm)


def test_answers_are_kvms(kvm: Kvm, host: HostProfile) -> None:
    assert host.capabilities["nr_memslots"] == kvm.check_extension(k.KVM_CAP_NR_MEMSLOTS)
    assert host.max_vcpus == kvm.check_extension(k.KVM_CAP_MAX_VCPUS)
    # What a leaf tells of the processor that it was asked on (its APIC id in EBX and EDX) may differ.
    supported = [(leaf.function, leaf.index, leaf.flags, leaf.eax) for leaf in kvm.supported_cpuid()]
    assert [tuple(leaf)[:4] for leaf in host.supported_cpuid] == supported


def test_this_host_can_run_guests(host: HostProfile) -> None:
    assert host.can_run


def test_the_kind_agrees_with_kvms_single_answers(kvm: Kvm, host: HostProfile) -> None:
    attributes = host.memory_attributes & 7 == 7
    hyperv = kvm.check_extension(k.KVM_CAP_HYPERV) > 0
    assert host.kind == ("patched" if attributes and host.vsm else "upstream" if hyperv else "bare")


def test_probe_leaves_no_file_open(kvm: Kvm) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        probe(kvm)
    assert len(os.listdir("/proc/self/fd")) == before


def test_feature_msrs_can_be_set_and_read_back(kvm: Kvm, host: HostProfile) -> None:
    assert host.feature_msrs
    with kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        vcpu.set_cpuid2(kvm.supported_cpuid())
        for pair in host.feature_msrs.items():
            vcpu.set_msrs([pair])
            assert vcpu.get_msrs([pair[0]]) == [pair]


@pytest.mark.parametrize("model", NAMES)
def test_kvm_accepts_every_model(kvm: Kvm, host: HostProfile, model: str) -> None:
    cpu = resolve_cpu(
        parse_cpu(model),
        [CpuidEntry(*leaf) for leaf in host.supported_cpuid],
        feature_msrs=host.feature_msrs,
        tsc_deadline=host.tsc_deadline,
    )
    topology = Topology(FEW_CPUS, threads=2)
    with kvm.create_vm() as vm:
        vm.create_irqchip()
        for apic_id in topology.apic_ids():
            entries = cpu.entries(topology, apic_id)
            vcpu = vm.create_vcpu(apic_id)
            vcpu.set_cpuid2([kvm_entry(item) for item in entries])
            vcpu.set_msrs(cpu.msrs)
            taken = {(e.function, e.index): (e.ebx, e.edx) for e in vcpu.get_cpuid2()}
            assert taken[1, 0][0] >> 24 == apic_id
            if (0xB, 0) in taken:
                assert taken[0xB, 0][1] == apic_id


def kvm_entry(item: CpuidEntry) -> x86.kvm_cpuid_entry2:
    names = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
    return x86.kvm_cpuid_entry2(**{name: getattr(item, name) for name in names})


def test_ring_0_experiment_ends_and_agrees_with_the_module(host: HostProfile) -> None:
    found = measure_ring0(host.vendor)
    assert found.error == ""
    # Emulators make a few million instructions a second, hardware thousands of millions.
    assert found.instructions_per_second > 50_000
    assert found.slow or host.modules.hardware, "without hardware virtualization ring 0 is emulated"
    assert found.outcomes["movdqu"] is Outcome.WORKS
    if host.modules.hardware:
        assert set(found.outcomes.values()) == {Outcome.WORKS}


def test_experiments_speak_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([RATE, "movdqu"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("trying") for line in lines] == [RATE, None, "movdqu", None]
    assert (lines[1]["result"] > 50_000, lines[3]["result"]) == (True, "works")


def test_doctor_as_a_command(host: HostProfile) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vmm", "doctor", "--json", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patient(60),
    )
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr, found["status"]) == (0, "", 0)
    assert (found["kvm"]["kind"], found["kvm"]["max_vcpus"]) == (host.kind, host.max_vcpus)


# Becomes an ordinary user where it is root, whom no permission bit stops; the imports come first because the
# interpreter may lie where that user cannot read.
AS_NOBODY = """
import os, sys
import vmm.cli.doctor
from vmm.cli.main import main
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
sys.exit(main(["doctor", "--quick", "--device", sys.argv[1]]))
"""


def test_a_device_that_may_not_be_opened_is_status_2() -> None:
    with tempfile.NamedTemporaryFile() as device:
        Path(device.name).chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, device.name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=patient(60),
        )
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(f"vmm doctor: {device.name}: permission denied (----------")
    assert "usermod -aG kvm" in second


def test_a_refused_vm_is_an_error_of_kvm(kvm: Kvm) -> None:
    with pytest.raises(KvmError):
        kvm.create_vm(0x7FFF)
