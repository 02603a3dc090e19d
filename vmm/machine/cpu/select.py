# SPDX-License-Identifier: Apache-2.0
"""Which features a guest gets: what its model and the user want, cut down to what KVM can do.

The rules follow QEMU's for `-accel kvm`, so that one `-cpu` text gives one guest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmm.machine.cpu.cpuid import CpuidTable, Register
from vmm.machine.cpu.features import (
    ARCH_CAPABILITY_MASKS,
    FEATURES,
    MSR_ARCH_CAPABILITIES,
    WORDS,
    FeatureWord,
    bit_names,
    named_mask,
)
from vmm.machine.cpu.models import AMD_FAMILY, KVM_DEFAULTS, KVM_OMITS, MODELS
from vmm.machine.cpu.spec import CpuSpec, CpuSpecError

Key = tuple[int, int, Register]

# Leaf 1 EDX bits that leaf 0x80000001 EDX repeats on AMD processors (APM 3, appendix E.4.2).
AMD_ALIASES = 0x0183_F3FF

# Announced by KVM through capabilities or always emulated, whatever KVM_GET_SUPPORTED_CPUID says
# (api.rst 4.46): MTRR, PAT and machine checks are software; the guest does run under a hypervisor.
ALWAYS_POSSIBLE = ("mtrr", "pat", "mce", "mca", "ht", "hypervisor", "kvm-hint-dedicated")

PMU_FEATURES = frozenset({"pdcm", "perfctr-core", "perfctr-nb", "perfctr-llc", "perfmon-v2", "arch-lbr"})

# Features on the right are senseless without the one on the left, so they go when it does.
# Pairs stand in an order in which one pass is enough. PKU is not among them: RDPKRU and WRPKRU need no XSAVE. But
# see VTL_DEPENDENCIES.
DEPENDENCIES: tuple[tuple[str, str], ...] = (
    ("xsave", "avx mpx xsaveopt xsavec xgetbv1 xsaves xfd amx-tile"),
    ("xsaves", "shstk ibt arch-lbr"),
    ("avx", "avx2 fma f16c fma4 xop vaes vpclmulqdq avx-vnni avx-ifma avx-vnni-int8 avx-ne-convert"),
    ("avx", "avx-vnni-int16 avx512f"),
    ("avx512f", "avx512dq avx512ifma avx512pf avx512er avx512cd avx512bw avx512vl avx512vbmi avx512vbmi2"),
    ("avx512f", "avx512vnni avx512bitalg avx512-vpopcntdq avx512-4vnniw avx512-4fmaps"),
    ("avx512f", "avx512-vp2intersect avx512-bf16 avx512-fp16"),
    ("amx-tile", "amx-bf16 amx-int8 amx-fp16 amx-complex"),
    ("svm", " ".join(name for name, feature in FEATURES.items() if feature.word.leaf == 0x8000_000A)),
    ("lm", "la57 lam"),
)

# Of a processor with Virtual Trust Levels: a switch carries PKRU from one vCPU to another, and KVM tells and takes it
# in XSAVE state only. KVM_SET_XSAVE without it makes it 0.
VTL_DEPENDENCIES: tuple[tuple[str, str], ...] = (("xsave", "pku"),)
PKRU_COMPONENT = 9


@dataclass(frozen=True, slots=True)
class Selection:
    """The features a guest gets, as words and as names, and what to tell the user."""

    words: dict[Key, int]
    names: frozenset[str]
    arch_capabilities: int
    warnings: tuple[str, ...]

    def word(self, leaf: int, subleaf: int, register: Register) -> int:
        return self.words.get((leaf, subleaf, register), 0)


def possible_words(
    supported: CpuidTable,
    vendor: str,
    *,
    tsc_deadline: bool,
    pmu: bool,
    feature_msrs: Mapping[int, int] | None,
    vtls: bool = False,
) -> dict[Key, int]:
    """Feature bits KVM can give a guest of `vendor`, for every word."""
    words = {w.key: supported.value(w.leaf, w.subleaf, w.register) & ~w.dynamic for w in WORDS}

    def change(name: str, possible: bool) -> None:
        feature = FEATURES[name]
        if possible:
            words[feature.word.key] |= feature.mask
        else:
            words[feature.word.key] &= ~feature.mask

    for name in ALWAYS_POSSIBLE:
        change(name, True)
    if tsc_deadline:
        change("tsc-deadline", True)
    if vendor in AMD_FAMILY:
        change("topoext", True)
        change("cmp-legacy", True)
    if not pmu:
        for name in PMU_FEATURES:
            change(name, False)
    if feature_msrs is not None and MSR_ARCH_CAPABILITIES not in feature_msrs:
        change("arch-capabilities", False)
    if vtls and not supported.get(0xD).eax >> PKRU_COMPONENT & 1:
        change("pku", False)
    extended_edx = (0x8000_0001, 0, Register.EDX)
    if vendor in AMD_FAMILY:
        words[extended_edx] |= words[0x1, 0, Register.EDX] & AMD_ALIASES
    else:
        words[extended_edx] &= ~AMD_ALIASES
    return words


def _wanted(spec: CpuSpec, possible: Mapping[Key, int]) -> dict[Key, int]:
    """What the model asks for, before the user's own features."""
    wanted = dict.fromkeys(possible, 0)
    if spec.model in MODELS:
        for name in MODELS[spec.model].feature_names():
            if name not in KVM_OMITS:
                wanted[FEATURES[name].word.key] |= FEATURES[name].mask
        for name in KVM_DEFAULTS:
            feature = FEATURES[name]
            wanted[feature.word.key] |= feature.mask & possible[feature.word.key]
        return wanted
    for word in WORDS:
        manual = word.manual | ({"invtsc"} if spec.migratable else set())
        bits = named_mask(word, without=frozenset(manual))
        if not spec.migratable:
            bits |= ~named_mask(word)
        wanted[word.key] = possible[word.key] & bits
    return wanted


def _missing_text(word: FeatureWord, bits: int) -> list[str]:
    names = bit_names(word, bits)
    positions = [bit for bit in range(32) if bits >> bit & 1]
    return [
        f"host KVM does not support requested feature: {name} ({word} bit {bit})"
        for name, bit in zip(names, positions, strict=True)
    ]


def _names(words: Mapping[Key, int]) -> set[str]:
    return {name for name, feature in FEATURES.items() if words[feature.word.key] & feature.mask}


def select_features(
    spec: CpuSpec,
    supported: CpuidTable,
    vendor: str,
    *,
    tsc_deadline: bool,
    pmu: bool,
    feature_msrs: Mapping[int, int] | None,
    vtls: bool = False,
) -> Selection:
    """Decide every feature bit. vtls: whether there are Virtual Trust Levels. Raises `CpuSpecError` when `enforce`
    is set and KVM lacks something."""
    possible = possible_words(
        supported, vendor, tsc_deadline=tsc_deadline, pmu=pmu, feature_msrs=feature_msrs, vtls=vtls
    )
    words = _wanted(spec, possible)
    for name in spec.on & FEATURES.keys():
        words[FEATURES[name].word.key] |= FEATURES[name].mask
    off = {name for name in spec.off if name in FEATURES}
    if not spec.kvm:
        off |= {name for name, f in FEATURES.items() if f.word.leaf == 0x4000_0001}
    for name in off:
        words[FEATURES[name].word.key] &= ~FEATURES[name].mask

    warnings: list[str] = []
    for word in WORDS:
        warnings += _missing_text(word, words[word.key] & ~possible[word.key])
        words[word.key] &= possible[word.key]
    for base, dependants in (*DEPENDENCIES, *(VTL_DEPENDENCIES if vtls else ())):
        if words[FEATURES[base].word.key] & FEATURES[base].mask:
            continue
        for name in dependants.split():
            feature = FEATURES[name]
            if name in spec.on and words[feature.word.key] & feature.mask:
                warnings.append(
                    f"feature {name} was asked for, but needs {base}, which the guest does not get"
                )
            words[feature.word.key] &= ~feature.mask

    if spec.enforce and warnings:
        raise CpuSpecError(f"cpu {spec.model},enforce: " + "; ".join(warnings))
    names = _names(words)
    return Selection(
        words,
        frozenset(names),
        _arch_capabilities(spec, names, feature_msrs or {}),
        tuple(warnings) if spec.check else (),
    )


def _arch_capabilities(spec: CpuSpec, names: set[str], feature_msrs: Mapping[int, int]) -> int:
    """IA32_ARCH_CAPABILITIES: the model's promises (all of KVM's for `host` and `max`) that KVM can keep."""
    if "arch-capabilities" not in names:
        return 0
    offered = feature_msrs.get(MSR_ARCH_CAPABILITIES, 0)
    value = offered
    if spec.model in MODELS:
        value = sum(ARCH_CAPABILITY_MASKS[name] for name in MODELS[spec.model].arch_capabilities.split())
    for name, mask in ARCH_CAPABILITY_MASKS.items():
        if name in spec.on:
            value |= mask
        if name in spec.off:
            value &= ~mask
    return value & offered
