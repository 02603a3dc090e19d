# SPDX-License-Identifier: Apache-2.0
"""Where sources disagree about VSM: what this machine does, per `--vsm-profile`, each with its reason.

| profile | follows |
|---|---|
| `hyperv` (default) | Microsoft's current documents, headers and published code |
| `kvm-v1` | the first KVM/QEMU implementation of VSM (2024) and its tests |

`ROWS` are the rules that differ: code asks `rules(profile)` for them by name, so that there is no other place where a
profile is looked at. `SETTLED` are disagreements that one behaviour satisfies, or where one side is plainly right: the
same in both profiles. DIS numbers are those of section 13 of `tests/data/tlfs-vsm-checklist.md`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

from vmm.hv.status import HvStatus


class VsmProfile(enum.Enum):
    """The values of `--vsm-profile`."""

    HYPERV = "hyperv"
    KVM_V1 = "kvm-v1"


class Rules(NamedTuple):
    """One profile's choices; a field for each row of `ROWS`, which says what it means."""

    partition_vtl_repeated: HvStatus
    vp_vtl_repeated: HvStatus
    vp_vtl_before_partition: HvStatus
    store_interrupted_registers: bool
    intercept_has_gva: bool
    intercept_sets_rf: bool
    intercept_has_am: bool
    execute_intercept_branch_length: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A rule that differs. `name` is its field in `Rules`."""

    name: str
    subject: str
    hyperv: HvStatus | bool
    kvm_v1: HvStatus | bool
    reason: str

    def value(self, profile: VsmProfile) -> HvStatus | bool:
        """What `profile` does."""
        return self.hyperv if profile is VsmProfile.HYPERV else self.kvm_v1


ROWS: Final = (
    Row(
        "partition_vtl_repeated",
        "HvCallEnablePartitionVtl for a VTL above 0 that is enabled already",
        HvStatus.INVALID_VTL_STATE,
        HvStatus.INVALID_PARAMETER,
        "DIS-05: OpenVMM and its guest tests take 0x51 as `there already`; the first QEMU branch answers 5",
    ),
    Row(
        "vp_vtl_repeated",
        "HvCallEnableVpVtl for a VTL that the VP has",
        HvStatus.VTL_ALREADY_ENABLED,
        HvStatus.INVALID_PARAMETER,
        "DIS-07: Linux' VTL mode takes 0x86 as success; the first QEMU branch answers 5, its test any failure",
    ),
    Row(
        "vp_vtl_before_partition",
        "HvCallEnableVpVtl before the VTL is enabled for the partition",
        HvStatus.INVALID_VTL_STATE,
        HvStatus.INVALID_PARAMETER,
        "DIS-08: OpenVMM's guest tests demand 0x51; the first QEMU branch answers 5",
    ),
    Row(
        "store_interrupted_registers",
        "RAX and RCX of the interrupted VTL in VtlReturnX64Rax and Rcx at an entry by interrupt",
        False,
        True,
        "VSM-047: the TLFS has the guest write them; the first QEMU branch stores them before the VTL runs",
    ),
    Row(
        "intercept_has_gva",
        "guest virtual address in memory intercept messages",
        True,
        False,
        "hyperv_vsm: a secure kernel wants it and the header has GvaValid; the test compares with 0",
    ),
    Row(
        "intercept_sets_rf",
        "RFLAGS.RF set in the intercept message's copy of RFLAGS",
        False,
        True,
        "hyperv_vsm: VT-x exit state shown through; the message describes the state before the instruction",
    ),
    Row(
        "intercept_has_am",
        "CR0.AM in the execution state of memory intercept messages",
        True,
        False,
        "hyperv_vsm: the bit is the processor's; the test loses it and compares with 0",
    ),
    Row(
        "execute_intercept_branch_length",
        "instruction length of an execute intercept: that of the control transfer that led there",
        False,
        True,
        "hyperv_vsm: VT-x exit state shown through; the intercepted instruction was not fetched, so 0 is "
        "true",
    ),
)

_RULES: Final = {
    profile: Rules(**{row.name: row.value(profile) for row in ROWS})  # type: ignore[arg-type]  # checked by a test
    for profile in VsmProfile
}


def rules(profile: VsmProfile) -> Rules:
    """The choices of a profile."""
    return _RULES[profile]


class Settled(NamedTuple):
    """A disagreement with one answer for both profiles."""

    number: str
    subject: str
    choice: str
    reason: str


SETTLED: Final = (
    Settled(
        "DIS-01",
        "bits of HvRegisterVsmCapabilities",
        "those of hvdef and Linux",
        "what guests read; kvm-unit-tests reads the TLFS's bits and finds zeros, which is true without MBEC",
    ),
    Settled(
        "DIS-02",
        "TargetVtl of HvCallModifyVtlProtectionMask",
        "a VTL below the caller: that one; the caller's own: all below it",
        "the TLFS and kvm-unit-tests name the VTL that is restricted, OpenVMM and what runs on Hyper-V the one that "
        "owns the protection: no value is ambiguous",
    ),
    Settled(
        "DIS-03",
        "execute bits of protection masks",
        "without MBEC either bit is execute",
        "the PDF and the markdown have them the other way round; guests pass both, or only bit 3",
    ),
    Settled(
        "DIS-06",
        "HvCallEnablePartitionVtl above MaximumVtl",
        "INVALID_PARAMETER",
        "kvm-unit-tests demands it; OpenVMM's ACCESS_DENIED has no known reader",
    ),
    Settled(
        "DIS-09",
        "unknown register name",
        "INVALID_PARAMETER",
        "TLFS, kvm-unit-tests and OpenVMM; 0x87 is only in newer headers",
    ),
    Settled(
        "DIS-10",
        "another default protection mask after protection was enabled",
        "success, the mask stays",
        "kvm-unit-tests needs success; the mask stays in every reading, and the guest can read it back",
    ),
    Settled(
        "DIS-11",
        "list of HvCallSetVpRegisters",
        "32-byte elements",
        "all documents; equal for one register, and kvm-unit-tests uses more only in calls that fail",
    ),
    Settled(
        "DIS-15",
        "cluster IPI from a VTL to a higher one",
        "delivered",
        "kvm-unit-tests hangs without it; a VTL decides by its own TPR what interrupts it",
    ),
    Settled(
        "DIS-17",
        "registers of another VP",
        "allowed",
        "TLFS 7.10; kvm-unit-tests locks other VPs' TLBs so; only OpenVMM's CVM backend refuses",
    ),
    Settled(
        "DIS-25",
        "when VINA's AutoReset clears VinaAsserted",
        "at the next entry",
        "the TLFS says so; no guest can tell, for a lower VTL does not see the page",
    ),
    Settled(
        "DIS-28",
        "local APIC of a new VTL",
        "software enabled",
        "released secure kernels never write SPIV (VSM-034)",
    ),
    Settled(
        "DIS-32", "partition id other than SELF", "INVALID_PARTITION_ID", "TLFS and kvm-unit-tests agree"
    ),
    Settled(
        "DIS-34",
        "which VTL runs first on a started VP",
        "the highest enabled one",
        "a secure kernel sets its processor up before VTL0 runs there; for VTL2's own start both readings agree",
    ),
    Settled(
        "VSM-009",
        "default protection mask without read or write",
        "INVALID_REGISTER_VALUE",
        "OpenVMM; guests write 0xF and 0xB",
    ),
    Settled(
        "VSM-042",
        "where a VTL return goes when a VTL in between did not call",
        "the highest lower VTL that has not returned itself",
        "an interrupt may enter VTL2 over VTL0; VTL1, entered by nobody, would act on a stale entry reason",
    ),
    Settled(
        "VSM-076",
        "rights that no page can have: a write or execute right without read, unknown flags",
        "INVALID_REGISTER_VALUE, no page changes",
        "OpenVMM; no guest asks for them",
    ),
    Settled(
        "VP-022",
        "translation that meets a page, or a page table, that a higher VTL protects",
        "code 8, an intercept",
        "hvdef and Linux say so of code 8; 5 and 6 are for what the host takes from the whole partition",
    ),
    Settled(
        "VP-022",
        "ValidateWrite of an overlay that may only be read, such as the hypercall page",
        "code 7 where the caller's VTL sees that overlay too; a higher one, which has RAM there, is told of the "
        "overlay, and whether the VTL may write that RAM",
        "no document says when code 7 is due; kvm-unit-tests has VTL1 ask about VTL0's hypercall page and wants "
        "success, and what VTL1 would write there is RAM",
    ),
    Settled(
        "VSM-068",
        "who sees the overlay pages of a VTL",
        "that VTL alone; its reference TSC page lower VTLs too, read-only, as their rights to the page allow, where "
        "they have no overlay of their own",
        "HCP-008, and the TLFS' reason: a higher VTL is to rely on its own; but of that page the TLFS has one for the "
        "partition, it holds no secret, and kvm-unit-tests reads VTL1's from VTL0",
    ),
    Settled(
        "REG-010",
        "processor registers of the caller's own VTL",
        "allowed",
        "TLFS 7.10 has no such rule; only OpenVMM's CVM backend refuses",
    ),
)


def markdown() -> str:
    """Both tables for `docs/vsm.md`, which a test compares."""
    lines = ["| rule | `hyperv` | `kvm-v1` | why |", "|---|---|---|---|"]
    lines += [f"| {row.subject} | {_show(row.hyperv)} | {_show(row.kvm_v1)} | {row.reason} |" for row in ROWS]
    lines += ["", "| | subject | both profiles | why |", "|---|---|---|---|"]
    lines += [f"| {row.number} | {row.subject} | {row.choice} | {row.reason} |" for row in SETTLED]
    return "\n".join(lines)


def _show(value: HvStatus | bool) -> str:
    if isinstance(value, HvStatus):
        return f"{value.name} ({int(value):#x})"
    return "yes" if value else "no"
