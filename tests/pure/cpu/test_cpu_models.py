# SPDX-License-Identifier: Apache-2.0
"""Models, features and limits, on a host that lacks much and on one that has all."""

from __future__ import annotations

import dataclasses

import pytest

from tests.pure.cpu.recorded_hosts import RecordedHost
from vmm.machine.cpu import CpuidEntry, CpuidTable, CpuSpecError, Topology, parse_cpu, resolve_cpu
from vmm.machine.cpu.cpuid import (
    KVM_FEATURES,
    KVM_SIGNATURE,
    Register,
    brand_of,
    family_model_stepping,
    signature,
    vendor_of,
)
from vmm.machine.cpu.features import FEATURES, WORDS, bit_names
from vmm.machine.cpu.models import MODELS, NAMES
from vmm.machine.cpu.xsave import COMPONENTS

MAX_ENTRIES = 256  # KVM_MAX_CPUID_ENTRIES: KVM_SET_CPUID2 refuses more


def has(table: CpuidTable, name: str) -> bool:
    feature = FEATURES[name]
    word = feature.word
    return bool(table.value(word.leaf, word.subleaf, word.register) & feature.mask)


@pytest.mark.parametrize("model", NAMES)
def test_nothing_beyond_what_kvm_supports(any_host: RecordedHost, model: str) -> None:
    made_here = {"mtrr", "pat", "mce", "mca", "ht", "hypervisor", "cmp-legacy", "topoext", "tsc-deadline"}
    table = any_host.table(model, Topology(2))
    kvm = CpuidTable(any_host.supported)
    beyond = set()
    for word in WORDS:
        bits = table.value(*word.key) & ~kvm.value(*word.key)
        beyond |= set(bit_names(word, bits)) - made_here
    # On AMD hosts leaf 0x80000001 EDX repeats leaf 1's MTRR, MCE, MCA and PAT, bits 7, 12, 14 and 16.
    assert beyond - {"bit 7", "bit 12", "bit 14", "bit 16"} == set()


@pytest.mark.parametrize("model", NAMES)
def test_limits_cover_all_leaves_and_kvm_takes_them(any_host: RecordedHost, model: str) -> None:
    table = any_host.table(model)
    basic, extended = table.get(0).eax, table.get(0x8000_0000).eax
    assert all(e.function <= basic for e in table if e.function < 0x4000_0000)
    assert all(e.function <= extended for e in table if e.function >= 0x8000_0000)
    assert len(list(table)) <= MAX_ENTRIES


@pytest.mark.parametrize("model", sorted(MODELS))
def test_identity_is_the_models(any_host: RecordedHost, model: str) -> None:
    table = any_host.table(model)
    facts = MODELS[model]
    assert family_model_stepping(table.get(1).eax) == (facts.family, facts.model, facts.stepping)
    assert brand_of(table) == facts.brand


@pytest.mark.parametrize("model", NAMES)
def test_vendor_is_the_hosts_unless_said_otherwise(any_host: RecordedHost, model: str) -> None:
    vendors = [vendor_of(any_host.table(text)) for text in (model, f"{model},vendor=HygonGenuine")]
    assert vendors == [vendor_of(CpuidTable(any_host.supported)), "HygonGenuine"]


@pytest.mark.parametrize("model", ["host", "max"])
def test_host_models_have_the_hosts_identity(any_host: RecordedHost, model: str) -> None:
    table = any_host.table(model)
    assert table.get(1).eax == CpuidTable(any_host.supported).get(1).eax
    assert brand_of(table) == any_host.brand[:47]


@pytest.mark.parametrize("model", ["host", "max"])
def test_host_models_have_every_named_feature(intel_host: RecordedHost, model: str) -> None:
    table = intel_host.table(model, Topology(2))
    kvm = CpuidTable(intel_host.supported)
    left_out = [name for name in FEATURES if has(kvm, name) and not has(table, name)]
    assert left_out == ["invtsc"]  # stops migration: on with migratable=no


def test_invariant_tsc_with_migratable_off(intel_host: RecordedHost) -> None:
    assert has(intel_host.table("host,migratable=no"), "invtsc")


@pytest.mark.parametrize("model", [m.name for m in MODELS.values() if m.vendor == "GenuineIntel"])
def test_an_intel_model_lacks_little_on_a_rich_intel_host(intel_host: RecordedHost, model: str) -> None:
    missing = {w.split(": ")[1].split()[0] for w in intel_host.resolve(model).warnings}
    # Switched off by the maker in later processors, or never offered by KVM.
    assert missing <= {"hle", "rtm", "mpx", "core-capability"}


def test_missing_features_are_warned_about(amd_host: RecordedHost) -> None:
    assert amd_host.resolve("qemu64").warnings == (
        "host KVM does not support requested feature: pni (CPUID 0x1 ECX bit 0)",
    )


def test_check_off_is_silent(amd_host: RecordedHost) -> None:
    assert amd_host.resolve("qemu64,check=off").warnings == ()


def test_enforce_turns_a_missing_feature_into_an_error(amd_host: RecordedHost) -> None:
    with pytest.raises(CpuSpecError, match="avx2"):
        amd_host.resolve("qemu64,+avx2,enforce")


def test_enforce_is_content_when_all_is_there(intel_host: RecordedHost) -> None:
    assert intel_host.resolve("Haswell,-hle,-rtm,enforce").has("avx2")


@pytest.mark.parametrize("name", ["x2apic", "smep", "umip", "pcid", "la57", "kvm-pv-ipi", "rdtscp"])
def test_plus_and_minus_change_one_bit(intel_host: RecordedHost, name: str) -> None:
    states = [has(intel_host.table(f"max,{sign}{name}"), name) for sign in "+-"]
    assert states == [True, False]


def test_pcid_and_invpcid_are_independent(intel_host: RecordedHost) -> None:
    table = intel_host.table("qemu64,-pcid,+invpcid")
    assert (has(table, "pcid"), has(table, "invpcid")) == (False, True)


def test_kvm_extras_come_with_named_models(any_host: RecordedHost) -> None:
    table = any_host.table("kvm64")
    assert all(has(table, n) for n in ("x2apic", "hypervisor", "kvmclock", "kvmclock2", "kvm-steal-time"))


def test_nested_virtualization_is_off_in_named_models(intel_host: RecordedHost) -> None:
    states = [has(intel_host.table(t), "vmx") for t in ("Haswell", "Haswell,+vmx", "max", "max,-vmx")]
    assert states == [False, True, True, False]


def test_protection_keys_need_no_xsave(intel_host: RecordedHost) -> None:
    cpu = intel_host.resolve("max,-xsave")
    assert "pku" in cpu.selection.names
    assert not {"avx", "mpx", "xsaveopt"} & cpu.selection.names
    components = intel_host.table("max,-xsave").get(0xD)
    assert [components.register(register) for register in Register] == [0] * 4


def test_with_vtls_protection_keys_need_what_a_switch_carries_pkru_in(intel_host: RecordedHost) -> None:
    with_xsave = intel_host.resolve("max", vtls=True)
    without = intel_host.resolve("max,-xsave,+pku", vtls=True)

    assert "pku" in with_xsave.selection.names
    assert "pku" not in without.selection.names
    assert any("pku was asked for, but needs xsave" in warning for warning in without.warnings)


def test_with_vtls_a_kvm_without_pkru_in_its_xsave_state_has_no_protection_keys(
    intel_host: RecordedHost,
) -> None:
    supported = [
        dataclasses.replace(leaf, eax=leaf.eax & ~(1 << 9))
        if (leaf.function, leaf.index) == (0xD, 0)
        else leaf
        for leaf in intel_host.supported
    ]
    names = [resolve_cpu(parse_cpu("max"), supported, vtls=vtls).selection.names for vtls in (False, True)]

    assert ["pku" in found for found in names] == [True, False]


def test_features_go_with_the_one_they_need(intel_host: RecordedHost) -> None:
    cpu = intel_host.resolve("max,-avx,+avx2")
    assert not {"avx2", "fma", "avx512f", "avx512bw", "vaes"} & cpu.selection.names
    assert cpu.warnings == ("feature avx2 was asked for, but needs avx, which the guest does not get",)


def test_dynamic_bits_are_left_to_kvm(intel_host: RecordedHost) -> None:
    table = intel_host.table("host,migratable=no")
    assert (table.get(1).ecx >> 27 & 1, table.get(7).ecx >> 4 & 1) == (0, 0)  # OSXSAVE, OSPKE


def test_kvm_leaves(any_host: RecordedHost) -> None:
    leaf = any_host.table("host").get(KVM_SIGNATURE)
    text = b"".join(word.to_bytes(4, "little") for word in (leaf.ebx, leaf.ecx, leaf.edx))
    assert (text, leaf.eax) == (b"KVMKVMKVM\0\0\0", KVM_FEATURES)


def test_kvm_off_hides_kvm(any_host: RecordedHost) -> None:
    table = any_host.table("host,kvm=off")
    assert (KVM_SIGNATURE, 0) not in table
    assert (KVM_FEATURES, 0) not in table


def test_a_stable_tsc_is_announced_with_its_frequency(any_host: RecordedHost) -> None:
    cpu = any_host.resolve("qemu64,tsc-frequency=2500M")
    table = CpuidTable(cpu.entries(Topology(1), 0))
    assert cpu.tsc_khz == 2_500_000
    assert (table.get(0x4000_0010).eax, table.get(KVM_SIGNATURE).eax) == (2_500_000, 0x4000_0010)


def test_an_unstable_tsc_is_not_announced(any_host: RecordedHost) -> None:
    cpu = any_host.resolve("qemu64", tsc_khz=2_000_000)
    assert (0x4000_0010, 0) not in CpuidTable(cpu.entries(Topology(1), 0))


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("qemu64", 40),
        ("qemu64,host-phys-bits", 52),
        ("host", 52),
        ("max,host-phys-bits,host-phys-bits-limit=46", 46),
        ("IvyBridge,phys-bits=36,host-phys-bits=off", 36),
        ("max,phys-bits=44", 44),
    ],
)
def test_physical_address_bits(intel_host: RecordedHost, text: str, bits: int) -> None:
    assert intel_host.table(text).get(0x8000_0008).eax & 0xFF == bits


def test_too_many_physical_address_bits_are_warned_about(amd_host: RecordedHost) -> None:
    assert amd_host.resolve("max,phys-bits=52").warnings == (
        "phys-bits=52 is more than the 48 bits this host translates",
    )


def test_linear_address_bits_follow_la57(intel_host: RecordedHost) -> None:
    widths = [intel_host.table(t).get(0x8000_0008).eax >> 8 & 0xFF for t in ("max", "max,-la57")]
    assert widths == [57, 48]


def test_pmu_leaf(intel_host: RecordedHost) -> None:
    versions = [
        intel_host.table(t).get(0xA).eax & 0xFF for t in ("host", "host,pmu=off", "qemu64", "qemu64,pmu=on")
    ]
    assert versions == [2, 0, 0, 2]


def test_no_pmu_hides_perf_capabilities(intel_host: RecordedHost) -> None:
    assert not has(intel_host.table("host,pmu=off"), "pdcm")


def test_no_xsave_no_leaf_d(amd_host: RecordedHost) -> None:
    assert amd_host.table("max").subleaves(0xD) == []


@pytest.mark.parametrize(
    "text", ["max", "max,-avx512f", "max,-avx", "max,-pku", "max,-xsaves", "Haswell", "Nehalem,+xsave"]
)
def test_xsave_components_follow_the_features(intel_host: RecordedHost, text: str) -> None:
    cpu = intel_host.resolve(text)
    table = CpuidTable(cpu.entries(Topology(1), 0))
    components = table.get(0xD).eax | table.get(0xD, 1).ecx
    for number, needs in COMPONENTS.items():
        offered = CpuidTable(intel_host.supported).get(0xD, number).eax != 0
        allowed = number != 8 or "xsaves" in cpu.selection.names  # processor trace state is supervisor state
        expected = offered and allowed and bool(needs & cpu.selection.names)
        assert bool(components >> number & 1) is expected
        assert ((0xD, number) in table) is expected


def test_xsave_area_ends_with_the_last_component(intel_host: RecordedHost) -> None:
    sizes = [
        intel_host.table(t).get(0xD).ecx for t in ("max", "max,-pku", "max,-pku,-avx512f", "max,-pku,-avx")
    ]
    # PKRU ends at 0xa88, Hi16_ZMM at 0xa80, AVX at 0x340, and x87, SSE and header at 0x240.
    assert sizes == [0xA88, 0xA80, 0x340, 0x240]


def test_arch_capabilities_need_a_settable_msr(amd_host: RecordedHost, intel_host: RecordedHost) -> None:
    states = [(host.resolve("host").has("arch-capabilities")) for host in (amd_host, intel_host)]
    assert states == [False, True]


def test_arch_capabilities_value(intel_host: RecordedHost) -> None:
    offered = dict(intel_host.feature_msrs)[0x10A]
    values = [dict(intel_host.resolve(t).msrs)[0x10A] for t in ("host", "host,-rdctl-no", "Denverton")]
    # Denverton has RDCTL_NO and SKIP_L1DFL_VMENTRY, bits 0 and 3.
    assert values == [offered, offered & ~1, offered & 0b1001]


def test_vmx_comes_unlocked_by_a_locked_feature_control(intel_host: RecordedHost) -> None:
    values = [dict(intel_host.resolve(t).msrs).get(0x3A) for t in ("max", "max,-vmx")]
    assert values == [0b101, None]


def test_kvms_own_leaves_make_room_for_those_of_hyperv(any_host: RecordedHost) -> None:
    hyperv = (CpuidEntry(0x4000_0000, eax=0x4000_0001), CpuidEntry(0x4000_0001, eax=0x3123_7648))
    cpu = dataclasses.replace(any_host.resolve("max"), hyperv=hyperv)

    above = {e.function: e for e in cpu.entries(Topology(1), 0) if 0x4000_0000 <= e.function < 0x8000_0000}

    assert list(above) == [0x4000_0000, 0x4000_0001, 0x4000_0100, 0x4000_0101]
    assert above[0x4000_0001] == hyperv[1]
    assert (above[0x4000_0100].eax, above[0x4000_0100].ebx) == (0x4000_0101, 0x4B4D_564B)  # "KVMK"


def test_level_can_be_set(any_host: RecordedHost) -> None:
    table = any_host.table("max,level=1,xlevel=0x80000004")
    assert {e.function for e in table if e.function < 0x4000_0000} == {0, 1}
    assert table.get(0x8000_0000).eax == 0x8000_0004


@pytest.mark.parametrize("model", ["qemu64", "EPYC"])
def test_topology_extensions_bring_their_leaves(amd_host: RecordedHost, model: str) -> None:
    table = amd_host.table(f"{model},+topoext", Topology(2, threads=2))
    assert [(leaf.eax >> 5 & 7, leaf.eax & 0x1F) for leaf in table.subleaves(0x8000_001D)[:4]] == [
        (1, 1),
        (1, 2),
        (2, 3),
        (3, 3),
    ]
    assert table.get(0x8000_001E).ebx == 0x100  # two threads, core 0


@pytest.mark.parametrize(
    ("family", "model", "stepping", "eax"),
    [(15, 107, 1, 0x0006_0FB1), (6, 0x8F, 8, 0x0008_06F8), (25, 17, 1, 0x00A1_0F11), (5, 2, 1, 0x521)],
)
def test_signature(family: int, model: int, stepping: int, eax: int) -> None:
    assert signature(family, model, stepping) == eax
    assert family_model_stepping(eax) == (family, model, stepping)


def test_no_bit_has_two_names_and_no_name_two_bits() -> None:
    names = [name for word in WORDS for name in word.names.split() if name != "-"]
    assert sorted(names) == sorted(set(names))
    assert all(len(word.names.split()) <= 32 for word in WORDS)


def test_host_cache_info_chooses_whose_caches(intel_host: RecordedHost) -> None:
    texts = ("host", "host,host-cache-info=off", "Haswell,host-cache-info", "Haswell")
    ways = [(intel_host.table(text).get(4, 0).ebx >> 22) + 1 for text in texts]
    assert ways == [12, 8, 12, 8]  # this host's L1 data cache has 12 ways, the usual one 8
