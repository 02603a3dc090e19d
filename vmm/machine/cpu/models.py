# SPDX-License-Identifier: Apache-2.0
"""Named processor models, as data: identity, leaf limits, features and caches.

Names and contents are those of QEMU's models of the same name (version 1 of each), so that a command line
means the same guest here. They were read from a running QEMU through QMP's `query-cpu-model-expansion`.
`host` and `max` are not in this table: they are made from what KVM reports.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmm.machine.cpu.caches import EPYC_CACHES, MILAN_CACHES, ROME_CACHES, CacheSet

INTEL = "GenuineIntel"
AMD = "AuthenticAMD"
HYGON = "HygonGenuine"
VENDORS = (INTEL, AMD, HYGON)
AMD_FAMILY = frozenset({AMD, HYGON})  # vendors whose CPUID follows the APM

# Every 64-bit processor since 2003.
X86_64 = (
    "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2"
    " syscall nx lm pni"
)

# What KVM adds to every named model, because guests gain and nothing is lost. `hypervisor` is the bit by which they
# know that there is one. Implements: DISC-001
KVM_DEFAULTS = (
    "x2apic",
    "hypervisor",
    "kvmclock",
    "kvmclock2",
    "kvm-nopiodelay",
    "kvm-asyncpf",
    "kvm-steal-time",
    "kvm-pv-eoi",
    "kvmclock-stable-bit",
)
# Part of some models, but left out under KVM unless asked for: nested virtualization, and what KVM does not
# do.
KVM_OMITS = frozenset({"svm", "acpi", "monitor"})


@dataclass(frozen=True, slots=True)
class CpuModel:
    """A processor one can buy, or could have. `features` are the names of `features.FEATURES`,
    blank-separated.

    `level` and `xlevel` are the highest basic and extended leaves; features that live above raise them.
    Without `caches` the guest gets its vendor's usual ones.
    """

    name: str
    vendor: str
    family: int
    model: int
    stepping: int
    brand: str
    level: int
    xlevel: int
    features: str
    caches: CacheSet | None = None
    arch_capabilities: str = ""

    def feature_names(self) -> list[str]:
        return f"{X86_64} {self.features}".split()


MODELS: dict[str, CpuModel] = {
    m.name: m
    for m in (
        CpuModel(
            "qemu64",
            AMD,
            15,
            107,
            1,
            "QEMU Virtual CPU version 2.5+",
            0xD,
            0x8000_000A,
            "cx16 lahf-lm svm",
        ),
        CpuModel(
            "kvm64",
            INTEL,
            15,
            6,
            1,
            "Common KVM processor",
            0xD,
            0x8000_0008,
            "vme cx16",
        ),
        CpuModel(
            "Opteron_G1",
            AMD,
            15,
            6,
            1,
            "AMD Opteron 240 (Gen 1 Class Opteron)",
            0x5,
            0x8000_0008,
            "vme",
        ),
        CpuModel(
            "Opteron_G2",
            AMD,
            15,
            6,
            1,
            "AMD Opteron 22xx (Gen 2 Class Opteron)",
            0x5,
            0x8000_000A,
            "vme cx16 lahf-lm svm",
        ),
        CpuModel(
            "Opteron_G3",
            AMD,
            16,
            2,
            3,
            "AMD Opteron 23xx (Gen 3 Class Opteron)",
            0x5,
            0x8000_000A,
            "vme monitor cx16 popcnt lahf-lm svm abm sse4a misalignsse rdtscp",
        ),
        CpuModel(
            "Opteron_G4",
            AMD,
            21,
            1,
            2,
            "AMD Opteron 62xx class CPU",
            0xD,
            0x8000_001A,
            "vme pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes xsave avx lahf-lm svm abm sse4a misalignsse "
            "3dnowprefetch xop fma4 pdpe1gb rdtscp npt nrip-save",
        ),
        CpuModel(
            "Opteron_G5",
            AMD,
            21,
            2,
            0,
            "AMD Opteron 63xx class CPU",
            0xD,
            0x8000_001A,
            "vme pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 popcnt aes xsave avx f16c lahf-lm svm abm sse4a "
            "misalignsse 3dnowprefetch xop fma4 tbm pdpe1gb rdtscp npt nrip-save",
        ),
        CpuModel(
            "Conroe",
            INTEL,
            6,
            15,
            3,
            "Intel Celeron_4x0 (Conroe/Merom Class Core 2)",
            0xA,
            0x8000_0008,
            "vme ssse3 lahf-lm",
        ),
        CpuModel(
            "Penryn",
            INTEL,
            6,
            23,
            3,
            "Intel Core 2 Duo P9xxx (Penryn Class Core 2)",
            0xA,
            0x8000_0008,
            "vme ssse3 cx16 sse4.1 lahf-lm",
        ),
        CpuModel(
            "Nehalem",
            INTEL,
            6,
            26,
            3,
            "Intel Core i7 9xx (Nehalem Class Core i7)",
            0xB,
            0x8000_0008,
            "vme ssse3 cx16 sse4.1 sse4.2 popcnt lahf-lm",
        ),
        CpuModel(
            "Westmere",
            INTEL,
            6,
            44,
            1,
            "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
            0xB,
            0x8000_0008,
            "vme pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes arat lahf-lm",
        ),
        CpuModel(
            "SandyBridge",
            INTEL,
            6,
            42,
            1,
            "Intel Xeon E312xx (Sandy Bridge)",
            0xD,
            0x8000_0008,
            "vme pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic popcnt tsc-deadline aes xsave avx arat xsaveopt "
            "lahf-lm rdtscp",
        ),
        CpuModel(
            "IvyBridge",
            INTEL,
            6,
            58,
            9,
            "Intel Xeon E3-12xx v2 (Ivy Bridge)",
            0xD,
            0x8000_0008,
            "vme pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic popcnt tsc-deadline aes xsave avx f16c rdrand "
            "arat fsgsbase smep erms xsaveopt lahf-lm rdtscp",
        ),
        CpuModel(
            "Haswell",
            INTEL,
            6,
            60,
            4,
            "Intel Core Processor (Haswell)",
            0xD,
            0x8000_0008,
            "vme pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx "
            "f16c rdrand arat fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm xsaveopt lahf-lm abm rdtscp",
        ),
        CpuModel(
            "Broadwell",
            INTEL,
            6,
            61,
            2,
            "Intel Core Processor (Broadwell)",
            0xD,
            0x8000_0008,
            "vme pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx "
            "f16c rdrand arat fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm rdseed adx smap xsaveopt "
            "lahf-lm abm 3dnowprefetch rdtscp",
        ),
        CpuModel(
            "Skylake-Client",
            INTEL,
            6,
            94,
            3,
            "Intel Core Processor (Skylake)",
            0xD,
            0x8000_0008,
            "vme pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx "
            "f16c rdrand arat fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm rdseed adx smap xsaveopt "
            "xsavec xgetbv1 lahf-lm abm 3dnowprefetch rdtscp",
        ),
        CpuModel(
            "Skylake-Server",
            INTEL,
            6,
            85,
            4,
            "Intel Xeon Processor (Skylake)",
            0xD,
            0x8000_0008,
            "vme pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx "
            "f16c rdrand arat fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx "
            "smap clflushopt clwb avx512cd avx512bw avx512vl pku xsaveopt xsavec xgetbv1 lahf-lm abm "
            "3dnowprefetch pdpe1gb rdtscp",
        ),
        CpuModel(
            "Cascadelake-Server",
            INTEL,
            6,
            85,
            6,
            "Intel Xeon Processor (Cascadelake)",
            0xD,
            0x8000_0008,
            "vme pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx "
            "f16c rdrand arat fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx "
            "smap clflushopt clwb avx512cd avx512bw avx512vl pku avx512vnni spec-ctrl ssbd xsaveopt xsavec "
            "xgetbv1 lahf-lm abm 3dnowprefetch pdpe1gb rdtscp",
        ),
        CpuModel(
            "Icelake-Server",
            INTEL,
            6,
            134,
            0,
            "Intel Xeon Processor (Icelake)",
            0xD,
            0x8000_0008,
            "vme pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx "
            "f16c rdrand arat fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx "
            "smap clflushopt clwb avx512cd avx512bw avx512vl avx512vbmi umip pku avx512vbmi2 gfni vaes "
            "vpclmulqdq avx512vnni avx512bitalg avx512-vpopcntdq la57 spec-ctrl ssbd xsaveopt xsavec xgetbv1 "
            "lahf-lm abm 3dnowprefetch pdpe1gb rdtscp wbnoinvd",
        ),
        CpuModel(
            "EPYC",
            AMD,
            23,
            1,
            2,
            "AMD EPYC Processor",
            0xD,
            0x8000_001E,
            "vme pclmulqdq monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand arat "
            "fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt sha-ni xsaveopt xsavec xgetbv1 lahf-lm "
            "svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext mmxext fxsr-opt pdpe1gb rdtscp "
            "npt nrip-save",
            caches=EPYC_CACHES,
        ),
        CpuModel(
            "EPYC-Rome",
            AMD,
            23,
            49,
            0,
            "AMD EPYC-Rome Processor",
            0xD,
            0x8000_001E,
            "vme pclmulqdq monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand arat "
            "fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt clwb sha-ni umip rdpid xsaveopt xsavec "
            "xgetbv1 xsaves lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext perfctr-core "
            "mmxext fxsr-opt pdpe1gb rdtscp clzero xsaveerptr wbnoinvd ibpb amd-stibp npt nrip-save",
            caches=ROME_CACHES,
        ),
        CpuModel(
            "EPYC-Milan",
            AMD,
            25,
            1,
            1,
            "AMD EPYC-Milan Processor",
            0xD,
            0x8000_001E,
            "vme pclmulqdq monitor ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand "
            "arat fsgsbase bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha-ni umip pku "
            "rdpid fsrm xsaveopt xsavec xgetbv1 xsaves lahf-lm svm cr8legacy abm sse4a misalignsse "
            "3dnowprefetch osvw topoext perfctr-core mmxext fxsr-opt pdpe1gb rdtscp clzero xsaveerptr "
            "wbnoinvd ibpb ibrs amd-stibp amd-ssbd npt nrip-save svme-addr-chk",
            caches=MILAN_CACHES,
        ),
        CpuModel(
            "Denverton",
            INTEL,
            6,
            95,
            1,
            "Intel Atom Processor (Denverton)",
            0x15,
            0x8000_0008,
            "vme pclmulqdq monitor ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave "
            "rdrand arat fsgsbase smep erms mpx rdseed smap clflushopt sha-ni spec-ctrl arch-capabilities "
            "ssbd xsaveopt xsavec xgetbv1 lahf-lm 3dnowprefetch pdpe1gb rdtscp",
            arch_capabilities="rdctl-no skip-l1dfl-vmentry",
        ),
    )
}

NAMES: tuple[str, ...] = ("host", "max", *MODELS)
