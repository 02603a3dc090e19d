# SPDX-License-Identifier: Apache-2.0
"""The generated pages of docs/ are those that their tables give today."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import gen_docs
from scripts.gen_docs import PAGES
from vmm.hv.msrs import HvMsr


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_up_to_date(name: str) -> None:
    committed = (gen_docs.ROOT / name).read_text(encoding="utf-8")

    assert committed == PAGES[name](), "run `python -m scripts.gen_docs` and commit the page"


def test_every_msr_is_on_the_page() -> None:
    text = PAGES["docs/msrs.md"]()

    missing = [msr.name for msr in HvMsr if f"{int(msr):#010x}" not in text and "SINT" not in msr.name]

    # Inside a run, as SINT1 to SINT14 or STIMER1 and STIMER2, a number is not printed.
    assert all("STIMER" in name or "CRASH_P" in name for name in missing)
    assert len(missing) == 2 + 2 + 3


@pytest.mark.parametrize(
    ("call", "bits"),
    [
        ("HvCallTranslateVirtualAddress", "0x40000003 EDX TranslateGvaFlagsAvailable"),
        ("HvCallSendSyntheticClusterIpi", "0x40000004 EAX UseSyntheticClusterIpi"),
        ("HvCallPostMessage", "PostMessages"),
    ],
)
def test_a_cpuid_bit_is_named_with_its_leaf(call: str, bits: str) -> None:
    rights = PAGES["docs/hypercalls.md"]().partition("## Who may make them")[2]

    (row,) = [
        line for line in rights.splitlines() if line.startswith(f"| {call} | ") and line.count("|") == 6
    ]

    assert row.split(" | ")[-1] == f"{bits} |"


def test_check_says_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gen_docs, "ROOT", tmp_path)
    monkeypatch.setattr(gen_docs, "PAGES", {"page.md": lambda: "text\n"})

    statuses = [gen_docs.main(["--check"]), gen_docs.main([]), gen_docs.main(["--check"])]

    assert statuses == [1, 0, 0]
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == "text\n"
    assert capsys.readouterr().out.splitlines() == [
        "page.md: out of date, run python -m scripts.gen_docs",
        "page.md: written",
    ]
