# SPDX-License-Identifier: Apache-2.0
"""What a host profile makes of KVM's answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from kvmapi import Kvm
from kvmapi.vsm_support import VsmSeries, VsmSupport
from tests.pure.doctor.fake_hosts import (
    HYPERV,
    NEEDED,
    PATCHED_HYPERV,
    UPSTREAM_HYPERV,
    FakeKvm,
    bare,
    original,
    patched,
    upstream,
    without,
)
from vmm.backend.host_capabilities import CAPABILITIES, GROUPS, Need
from vmm.backend.host_profile import HostKind, HostProfile, kvm_modules, probe, processor_name


def probed(**answers: Any) -> HostProfile:
    keywords = {key: answers.pop(key) for key in ("settable", "leaves") if key in answers}
    return probe(cast(Kvm, FakeKvm(NEEDED | answers, **keywords)))


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        (bare(), HostKind.BARE),
        (upstream(), HostKind.UPSTREAM),
        (patched(), HostKind.PATCHED),
        (original(), HostKind.PATCHED),
        (without(patched(), "memory_attributes"), HostKind.UPSTREAM),
        (without(upstream(), "hyperv"), HostKind.BARE),
    ],
)
def test_kinds(host: HostProfile, kind: HostKind) -> None:
    assert host.kind is kind


@pytest.mark.parametrize(
    ("host", "series", "features"),
    [
        (bare(), VsmSeries.NONE, 0),
        (upstream(), VsmSeries.NONE, 0),
        # 0x56534D means nothing there, and 236, the original's number, is another capability on 6.12.
        (without(original(), "memory_attributes"), VsmSeries.NONE, 0),
        (replace(original(), hyperv_cpuid=(UPSTREAM_HYPERV,)), VsmSeries.NONE, 0),
        # The original, but for the fault's details.
        (original(), VsmSeries.ORIGINAL, 0x7D),
        (patched(), VsmSeries.OURS, 0x1FF),
        (patched(features=0x07), VsmSeries.OURS, 0x07),
    ],
)
def test_the_series_of_a_kernel(host: HostProfile, series: VsmSeries, features: int) -> None:
    assert host.vsm_support == VsmSupport(series, features)


def test_private_memory_alone_is_no_protection() -> None:
    assert not probed(memory_attributes=8).rwx_attributes  # KVM_MEMORY_ATTRIBUTE_PRIVATE


def test_patched_hosts_meet_every_need_in_the_kernel() -> None:
    ways = patched().strategies()
    assert ways["hypercall"].startswith("VMCALL/VMMCALL can exit to the VMM")
    assert ways["vtl_memory"] == "memory attributes on the lower VTL's VM"
    assert ways["vtl_wakeup"] == "the inactive VTL waits in the kernel, on a thread of its own"
    assert ways["vtl_startup"].startswith("KVM blocks INIT and SIPI")


@pytest.mark.parametrize("host", [bare(), upstream()])
def test_other_hosts_meet_them_in_the_vmm(host: HostProfile) -> None:
    ways = host.strategies()
    assert "writes a port" in ways["hypercall"]
    assert "mprotect" in ways["vtl_memory"]
    assert "looked at" in ways["vtl_wakeup"]
    assert "carried out by KVM" in ways["vtl_startup"]


def test_a_wait_that_costs_a_grace_period_is_none() -> None:
    older = patched(features=0x7F)  # without any_thread
    assert "looked at" in older.strategies()["vtl_wakeup"]


def test_hyperv_msrs_need_both_halves_of_the_msr_filter() -> None:
    ways = {
        name: without(bare(), name).strategies()["hyperv_msrs"]
        for name in ("x86_msr_filter", "x86_user_space_msr")
    }
    assert set(ways.values()) == {"not possible: no Hyper-V interface"}


def test_probe_takes_kvms_answers() -> None:
    host = probed(sync_regs=5, max_vcpus=4)
    assert (host.sync_regs, host.max_vcpus, host.vendor, host.tsc_khz) == (5, 4, "AuthenticAMD", 2_500_000)


def test_probe_keeps_only_msrs_that_can_be_set() -> None:
    assert probed(settable=frozenset({0x8B})).feature_msrs == {0x8B: 0x116}


@pytest.mark.parametrize("asked", ["sys_hyperv_cpuid", "hyperv_cpuid"])
def test_probe_finds_hyperv_leaves_old_and_new(asked: str) -> None:
    host = probed(leaves=(UPSTREAM_HYPERV,), **{asked: 1, "hyperv": 1})
    assert (host.hyperv_features, host.kind) == ((0x230, 0x10), HostKind.UPSTREAM)


def test_probe_survives_a_refused_hyperv_query() -> None:
    assert probed(sys_hyperv_cpuid=1, leaves=None).hyperv_cpuid == ()


def test_probe_recognises_a_patched_kernel() -> None:
    host = probed(leaves=(PATCHED_HYPERV,), **{**HYPERV, "memory_attributes": 7})
    assert (host.kind, host.vsm) == (HostKind.PATCHED, True)


@pytest.mark.parametrize("name", [c.name for c in CAPABILITIES if c.need is Need.REQUIRED])
def test_each_required_capability_is_needed_to_run(name: str) -> None:
    host = without(bare(), name)
    assert (host.missing(Need.REQUIRED), host.can_run) == ((name,), False)


def test_capability_names_are_unique_and_grouped() -> None:
    names = [c.name for c in CAPABILITIES]
    assert len(set(names)) == len(names)
    assert {c.group for c in CAPABILITIES} == set(GROUPS)


@pytest.mark.parametrize(
    ("names", "engine", "hardware"),
    [
        (["kvm", "kvm_amd"], "kvm_amd", True),
        (["kvm", "kvm_intel", "kvmgt"], "kvm_intel", True),
        (["kvm", "kvm_pvm"], "kvm_pvm", False),
        (["kvm"], "", False),
    ],
)
def test_engine(tmp_path: Path, names: list[str], engine: str, hardware: bool) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    modules = kvm_modules(tmp_path)
    assert (modules.engine, modules.hardware) == (engine, hardware)


def test_module_parameters(tmp_path: Path) -> None:
    (tmp_path / "kvm_amd" / "parameters").mkdir(parents=True)
    (tmp_path / "kvm_amd" / "parameters" / "nested").write_text("1\n")
    assert dict(kvm_modules(tmp_path).parameters) == {"kvm_amd.nested": "1"}


def test_processor_name(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: A Chip: fast\n\nprocessor\t: 1\nmodel name\t: Other\n")
    assert [processor_name(path), processor_name(tmp_path / "none")] == ["A Chip: fast", ""]
