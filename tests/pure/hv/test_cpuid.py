# SPDX-License-Identifier: Apache-2.0
"""The CPUID words against the tables of the checklist (DISC-002 to DISC-015)."""

from __future__ import annotations

import re

import pytest

from tests.pure.hv.tables import DATA, Announce
from vmm.hv.bits import Bits, FieldKind
from vmm.hv.cpuid import (
    HV_ENLIGHTENMENT_INFORMATION_EAX,
    HV_HARDWARE_FEATURES_EAX,
    HV_HYPERVISOR_FEATURES_ECX,
    HV_HYPERVISOR_FEATURES_EDX,
    HV_INTERFACE_SIGNATURE,
    HV_NESTED_VIRTUALIZATION_FEATURES_EAX,
    HV_PARTITION_PRIVILEGE_MASK,
    HV_VENDOR,
    LEAVES,
    VIRTUALIZATION_STACK_INTERFACE_SIGNATURE,
    HvCpuidLeaf,
)

CHECKLIST = (DATA / "tlfs-vsm-checklist.md").read_text(encoding="utf-8")


def named_fields(word: type[Bits]) -> dict[int, str]:
    return {field.low: field.name for field in word.FIELDS if field.kind is FieldKind.VALUE}


def checklist_table(heading: str) -> dict[int, str]:
    """A table of the checklist: bit number to its name, without emphasis and remarks in brackets."""
    body = CHECKLIST[CHECKLIST.index(heading) :].split("\n\n", 1)[0]
    found = {}
    for line in body.splitlines()[2:]:
        cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        found[int(cells[0])] = re.sub(r" \(.*\)", "", cells[1])
    return found


def test_privileges(announce: Announce) -> None:
    theirs = checklist_table("| EAX bit | Privilege |")
    theirs |= {bit + 32: name for bit, name in checklist_table("| EBX bit | Privilege |").items()}

    ours = named_fields(HV_PARTITION_PRIVILEGE_MASK)

    # The markdown writes AccessVsm and AccessVSM; bit 46 is hvdef's alone: it guards nothing a guest can reach.
    assert ours == theirs | {48: "AccessVsm", 46: "AccessVpExitTracing"}
    announce(f"privileges: {len(theirs)} bits compared with the checklist's tables")


def test_every_feature_bit_is_described() -> None:
    table = CHECKLIST[CHECKLIST.index("| EDX bit | Feature |") :].split("\n\n", 1)[0]
    listed = {int(number) for number in re.findall(r"\| (\d+) \|", table)}

    # SVM and the two device domain bits are hvdef's; the checklist leaves them out.
    assert set(named_fields(HV_HYPERVISOR_FEATURES_EDX)) == listed | {16, 24, 25}


# Bits that guests act upon, by the words of DISC-008, DISC-010, DISC-013 and DISC-014.
POSITIONS: list[tuple[type[Bits], dict[int, str]]] = [
    (
        HV_HYPERVISOR_FEATURES_ECX,
        {
            0: "MaxSupportedCState",
            5: "InvariantMperfAvailable",
            6: "SupervisorShadowStackAvailable",
            7: "ArchPmuAvailable",
            8: "ExceptionTrapInterceptAvailable",
        },
    ),
    (
        HV_HYPERVISOR_FEATURES_EDX,
        {
            4: "XmmRegistersForFastHypercallAvailable",
            5: "GuestIdleAvailable",
            8: "FrequencyRegsAvailable",
            10: "GuestCrashRegsAvailable",
            12: "Npiep1Available",
            14: "ExtendedGvaRangesForFlushVirtualAddressListAvailable",
            15: "FastHypercallOutputAvailable",
            17: "SintPollingModeAvailable",
            18: "HypercallMsrLockAvailable",
            19: "DirectSyntheticTimers",
            23: "SyntheticTimeUnhaltedTimerAvailable",
            28: "CrossVtlFlushAvailable",
            30: "TranslateGvaFlagsAvailable",
        },
    ),
    (
        HV_ENLIGHTENMENT_INFORMATION_EAX,
        {
            0: "UseHypercallForAddressSpaceSwitch",
            1: "UseHypercallForLocalFlush",
            2: "UseHypercallForRemoteFlushAndLocalFlushEntire",
            3: "UseApicMsrs",
            4: "UseHvRegisterForReset",
            5: "UseRelaxedTiming",
            8: "UseX2ApicMsrs",
            9: "DeprecateAutoEoi",
            10: "UseSyntheticClusterIpi",
            11: "UseExProcessorMasks",
            12: "Nested",
            13: "UseIntForMbecSystemCalls",
            14: "UseVmcsEnlightenments",
            15: "UseSyncedTimeline",
            18: "NoNonArchitecturalCoreSharing",
            21: "UseHypercallForMmioAccess",
        },
    ),
    (
        HV_HARDWARE_FEATURES_EAX,
        {0: "ApicOverlayAssistInUse", 1: "MsrBitmapsInUse", 3: "SecondLevelAddressTranslationInUse"},
    ),
    (
        HV_NESTED_VIRTUALIZATION_FEATURES_EAX,
        {
            0: "EnlightenedVmcsVersionLow",
            8: "EnlightenedVmcsVersionHigh",
            17: "DirectFlushHypercall",
            18: "FlushGuestPhysicalHypercall",
            19: "MsrBitmap",
            20: "VirtualizationException",
            21: "DebugCtl",
            22: "EnlightenedTlb",
        },
    ),
]


@pytest.mark.parametrize(("word", "positions"), POSITIONS, ids=[word.__name__ for word, _ in POSITIONS])
def test_positions(word: type[Bits], positions: dict[int, str]) -> None:
    ours = named_fields(word)

    assert {bit: ours.get(bit) for bit in positions} == positions


def test_signatures() -> None:
    registers = [int.from_bytes(HV_VENDOR[i : i + 4], "little") for i in (0, 4, 8)]

    assert registers == [0x7263694D, 0x666F736F, 0x76482074]  # EBX, ECX, EDX: "Microsoft Hv" (DISC-002)
    assert HV_INTERFACE_SIGNATURE == 0x31237648  # "Hv#1" (DISC-003)
    assert VIRTUALIZATION_STACK_INTERFACE_SIGNATURE == 0x31235356  # "VS#1" (DISC-015)


def test_each_leaf_is_described_once() -> None:
    assert [row.leaf for row in LEAVES] == list(HvCpuidLeaf)


def test_privileges_split_into_eax_and_ebx() -> None:
    mask = HV_PARTITION_PRIVILEGE_MASK.make(AccessHypercallMsrs=True, AccessVsm=True)

    assert (mask.eax, mask.ebx) == (1 << 5, 1 << 16)
