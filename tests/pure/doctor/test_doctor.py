# SPDX-License-Identifier: Apache-2.0
"""What `vmm doctor` says about hosts of every kind."""

from __future__ import annotations

import argparse
import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from kvmapi import Kvm, KvmUnavailableError
from tests.pure.doctor.fake_hosts import (
    EMULATED,
    FACTS,
    NATIVE,
    bare,
    original,
    patched,
    profile,
    upstream,
    without,
)
from vmm.backend.host_profile import HostProfile
from vmm.backend.ring0 import Ring0
from vmm.cli import doctor
from vmm.cli.doctor import Report, as_json, examine, examined, table
from vmm.cli.doctor_findings import Finding, Severity, unavailable
from vmm.cli.doctor_host import DEVICE, DeviceFacts, HostFacts, device_facts, host_facts, huge_pages
from vmm.cli.main import main


def findings(host: HostProfile, ring0: Ring0 | None = NATIVE, facts: HostFacts = FACTS) -> dict[str, Finding]:
    report = examined(facts, host, ring0)
    keyed = {finding.key: finding for finding in report.findings}
    assert len(keyed) == len(report.findings)
    return keyed


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (bare(), "no Hyper-V emulation"),
        (upstream(), "no VSM additions"),
        (patched(), "has the VSM additions"),
    ],
)
def test_the_kind_of_host_is_explained(host: HostProfile, words: str) -> None:
    assert words in findings(host)["kind"].meaning


@pytest.mark.parametrize(
    ("host", "severity", "words"),
    [
        (patched(), Severity.OK, "on this host's /dev/kvm"),
        (patched(features=0x1BF), Severity.NOTE, "without: inactive_vtl"),
        (original(), Severity.NOTE, "with holes"),
    ],
)
def test_a_vsm_series_in_the_kernel_is_told(host: HostProfile, severity: Severity, words: str) -> None:
    finding = findings(host)["vsm_series"]

    assert (finding.severity, words in finding.meaning) == (severity, True)


def test_a_kernel_without_vsm_has_no_series_to_tell_of() -> None:
    assert "vsm_series" not in findings(upstream())


@pytest.mark.parametrize(
    ("host", "series", "features"),
    [
        (upstream(), "none", []),
        (
            original(),
            "original",
            ["fault_access", "rwx_attributes", "hcall_xmm", "hcalls", "ipi", "inactive_vtl"],
        ),
        (patched(features=0x03), "ours", ["fault_access", "fault_insn"]),
    ],
)
def test_json_names_the_series(host: HostProfile, series: str, features: list[str]) -> None:
    told = json.loads(json.dumps(as_json(examined(FACTS, host, NATIVE))))["kvm"]["vsm_series"]

    assert told == {"series": series, "features": features}


@pytest.mark.parametrize("host", [bare(), upstream(), patched()])
def test_hosts_of_every_kind_can_run_guests(host: HostProfile) -> None:
    assert examined(FACTS, host, NATIVE).status == 0


def test_a_missing_necessity_is_status_1() -> None:
    report = examined(FACTS, without(upstream(), "irqchip", "user_memory"), NATIVE)
    assert report.status == 1
    assert report.summary.startswith("missing: KVM_CAP_USER_MEMORY, KVM_CAP_IRQCHIP: no guest can run")


def test_a_missing_convenience_is_a_note() -> None:
    report = examined(FACTS, without(patched(), "sync_regs"), NATIVE)
    notes = [finding.key for finding in report.findings if finding.severity is Severity.NOTE]
    assert (report.status, notes, report.summary) == (
        0,
        ["wanted_sync_regs"],
        "guests can run, with a limitation",
    )


def test_nothing_to_note() -> None:
    assert examined(FACTS, patched(), NATIVE).summary == "guests can run"


def test_slow_ring_0_and_its_gaps_are_told() -> None:
    keyed = findings(bare(), EMULATED)
    assert "1.7 million" in keyed["ring0_speed"].found
    assert "int3" in keyed["ring0_gaps"].found
    assert "vmmcall" in keyed["ring0_hangs"].found
    assert "hyperv=on" in keyed["ring3_system_calls"].meaning


def test_a_kvm_that_makes_system_calls_is_not_blamed() -> None:
    assert "ring3_system_calls" not in findings(bare(), NATIVE)


def test_ring_0_that_does_not_run_is_a_problem() -> None:
    report = examined(FACTS, bare(), Ring0(error="KVM_CREATE_VM failed"))
    assert (report.status, "KVM_CREATE_VM failed" in report.summary) == (1, True)


def test_unmeasured_ring_0_is_left_out() -> None:
    assert not {key for key in findings(bare(), None) if key.startswith("ring0")}


@pytest.mark.parametrize(
    ("facts", "change"),
    [
        (FACTS, "sudo modprobe kvm_amd instead of kvm_pvm"),
        (replace(FACTS, virtualization="vmx"), "sudo modprobe kvm_intel instead of kvm_pvm"),
        (replace(FACTS, virtualization="", virtualized=True), "nested virtualization"),
        (replace(FACTS, virtualization=""), "firmware"),
    ],
)
def test_what_to_do_about_missing_hardware_virtualization(facts: HostFacts, change: str) -> None:
    assert change in findings(bare(), facts=facts)["engine"].change


def test_nested_virtualization_can_be_turned_on() -> None:
    host = profile("kvm_intel")
    off = replace(host, modules=replace(host.modules, parameters={"kvm_intel.nested": "N"}))
    assert [findings(h)["nested"].severity for h in (host, off)] == [Severity.OK, Severity.NOTE]
    assert "modprobe kvm_intel nested=1" in findings(off)["nested"].change


@pytest.mark.parametrize(
    ("facts", "key", "severity", "change"),
    [
        (replace(FACTS, memory_available=100 << 20), "memory", Severity.NOTE, "--memory"),
        (replace(FACTS, huge_pages=(512, 100, 2 << 20)), "huge_pages", Severity.OK, ""),
        (FACTS, "huge_pages", Severity.OK, "vm.nr_hugepages"),
        # 1024 processors with two files each, and 64 others
        (replace(FACTS, open_files=256, open_files_hard=256), "open_files", Severity.NOTE, "ulimit -n 2112"),
        (replace(FACTS, open_files=256, open_files_hard=20000), "open_files", Severity.OK, ""),
        (replace(FACTS, open_files=-1, open_files_hard=-1), "open_files", Severity.OK, ""),
        (replace(FACTS, locked_memory=-1), "locked_memory", Severity.OK, ""),
        (
            replace(FACTS, tools={"gcc": "/usr/bin/gcc"}),
            "tools",
            Severity.NOTE,
            "install make qemu-system-x86",
        ),
        (FACTS, "tools", Severity.OK, ""),
    ],
)
def test_host_findings(facts: HostFacts, key: str, severity: Severity, change: str) -> None:
    finding = findings(patched(), facts=facts)[key]
    assert (finding.severity, change in finding.change) == (severity, True)


@pytest.mark.parametrize(
    ("device", "virtualization", "virtualized", "found", "change"),
    [
        (DeviceFacts("/dev/kvm", False, False), "svm", False, "no such device", "modprobe kvm_amd"),
        (DeviceFacts("/dev/kvm", False, False), "vmx", False, "no such device", "modprobe kvm_intel"),
        (DeviceFacts("/dev/kvm", True, True), "svm", False, "no driver behind it", "modprobe kvm_amd"),
        (DeviceFacts("/dev/kvm", True, True), "vmx", False, "no driver behind it", "modprobe kvm_intel"),
        (DeviceFacts("/dev/kvm", False, False), "", True, "no such device", "in the hypervisor"),
        (DeviceFacts("/dev/kvm", False, False), "", False, "no such device", "in the firmware"),
        (
            DeviceFacts("/dev/kvm", True, False, "crw-rw----", "root", "kvm"),
            "svm",
            False,
            "permission denied",
            "usermod -aG kvm ada",
        ),
        (
            DeviceFacts("/dev/kvm", True, False, "crw-------", "root", "root"),
            "svm",
            False,
            "permission denied",
            "chgrp kvm /dev/kvm",
        ),
    ],
)
def test_why_kvm_cannot_be_used(
    device: DeviceFacts, virtualization: str, virtualized: bool, found: str, change: str
) -> None:
    facts = replace(FACTS, device=device, virtualization=virtualization, virtualized=virtualized)
    finding = unavailable(facts)
    assert (finding.severity, found in finding.found, change in finding.change) == (
        Severity.PROBLEM,
        True,
        True,
    )


def test_a_missing_device_is_status_2_with_two_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["doctor", "--device", str(tmp_path / "kvm")])
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    first, second = output.err.splitlines()
    assert first.startswith(f"vmm doctor: {tmp_path}/kvm: no such device")
    assert second.startswith("what to do: ")


def test_a_file_that_is_not_kvm_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kvm").write_text("")
    assert main(["doctor", "--device", str(tmp_path / "kvm")]) == 2
    assert "not a usable KVM" in capsys.readouterr().err


def test_a_directory_is_not_kvm_and_what_to_do_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--device", str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "Is a directory" in first
    assert second == "what to do: name KVM's device, /dev/kvm on most hosts"


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (errno.EACCES, "in a container pass --device {}; elsewhere look for a mount with 'nodev'"),
        (errno.EPERM, "in a container pass --device {}; elsewhere look for a mount with 'nodev'"),
        (errno.ENODEV, "modprobe kvm_"),
    ],
)
def test_a_device_whose_permissions_are_fine_is_not_a_matter_of_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, change: str
) -> None:
    (tmp_path / "kvm").write_text("")

    def refuse(path: str) -> None:
        raise KvmUnavailableError(number, "open", {"path": path})

    monkeypatch.setattr(Kvm, "open", staticmethod(refuse))
    monkeypatch.setattr(
        doctor, "host_facts", lambda path: replace(FACTS, device=device_facts(path), user="root")
    )
    finding = examine(tmp_path / "kvm", None).findings[0]
    assert change.format(tmp_path / "kvm") in finding.change
    assert "usermod" not in finding.change


def test_root_is_not_told_to_join_a_group() -> None:
    device = DeviceFacts("/dev/kvm", True, False, "crw-rw----", "nobody", "nogroup")
    finding = unavailable(replace(FACTS, device=device, user="root"))
    assert "usermod" not in finding.change and "user namespace" in finding.change


def test_open_files_are_told_in_processors() -> None:
    facts = replace(FACTS, open_files=1024, open_files_hard=1264)
    assert "up to 600 processors: each takes 2" in findings(patched(), facts=facts)["open_files"].meaning


def test_json_without_kvm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--device", str(tmp_path / "kvm")]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["can_run"], found["kvm"], found["ring0"]) == (2, False, None, None)
    assert found["findings"][0]["key"] == "device"
    assert found["host"]["device"]["exists"] is False


def test_json_keys_are_the_documented_ones() -> None:
    found = as_json(examined(FACTS, patched(), EMULATED))
    documented = {
        line.split("`")[1] for line in (doctor.__doc__ or "").splitlines() if line.startswith("| `")
    }
    inner = {key for line in (doctor.__doc__ or "").splitlines() for key in line.split("`")[1::2]}
    assert set(found) == documented
    assert set(found["kvm"]) | set(found["ring0"]) | set(found["findings"][0]) <= inner
    assert found["schema"] == 1


def test_json_is_json_and_carries_the_facts() -> None:
    found = json.loads(json.dumps(as_json(examined(FACTS, patched(), EMULATED))))
    assert (found["kvm"]["kind"], found["kvm"]["hyperv"]) == (
        "patched",
        {"ebx": 0x0023_0230, "edx": 0x8010, "vsm": True},
    )
    assert found["kvm"]["vm_capabilities"]["max_vcpus"] == 1024
    assert found["ring0"]["outcomes"] == {
        "int3": "unemulated",
        "movdqu": "works",
        "vmmcall": "hangs",
        "syscall in ring 3": "stays in ring 3",
    }
    assert found["host"]["memory_total"] == 16 << 30


@pytest.mark.parametrize("columns", [20, 80, 110, 400])
def test_table_has_three_columns_and_stays_in_its_width(columns: int) -> None:
    text = table(examined(FACTS, bare(), EMULATED).findings, columns)
    lines = text.splitlines()
    assert {line.count(" | ") for line in lines if "-+-" not in line} <= {2, 1}  # trailing blanks are cut
    assert max(map(len, lines)) <= min(max(columns, 72), 150)


def test_table_loses_no_word() -> None:
    report = examined(FACTS, bare(), EMULATED)
    printed = set(table(report.findings, 110).split())
    words = {
        word for f in report.findings for text in (f.found, f.meaning, f.change) for word in text.split()
    }
    assert words - printed == set()


def test_the_report_ends_with_the_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = examined(FACTS, bare(), EMULATED)
    monkeypatch.setattr(doctor, "examine", lambda device, measure: report)
    assert doctor.run(argparse.Namespace(device=DEVICE, quick=False, json=False)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "guests can run, with 5 limitations"


def test_quick_does_not_measure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    measured: list[object] = []

    def look(device: Path, measure: object) -> Report:
        measured.append(measure)
        return examined(FACTS, patched(), None)

    monkeypatch.setattr(doctor, "examine", look)
    main(["doctor", "--quick"])
    assert measured == [None]
    assert "guests can run" in capsys.readouterr().out


def test_this_hosts_facts_are_plausible(tmp_path: Path) -> None:
    facts = host_facts(tmp_path / "kvm")
    assert facts.cores >= 1
    assert facts.memory_total > facts.memory_available > 0
    assert facts.kernel[0].isdigit()
    assert facts.device == DeviceFacts(str(tmp_path / "kvm"), exists=False, permitted=False)


def test_device_facts(tmp_path: Path) -> None:
    path = tmp_path / "kvm"
    path.touch(0o640)
    path.chmod(0o640)
    facts = device_facts(path)
    assert (facts.exists, facts.mode) == (True, "-rw-r-----")


def test_huge_pages_from_meminfo() -> None:
    text = "MemTotal: 1 kB\nHugePages_Total:     512\nHugePages_Free:      12\nHugepagesize:       2048 kB\n"
    assert [huge_pages(text), huge_pages("")] == [(512, 12, 2 << 20), (0, 0, 0)]


def test_examine_reports_the_missing_device_first(tmp_path: Path) -> None:
    report = examine(tmp_path / "kvm", None)
    assert (report.status, report.host, report.findings[0].key) == (2, None, "device")


def test_slow_ring_0_with_hardware_virtualization_is_not_called_emulated() -> None:
    """A KVM inside an emulated machine (the lab) is slow for another reason."""
    finding = findings(upstream(), EMULATED)["ring0_speed"]
    assert "natively" in finding.meaning and "emulated one" not in finding.meaning


def test_a_processor_without_xsave_is_not_blamed_on_the_kernel() -> None:
    report = examined(replace(FACTS, xsave=False), without(upstream(), "xcrs"), NATIVE)
    finding = {finding.key: finding for finding in report.findings}["wanted_xcrs"]
    assert "the processor has no XSAVE" in finding.meaning and finding.change == ""
