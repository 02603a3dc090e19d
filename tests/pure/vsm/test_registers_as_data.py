# SPDX-License-Identifier: Apache-2.0
"""Homes and scopes of registers, profiles and offers: the tables against the documents' tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pure.hv.tables import Announce, number, rows
from vmm.hv.access import VtlScope
from vmm.hv.registers import HvRegisterName as Name
from vmm.hv.x64_msrs import X64Msr
from vmm.vsm.profile import ROWS, SETTLED, Rules, VsmProfile, markdown, rules
from vmm.vsm.register_calls import READABLE, WRITABLE
from vmm.vsm.register_homes import ABSENT, HOMES, Home
from vmm.vsm.registers import VSM_REGISTERS
from vmm.vsm.scope import CHOSEN, SWITCHED_MSRS, is_shared, switched_registers

ROOT = Path(__file__).resolve().parents[3]
# The words of hv-registers.csv's column vtl_scope.


def register_rows() -> dict[int, dict[str, str]]:
    """hv-registers.csv by code."""
    found = {}
    for row in rows("hv-registers.csv"):
        code = number(row["code_hex"])
        assert code is not None
        found[code] = row
    return found


def of(code: int) -> Name:
    """A register by its code, which is one."""
    name = Name.of(code)
    assert isinstance(name, Name)
    return name


def name_of(code: int) -> str:
    return of(code).name


# ---- homes ---------------------------------------------------------------------------------------------


@pytest.mark.tlfs("REG-017")
def test_every_documented_register_has_a_home(announce: Announce) -> None:
    table = register_rows()

    assert HOMES.keys() == table.keys()
    counts = {home.name: sum(found is home for found in HOMES.values()) for home in Home}
    announce(
        f"VP registers: {len(HOMES)} in hv-registers.csv, {', '.join(f'{n} {c}' for n, c in counts.items())}"
    )


def test_every_absent_register_has_a_reason_and_no_other_has() -> None:
    reasons = {name for name in HOMES if any(name in codes for codes, _ in ABSENT)}
    side_effects = {int(Name.HvX64RegisterApicEoi), int(Name.HvX64RegisterApicSelfIpi)}

    assert {name for name, home in HOMES.items() if home is Home.ABSENT} == reasons | side_effects


@pytest.mark.tlfs("REG-008")
def test_registers_that_the_tlfs_supports_can_be_read_and_written() -> None:
    """v6.0b 7.10; register intercepts come with their enforcement."""
    listed = {code: row for code, row in register_rows().items() if row["v6_0b_guest_getset_list"]}
    intercepts = range(0xE0000, 0xE0004)

    missing = [name_of(code) for code in listed if code not in intercepts and code not in READABLE]
    read_only = [name_of(code) for code in listed if code not in intercepts and code not in WRITABLE]

    assert missing == []
    assert read_only == ["HvRegisterVsmCodePageOffsets"]


@pytest.mark.tlfs("REG-009")
def test_registers_that_openhcl_lets_vtl1_use_can_be_used() -> None:
    table = register_rows()
    intercepts = range(0xE0000, 0xE0004)
    no_value = {int(Name.HvRegisterEom)}  # "reads 0": write-only here

    got = {code for code, row in table.items() if row["openhcl_guest_get"] and code not in intercepts}
    put = {code for code, row in table.items() if row["openhcl_guest_set"] and code not in intercepts}

    assert got - READABLE <= no_value
    assert {name_of(code) for code in put - WRITABLE} == {"HvRegisterSversion"}  # a constant


def test_every_register_of_vsm_s_own_has_its_functions() -> None:
    own = {name for name, home in HOMES.items() if home is Home.VSM}

    assert VSM_REGISTERS.keys() == own
    for code, register in VSM_REGISTERS.items():
        assert (register.set is not None) == of(code).access.writable, name_of(code)


# ---- scopes --------------------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-060", "VSM-061", "VSM-063")
def test_what_the_tlfs_calls_shared_is_and_what_it_calls_private_is_not() -> None:
    found = register_rows()
    shared = [code for code, row in found.items() if row["vtl_scope"] == "shared"]
    private = [code for code, row in found.items() if row["vtl_scope"].startswith("private")]

    assert {
        Name.HvX64RegisterRax,
        Name.HvX64RegisterCr2,
        Name.HvX64RegisterDr0,
        Name.HvX64RegisterXfem,
    } <= set(shared)
    assert {
        Name.HvX64RegisterRip,
        Name.HvX64RegisterCr3,
        Name.HvX64RegisterDr7,
        Name.HvX64RegisterLstar,
    } <= set(private)
    assert [found[code]["name"] for code in shared if not is_shared(code, dr6_shared=False)] == []
    assert [found[code]["name"] for code in private if is_shared(code, dr6_shared=True)] == []


@pytest.mark.tlfs("VSM-060", "VSM-061")
@pytest.mark.parametrize("shared", [False, True])
def test_dr6_follows_the_capabilities(shared: bool) -> None:
    assert is_shared(Name.HvX64RegisterDr6, dr6_shared=shared) is shared
    assert (Name.HvX64RegisterDr6 in switched_registers(dr6_shared=shared)) is shared


@pytest.mark.tlfs("VSM-061", "VSM-065", "VSM-066")
def test_a_switch_carries_over_exactly_these() -> None:
    """DIS-30: DR0 to DR3."""
    expected = {"Rax", "Rbx", "Rcx", "Rdx", "Rsi", "Rdi", "Rbp", "Cr2", "Xfem", "FpControlStatus"}
    expected |= {f"R{n}" for n in range(8, 16)} | {f"Dr{n}" for n in range(4)} | {"XmmControlStatus"}
    expected |= {f"Xmm{n}" for n in range(16)} | {f"FpMmx{n}" for n in range(8)}
    expected |= {f"Ymm{n}{half}" for n in range(16) for half in ("Low", "High")}

    names = {name.name.removeprefix("HvX64Register") for name in switched_registers(dr6_shared=False)}

    assert {name for name in names if not name.startswith("MsrMtrr")} == expected


@pytest.mark.tlfs("VSM-063", "VSM-065", "IMP-005")
def test_a_switch_carries_over_the_msrs_that_the_tlfs_calls_shared() -> None:
    documented = set()
    for row in rows("hv-msrs.csv"):
        if not row["number_hex"] or "-" in row["number_hex"]:
            continue  # no number, or the x2APIC block, which is private
        msr = int(row["number_hex"], 16)
        if row["vtl_scope"] == "shared" and not 0x4000_0000 <= msr < 0x4000_2000:
            documented.add(msr)
    writable = {int(msr) for msr in X64Msr if msr.access.writable}

    assert {int(msr) for msr in SWITCHED_MSRS} == documented & writable
    assert 0x2FF in documented  # IA32_MTRR_DEF_TYPE: the column was read


@pytest.mark.tlfs("VSM-062")
def test_no_private_msr_is_carried_over() -> None:
    private = {int(msr) for msr in X64Msr if msr.vtl_scope is VtlScope.PRIVATE}

    assert private.isdisjoint(int(msr) for msr in SWITCHED_MSRS)
    assert private.isdisjoint(name.msr for name in switched_registers(dr6_shared=True))


@pytest.mark.tlfs("VSM-064")
def test_choices_are_made_only_where_no_document_speaks_and_have_a_reason() -> None:
    listed = ("MsrIa32MiscEnable", "SpecCtrl", "Xss", "SCet", "UCet", "DebugCtl", "TscAdjust", "TscDeadline")
    assert {Name[f"HvX64Register{name}"] for name in listed} <= CHOSEN.keys()
    for code, (scope, reason) in CHOSEN.items():
        assert of(code).vtl_scope is VtlScope.UNSPECIFIED, name_of(code)
        assert scope is not VtlScope.UNSPECIFIED
        assert reason


# ---- profiles ------------------------------------------------------------------------------------------


def test_each_rule_has_one_row_that_differs_and_a_reason() -> None:
    assert [row.name for row in ROWS] == list(Rules._fields)
    for row in ROWS:
        assert row.hyperv != row.kvm_v1, row.name
        assert type(row.hyperv) is type(row.kvm_v1)
        assert row.reason and row.subject
    assert all(row.reason and row.choice for row in SETTLED)


def test_a_profile_s_rules_are_its_column() -> None:
    for row in ROWS:
        assert getattr(rules(VsmProfile.HYPERV), row.name) is row.hyperv
        assert getattr(rules(VsmProfile.KVM_V1), row.name) is row.kvm_v1


def test_the_documentation_has_the_tables() -> None:
    assert markdown() in (ROOT / "docs" / "vsm.md").read_text(encoding="utf-8")
