# SPDX-License-Identifier: Apache-2.0
"""kvmapi.uapi against the headers of Linux 6.12, by a C compiler: nothing is taken on trust."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import kvmapi
from kvmapi.uapi import kvm, layout, vsm
from scripts import uapi_headers
from tests.pure.kvmapi import header_probe

# Declarations of linux/kvm.h that x86 has no use for.
OTHER_ARCHITECTURES = re.compile(
    r"KVM_(S390|PPC|ARM|MMU_FSL|VM_(S390|PPC|MIPS|TYPE_ARM)|CREATE_SPAPR|ALLOCATE_RMA|DIRTY_TLB)"
    r"|KVM_REG_(PPC|IA64|ARM|S390|ARM64|MIPS|RISCV|LOONGARCH)$"
    r"|kvm_(config_tlb|dirty_tlb|arm_|vfio_spapr_tce)"
)
# Left out on purpose, with the reason.
NOT_FOR_A_VMM = {
    "KVM_MAP_GPA_RANGE_ENC_STAT": "a macro with an argument; its two values are here",
    "KVM_MMU_OP_WRITE_PTE": "hypercall gone since Linux 3.3",
    "KVM_MMU_OP_FLUSH_TLB": "hypercall gone since Linux 3.3",
    "KVM_MMU_OP_RELEASE_PT": "hypercall gone since Linux 3.3",
    "kvm_mmu_op_header": "hypercall gone since Linux 3.3",
    "kvm_mmu_op_write_pte": "hypercall gone since Linux 3.3",
    "kvm_mmu_op_flush_tlb": "hypercall gone since Linux 3.3",
    "kvm_mmu_op_release_pt": "hypercall gone since Linux 3.3",
    "HINT_UNSAFE_IN_KVM": "a macro for the kernel itself",
}


@pytest.fixture(scope="module")
def headers() -> Path:
    assert shutil.which("gcc"), "gcc is missing: apt-get install gcc"
    return uapi_headers.prepare()


@pytest.mark.timeout(600)
def test_every_structure_offset_and_constant_is_that_of_the_headers(
    headers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = header_probe.ours()

    theirs = header_probe.c_answers(headers, tmp_path)

    kinds = [question.split(" ")[0] for question in ours]
    counted = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    with capsys.disabled():
        print(f"\nkvmapi.uapi compared with the headers of Linux 6.12: {len(ours)} answers, {counted}")
    different = {
        question: (ours[question], theirs.get(question))
        for question in ours
        if ours[question] != theirs.get(question)
    }
    assert different == {}, "question: (kvmapi, C)"
    # What was there when this test was written; fewer means that the search for names broke.
    assert counted["constant"] >= 700
    assert counted["size"] >= 90
    assert counted["member"] >= 900
    assert counted["array"] >= 12
    assert counted["bits"] == 16


@pytest.mark.timeout(600)
def test_the_comparison_notices_a_wrong_number(
    headers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "KVM_CAP_SYNC_REGS", 75)

    theirs = header_probe.c_answers(headers, tmp_path)

    assert theirs["constant KVM_CAP_SYNC_REGS"] == "74"
    assert header_probe.ours()["constant KVM_CAP_SYNC_REGS"] == "75"


@pytest.mark.timeout(600)
def test_every_name_of_the_headers_is_here(headers: Path) -> None:
    constants, structures = header_probe.names_in_headers(headers)

    wanted = {
        name
        for name in constants | structures
        if not OTHER_ARCHITECTURES.match(name)
        and name not in NOT_FOR_A_VMM
        and not name.startswith(("__KVM_HAVE", "_ASM", "_UAPI", "__LINUX"))
    }
    missing = wanted - set(header_probe.public())
    assert missing == set()
    assert len(wanted) >= 700


def test_every_public_name_is_compared() -> None:
    compared = set(header_probe.constants()) | set(header_probe.structures())

    rest = {
        name
        for name, value in header_probe.public().items()
        if name not in compared and not name.startswith("make_kvm_") and value not in layout.UNNAMED
    }

    # A byte string and a function: `test_layout` checks them.
    assert rest == {"KVM_SIGNATURE", "KVM_PMU_ENCODE_MASKED_ENTRY"}


def test_every_unnamed_member_type_is_reached_through_its_structure() -> None:
    reached = set()
    for cls in header_probe.structures().values():
        todo = [cls]
        while todo:
            kind = todo.pop()
            while hasattr(kind, "_type_") and not isinstance(kind._type_, str):
                kind = kind._type_
            if hasattr(kind, "_fields_"):
                reached.add(kind)
                todo += [field[1] for field in kind._fields_]

    ours = {cls for cls in layout.UNNAMED if cls.__module__ != "kvmapi.uapi.vsm"}

    assert ours - reached == set()


@pytest.mark.timeout(600)
def test_the_vsm_module_holds_only_what_no_header_has(headers: Path) -> None:
    constants, structures = header_probe.names_in_headers(headers)

    declared = {name for name, value in vars(vsm).items() if vars(layout).get(name) is not value}

    assert declared & (constants | structures) == set()


@pytest.mark.timeout(600)
def test_docstrings_cite_the_sections_of_the_kernels_documentation(headers: Path) -> None:
    """`KVM_X ... (api.rst N)` in a docstring: section N of Documentation/virt/kvm/api.rst is about KVM_X."""
    parts = re.split(r"^(\d+\.\d+)\.? (.+)\n-+$", (headers / "api.rst").read_text(), flags=re.MULTILINE)
    text: dict[str, str] = {}
    for number, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        text[number] = text.get(number, "") + title + body  # the document has 4.71 twice
    cited = re.compile(r"(KVM_\w+)[^\"\n(]*\(api\.rst (\d+\.\d+)")
    citations = [
        (path.name, name, number)
        for path in sorted(Path(kvmapi.__file__).parent.glob("*.py"))
        for name, number in cited.findall(path.read_text())
    ]

    # "KVM_(UN)REGISTER_..." is spelt otherwise in its title; the section must at least name the ioctl.
    wrong = [
        (file, name, number)
        for file, name, number in citations
        if name.removeprefix("KVM_UN").removeprefix("KVM_") not in text.get(number, "")
    ]

    assert wrong == []
    assert len(citations) >= 85
