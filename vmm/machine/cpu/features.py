# SPDX-License-Identifier: Apache-2.0
"""Every CPUID feature bit that has a name, as data.

Names are the ones people type after `-cpu` (QEMU's), with Linux's /proc/cpuinfo spellings as aliases. Bits
come from SDM volume 2A (CPUID), AMD APM volume 3 appendix E and the kernel's
Documentation/virt/kvm/x86/cpuid.rst.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmm.machine.cpu.cpuid import KVM_FEATURES, Register

EAX, EBX, ECX, EDX = Register.EAX, Register.EBX, Register.ECX, Register.EDX


@dataclass(frozen=True, slots=True)
class FeatureWord:
    """A CPUID register made of feature bits. `names` holds one word per bit from bit 0 up; `-` has no name.

    manual: bits that `host` and `max` do not switch on by themselves. dynamic: bits KVM keeps up to date
    itself.
    """

    leaf: int
    subleaf: int
    register: Register
    names: str
    manual: frozenset[str] = field(default=frozenset())
    dynamic: int = 0

    @property
    def key(self) -> tuple[int, int, Register]:
        return self.leaf, self.subleaf, self.register

    def __str__(self) -> str:
        sub = f".{self.subleaf}" if self.subleaf or self.leaf in (7, 0xD) else ""
        return f"CPUID {self.leaf:#x}{sub} {self.register.name}"


WORDS: tuple[FeatureWord, ...] = (
    FeatureWord(
        0x1,
        0,
        EDX,
        "fpu vme de pse tsc msr pae mce  cx8 apic - sep mtrr pge mca cmov"
        " pat pse36 pn clflush - ds acpi mmx  fxsr sse sse2 ss ht tm ia64 pbe",
        manual=frozenset({"ht"}),  # follows from the topology
    ),
    FeatureWord(
        0x1,
        0,
        ECX,
        "pni pclmulqdq dtes64 monitor ds-cpl vmx smx est  tm2 ssse3 cid - fma cx16 xtpr pdcm"
        " - pcid dca sse4.1 sse4.2 x2apic movbe popcnt  tsc-deadline aes xsave - avx f16c rdrand hypervisor",
        dynamic=1 << 27,  # OSXSAVE mirrors CR4
    ),
    FeatureWord(
        0x6,
        0,
        EAX,
        "- - arat",
    ),
    FeatureWord(
        0x7,
        0,
        EBX,
        "fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep  bmi2 erms invpcid rtm"
        " - zero-fcs-fds mpx -  avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt"
        "  clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl",
    ),
    FeatureWord(
        0x7,
        0,
        ECX,
        "prefetchwt1 avx512vbmi umip pku - waitpkg avx512vbmi2 shstk"
        "  gfni vaes vpclmulqdq avx512vnni avx512bitalg - avx512-vpopcntdq -"
        " la57 - - - - - rdpid -  bus-lock-detect cldemote - movdiri movdir64b - sgxlc pks",
        dynamic=1 << 4,  # OSPKE mirrors CR4
    ),
    FeatureWord(
        0x7,
        0,
        EDX,
        "- - avx512-4vnniw avx512-4fmaps fsrm - - -  avx512-vp2intersect - md-clear - - - serialize -"
        " tsx-ldtrk - - arch-lbr ibt - amx-bf16 avx512-fp16"
        "  amx-tile amx-int8 spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd",
    ),
    FeatureWord(
        0x7,
        1,
        EAX,
        "sha512 sm3 sm4 - avx-vnni avx512-bf16 - cmpccxadd  - - fzrm fsrs fsrc - - -"
        " - fred lkgs wrmsrns - amx-fp16 - avx-ifma  - - lam",
    ),
    FeatureWord(
        0x7,
        1,
        EDX,
        "- - - - avx-vnni-int8 avx-ne-convert - -  amx-complex - avx-vnni-int16 - - - prefetchiti -"
        "  - - - avx10",
    ),
    FeatureWord(
        0x7,
        2,
        EDX,
        "intel-psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no",
    ),
    FeatureWord(
        0xD,
        1,
        EAX,
        "xsaveopt xsavec xgetbv1 xsaves xfd",
    ),
    FeatureWord(
        0x8000_0001,
        0,
        ECX,
        "lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse  3dnowprefetch osvw ibs xop"
        " skinit wdt - lwp  fma4 tce - nodeid-msr - tbm topoext perfctr-core  perfctr-nb - - - perfctr-llc",
        # cmp-legacy and topoext describe the topology the guest gets, not the host's.
        manual=frozenset({"cmp-legacy", "topoext"}),
    ),
    FeatureWord(
        0x8000_0001,
        0,
        EDX,
        # The unnamed low bits repeat leaf 1 EDX on AMD processors; `resolved` copies them.
        "- - - - - - - -  - - - syscall - - - -  - - - - nx - mmxext -"
        "  - fxsr-opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
    FeatureWord(
        0x8000_0007,
        0,
        EBX,
        "overflow-recov succor",
    ),
    FeatureWord(
        0x8000_0007,
        0,
        EDX,
        "- - - - - - - -  invtsc",
    ),
    FeatureWord(
        0x8000_0008,
        0,
        EBX,
        "clzero - xsaveerptr - rdpru - - -  - wbnoinvd - - ibpb - ibrs amd-stibp"
        " - stibp-always-on - ibrs-same-mode - - - -"
        "  amd-ssbd virt-ssbd amd-no-ssb - amd-psfd btc-no ibpb-ret",
    ),
    FeatureWord(
        0x8000_000A,
        0,
        EDX,
        "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists"
        "  - - pause-filter - pfthreshold avic - v-vmsave-vmload"
        "  vgif - - - - - - -  - vnmi - - svme-addr-chk",
    ),
    FeatureWord(
        0x8000_0021,
        0,
        EAX,
        "no-nested-data-bp - lfence-always-serializing - - verw-clear null-sel-clr-base -"
        "  auto-ibrs no-smm-ctl-msr - - - - - -  - - - - - - - -  eraps - - sbpb ibpb-brtype srso-no"
        " srso-user-kernel-no",
    ),
    FeatureWord(
        0x8000_0021,
        0,
        ECX,
        "- tsa-sq-no tsa-l1-no",
    ),
    FeatureWord(
        0x8000_0022,
        0,
        EAX,
        "perfmon-v2",
    ),
    FeatureWord(
        KVM_FEATURES,
        0,
        EAX,
        "kvmclock kvm-nopiodelay kvm-mmu kvmclock2 kvm-asyncpf kvm-steal-time kvm-pv-eoi kvm-pv-unhalt"
        "  - kvm-pv-tlb-flush kvm-asyncpf-vmexit kvm-pv-ipi"
        " kvm-poll-control kvm-pv-sched-yield kvm-asyncpf-int kvm-msi-ext-dest-id"
        "  kvm-hc-map-gpa-range kvm-migration-control - - - - - -  kvmclock-stable-bit",
        # Interrupt destinations above 255 without a remapping unit need the VMM's MSI translation.
        manual=frozenset({"kvm-msi-ext-dest-id", "kvm-hc-map-gpa-range", "kvm-migration-control"}),
    ),
    FeatureWord(
        KVM_FEATURES,
        0,
        EDX,
        "kvm-hint-dedicated",
        manual=frozenset({"kvm-hint-dedicated"}),  # a promise about the host's scheduling, the user's to make
    ),
)

# Other spellings, after `normalise`.
ALIASES: dict[str, str] = {
    "sse3": "pni",
    "pclmuldq": "pclmulqdq",
    "sse4-1": "sse4.1",
    "sse4-2": "sse4.2",
    "tsc-deadline-timer": "tsc-deadline",
    "i64": "lm",
    "xd": "nx",
    "ffxsr": "fxsr-opt",
    "cr8-legacy": "cr8legacy",
    "nonstop-tsc": "invtsc",
    "avx512-vbmi2": "avx512vbmi2",
    "avx512-vnni": "avx512vnni",
    "avx512-bitalg": "avx512bitalg",
}

# IA32_ARCH_CAPABILITIES (SDM volume 4), the MSR behind the feature `arch-capabilities`, in the same notation.
MSR_ARCH_CAPABILITIES = 0x10A
ARCH_CAPABILITIES = (
    "rdctl-no ibrs-all rsba skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no tsx-ctrl"
    "  taa-no - - - - sbdr-ssdp-no fbsdp-no psdp-no  - fb-clear - - bhi-no - - -  pbrsb-no - gds-no rfds-no"
    " rfds-clear - - -  - - - - - - - -  - - - - - - - -  - - - - - - - -  - - - - - - its-no -"
)
ARCH_CAPABILITY_MASKS: dict[str, int] = {
    name: 1 << bit for bit, name in enumerate(ARCH_CAPABILITIES.split()) if name != "-"
}

# One name that stands for several bits.
GROUPS: dict[str, tuple[str, ...]] = {"kvmclock": ("kvmclock", "kvmclock2")}


@dataclass(frozen=True, slots=True)
class Feature:
    """Where a named feature lives."""

    name: str
    word: FeatureWord
    bit: int

    @property
    def mask(self) -> int:
        return 1 << self.bit

    def __str__(self) -> str:
        return f"{self.name} ({self.word} bit {self.bit})"


FEATURES: dict[str, Feature] = {
    name: Feature(name, word, bit)
    for word in WORDS
    for bit, name in enumerate(word.names.split())
    if name != "-"
}


def normalise(name: str) -> str:
    """The table's spelling of a feature or property name: lower case, dashes, aliases resolved."""
    spelled = name.strip().lower().replace("_", "-")
    return ALIASES.get(spelled, spelled)


def find(name: str) -> tuple[Feature, ...]:
    """The bits a user's feature name stands for; empty when the name is unknown."""
    known = normalise(name)
    return tuple(FEATURES[n] for n in GROUPS.get(known, (known,)) if n in FEATURES)


def nearest(name: str, candidates: list[str] | None = None) -> list[str]:
    """Known names that look like `name`, best first, at most three."""
    from difflib import (
        get_close_matches,
    )  # only for a typing error: costs milliseconds of every start otherwise

    known = {normalise(n): n for n in candidates or [*FEATURES, *ALIASES, *ARCH_CAPABILITY_MASKS]}
    return [known[match] for match in get_close_matches(normalise(name), known, n=3, cutoff=0.6)]


def bit_names(word: FeatureWord, value: int) -> list[str]:
    """Names of the bits set in `value`; a bit without a name prints as `bit N`."""
    names = word.names.split()
    return [
        names[bit] if bit < len(names) and names[bit] != "-" else f"bit {bit}"
        for bit in range(32)
        if value >> bit & 1
    ]


def named_mask(word: FeatureWord, *, without: frozenset[str] = frozenset()) -> int:
    """All bits of `word` that have a name not in `without`."""
    return sum(1 << bit for bit, name in enumerate(word.names.split()) if name != "-" and name not in without)
