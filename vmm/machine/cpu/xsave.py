# SPDX-License-Identifier: Apache-2.0
"""Leaf 0xD: which XSAVE state components a guest has, cut down to the features it was given (SDM 1, chapter
13).
"""

from __future__ import annotations

from collections.abc import Set

from vmm.machine.cpu.cpuid import CpuidEntry, CpuidTable, entry

LEAF = 0xD
LEGACY_AREA = 512 + 64  # x87 and SSE image, then the XSAVE header, in bytes

INSTRUCTIONS = ("xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd")  # EAX bits of sub-leaf 1

# State component -> features any of which needs it. Components 0 (x87) and 1 (SSE) come with XSAVE itself.
COMPONENTS: dict[int, frozenset[str]] = {
    2: frozenset({"avx"}),
    3: frozenset({"mpx"}),
    4: frozenset({"mpx"}),
    5: frozenset({"avx512f"}),
    6: frozenset({"avx512f"}),
    7: frozenset({"avx512f"}),
    8: frozenset({"intel-pt"}),
    9: frozenset({"pku"}),
    11: frozenset({"shstk", "ibt"}),
    12: frozenset({"shstk", "ibt"}),
    15: frozenset({"arch-lbr"}),
    17: frozenset({"amx-tile"}),
    18: frozenset({"amx-tile"}),
}


def xsave_leaves(supported: CpuidTable, features: Set[str]) -> list[CpuidEntry]:
    """All sub-leaves of leaf 0xD for a guest with `features`; a single zero entry without `xsave`.

    Sizes that depend on XCR0 and IA32_XSS are KVM's to keep up to date; the ones given here are those after
    reset.
    """
    if "xsave" not in features:
        return [entry(LEAF)]
    wanted = 0b11 | sum(1 << n for n, needs in COMPONENTS.items() if needs & features)
    main = supported.get(LEAF, 0)
    user = (main.edx << 32 | main.eax) & wanted
    extended = supported.get(LEAF, 1)
    supervisor = (extended.edx << 32 | extended.ecx) & wanted if "xsaves" in features else 0

    leaves = []
    largest = LEGACY_AREA
    for number in range(2, 63):
        if not (user | supervisor) >> number & 1:
            continue
        component = supported.get(LEAF, number)
        leaves.append(component)
        if user >> number & 1:
            largest = max(largest, component.ebx + component.eax)  # offset + size, standard format
    instructions = sum(1 << bit for bit, name in enumerate(INSTRUCTIONS) if name in features)
    return [
        entry(LEAF, 0, eax=user, ebx=LEGACY_AREA, ecx=largest, edx=user >> 32),
        entry(LEAF, 1, eax=instructions, ebx=LEGACY_AREA, ecx=supervisor, edx=supervisor >> 32),
        *leaves,
    ]
