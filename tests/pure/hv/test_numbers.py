# SPDX-License-Identifier: Apache-2.0
"""Every number of the enums against the reference tables: nothing missing, nothing extra, nothing different."""

from __future__ import annotations

import pytest

from tests.pure.hv.tables import Announce, Row, compare, number, rows
from vmm.hv.access import Access, VtlScope
from vmm.hv.call_codes import HypercallCode
from vmm.hv.cpuid import HV_HYPERVISOR_FEATURES_EDX, HV_PARTITION_PRIVILEGE_MASK
from vmm.hv.messages import HvMessageType
from vmm.hv.msrs import HvMsr
from vmm.hv.registers import BY_MSR, LAYOUTS, HvRegisterName
from vmm.hv.status import HvStatus
from vmm.hv.x64_msrs import X2APIC_MSRS, X64Msr

# The tables' words for a scope. "inferred" says how sure the source is, not what the scope is; a register "private to
# owner VTL" is the instance of the VTL that owns it, which is what private means.
SCOPES = {
    "shared": VtlScope.SHARED,
    "private": VtlScope.PRIVATE,
    "private (inferred)": VtlScope.PRIVATE,
    "private to owner VTL (inferred)": VtlScope.PRIVATE,
    "private per owner VTL and lower VTL": VtlScope.OWNER_AND_LOWER,
    "shared-per-partition": VtlScope.PARTITION,
    "private-per-partition": VtlScope.PARTITION_PER_VTL,
    "private-per-partition (VTL>0)": VtlScope.PARTITION_PER_VTL,
    "shared-per-vp": VtlScope.VP,
    "shared-if-Dr6Shared": VtlScope.SHARED_IF_DR6_SHARED,
    "unspecified": VtlScope.UNSPECIFIED,
}
# EOM is written for its effect and reads as 0, so a read is allowed.
ACCESSES = {"R": Access.R, "W": Access.W, "RW": Access.RW, "W (reads 0)": Access.RW}

# Rows whose name is not a name of ours, each with the reason.
RESERVED_STATUSES = {0x0001, 0x000F}  # "(reserved)": values without a name
RENAMED_CALLS = {
    "HvCallConnectPort (old)": "HvCallConnectPortOld"
}  # two codes have the name HvCallConnectPort
X2APIC_ROW = "x2APIC register block 0x802-0x83F"  # a range: X2APIC_MSRS
NO_NUMBER = {  # MSRs that TLFS 15.11 names and nobody gives a number
    "HV_X64_MSR_BELOW_1MB_PAGE",
    "HV_X64_MSR_DEBUG_DEVICE_OPTIONS",
    "HV_X64_MSR_STATS_PARTITION_RETAIL_PAGE",
    "HV_X64_MSR_STATS_VP_RETAIL_PAGE",
}


def test_statuses(announce: Announce) -> None:
    table = rows("hv-status.csv")
    reserved = [row for row in table if row["name"] == "(reserved)"]

    theirs = {row["name"]: number(row["code_hex"]) for row in table if row not in reserved}
    ours = {f"HV_STATUS_{status.name}": int(status) for status in HvStatus}

    assert compare(dict(ours), dict(theirs)) == []
    assert {number(row["code_hex"]) for row in reserved} == RESERVED_STATUSES
    assert not any(HvStatus.name_of(value) for value in RESERVED_STATUSES)
    announce(
        f"hv-status.csv: {len(table)} rows, {len(ours)} statuses compared, {len(reserved)} reserved values"
    )


def test_call_codes(announce: Announce) -> None:
    theirs = {
        RENAMED_CALLS.get(row["name"], row["name"]): number(row["code_hex"])
        for row in rows("hv-hypercalls.csv")
    }
    ours = {code.name: int(code) for code in HypercallCode}

    assert compare(dict(ours), dict(theirs)) == []
    announce(f"hv-hypercalls.csv: {len(theirs)} rows, {len(ours)} call codes compared")


def test_message_types(announce: Announce) -> None:
    theirs = {row["name"]: number(row["type_hex"]) for row in rows("hv-messages.csv")}
    ours = {message.name: int(message) for message in HvMessageType}

    assert compare(dict(ours), dict(theirs)) == []
    announce(f"hv-messages.csv: {len(theirs)} rows, {len(ours)} message types compared")


@pytest.mark.tlfs("REG-017")
def test_registers(announce: Announce) -> None:
    theirs = {
        row["name"]: (
            number(row["code_hex"]),
            row["value_type"],
            int(row["value_bits"]),
            ACCESSES[row["access"]],
            SCOPES[row["vtl_scope"]],
            number(row["msr_hex"]),
        )
        for row in rows("hv-registers.csv")
    }
    ours = {
        register.name: (
            int(register),
            register.value_type.type_name,
            register.value_type.size_bits,
            register.access,
            register.vtl_scope,
            register.msr,
        )
        for register in HvRegisterName
    }

    assert compare(dict(ours), dict(theirs)) == []
    announce(f"hv-registers.csv: {len(theirs)} rows, {len(ours) * 6} values compared")


def test_a_register_s_bits_fill_its_value() -> None:
    wrong = [
        register.name
        for register in HvRegisterName
        if register.bits is not None and register.value_type.size_bytes != register.bits.SIZE
    ]
    structures = {value_type: layout.SIZE for value_type, layout in LAYOUTS.items()}

    assert wrong == []
    assert all(size == value_type.size_bytes for value_type, size in structures.items())


def reset_value(row: Row) -> int | None:
    """The number after reset; None for what depends on the VP or the host (`VP index`, `host`, `capabilities`).

    SCONTROL's cell gives two (DIS-24): the TLFS's comes first and is ours.
    """
    first = row["reset_value"].split()[:1]
    return int(first[0], 0) if first and first[0][0].isdigit() else None


# The tables' words for what offers an MSR, where they are not the TLFS's names of today.
PRIVILEGES = {
    "AccessResetMsr": HV_PARTITION_PRIVILEGE_MASK.AccessResetReg,
    "AccessGuestIdleMsr": HV_PARTITION_PRIVILEGE_MASK.AccessGuestIdleReg,
    "NpiepAvailable": HV_HYPERVISOR_FEATURES_EDX.Npiep1Available,
    "CPUID.40000003.EDX.10": HV_HYPERVISOR_FEATURES_EDX.GuestCrashRegsAvailable,
}


def test_synthetic_msrs(announce: Announce) -> None:
    table = [row for row in rows("hv-msrs.csv") if row["name"].startswith("HV_X64_MSR_")]
    theirs = {
        row["name"]: (
            number(row["number_hex"]),
            ACCESSES[row["access"]],
            SCOPES[row["vtl_scope"]],
            PRIVILEGES.get(row["privilege"]) or getattr(HV_PARTITION_PRIVILEGE_MASK, row["privilege"]),
            reset_value(row),
        )
        for row in table
        if row["name"] not in NO_NUMBER
    }
    ours = {msr.name: (int(msr), msr.access, msr.vtl_scope, msr.privilege, msr.reset_value) for msr in HvMsr}

    assert compare(dict(ours), dict(theirs)) == []
    assert {row["name"] for row in table if not row["number_hex"]} == NO_NUMBER
    announce(
        f"hv-msrs.csv: {len(table)} synthetic MSRs, {len(ours) * 5} values compared, {len(NO_NUMBER)} without number"
    )


def test_architectural_msrs(announce: Announce) -> None:
    table = [row for row in rows("hv-msrs.csv") if not row["name"].startswith("HV_X64_MSR_")]
    block = [row for row in table if row["name"] == X2APIC_ROW]
    theirs = {
        row["name"]: (number(row["number_hex"]), ACCESSES[row["access"]], SCOPES[row["vtl_scope"]])
        for row in table
        if row not in block
    }
    ours = {msr.name: (int(msr), msr.access, msr.vtl_scope) for msr in X64Msr}

    assert compare(dict(ours), dict(theirs)) == []
    assert [number(row["number_hex"]) for row in block] == [X2APIC_MSRS.start]
    announce(f"hv-msrs.csv: {len(table)} architectural MSRs, {len(ours) * 3 + 1} values compared")


def test_an_msr_and_its_register_agree() -> None:
    differences = []
    for msr in HvMsr:
        register = BY_MSR.get(msr)
        if register is None:
            continue
        if register.vtl_scope is not msr.vtl_scope:
            differences.append(f"{msr.name} is {msr.vtl_scope}, {register.name} is {register.vtl_scope}")
        if not isinstance(msr.contents, str) and register.bits not in (msr.contents, None):
            differences.append(f"{msr.name} is {msr.contents}, {register.name} is {register.bits}")

    assert differences == []
    assert len(BY_MSR) == sum(register.msr is not None for register in HvRegisterName)
