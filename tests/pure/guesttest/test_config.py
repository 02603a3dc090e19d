# SPDX-License-Identifier: Apache-2.0
"""The parser of `unittests.cfg`: what it understands, and one clear error for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.guesttest.config import (
    MAX_CONFIG_BYTES,
    ConfigError,
    Entry,
    parse_config,
    parse_duration,
    read_config,
)

PATH = Path("x86/unittests.cfg")


def parse_one(text: str) -> Entry:
    (entry,) = parse_config(text.encode(), PATH)
    return entry


def test_every_key_of_an_entry() -> None:
    entry = parse_one(
        """
        # a comment
        [pmu]
        file = pmu.flat
        smp = 2
        test_args = "-a -b c"
        qemu_params = -cpu max,-pku -m 4g
        kvmtool_params = --mem 256
        groups = pmu nodefault
        arch = x86_64
        machine = pc
        accel = kvm|tcg
        timeout = 2m
        check = /sys/a=Y /proc/b=0
        disabled_if = [[ "$A" = b ]]
        """
    )
    assert (entry.name, entry.line, entry.file) == ("pmu", 3, "pmu.flat")
    assert entry.image == Path("x86/pmu.flat")
    assert (entry.smp, entry.test_args, entry.qemu_params) == ("2", '"-a -b c"', "-cpu max,-pku -m 4g")
    assert (entry.groups, entry.arch, entry.machine) == (("pmu", "nodefault"), "x86_64", "pc")
    assert (entry.accel, entry.timeout_s) == (("kvm", "tcg"), 120.0)
    assert entry.check == (("/sys/a", "Y"), ("/proc/b", "0"))
    assert entry.disabled_if == '[[ "$A" = b ]]'


def test_defaults_of_an_entry() -> None:
    entry = parse_one("[a]\nfile = a.flat")
    assert (entry.smp, entry.test_args, entry.qemu_params, entry.timeout_s) == ("1", None, "", None)


def test_extra_params_is_the_old_name_and_the_last_line_wins() -> None:
    assert parse_one("[a]\nfile=a.flat\nqemu_params = -m 1\nextra_params = -m 2").qemu_params == "-m 2"


def test_comments_behind_values_are_no_part_of_them() -> None:
    entry = parse_one(
        "[a]  # the first\nfile = a.flat   # x86 uses .flat files\ngroups = x # y\ntimeout = 5 # s"
    )
    assert (entry.file, entry.groups, entry.timeout_s) == ("a.flat", ("x",), 5.0)


def test_commented_out_entry_does_not_exist() -> None:
    assert [
        entry.name for entry in parse_config(b"#[init]\n#file = init.flat\n[a]\nfile = a.flat", PATH)
    ] == ["a"]


def test_entries_keep_the_order_of_the_file() -> None:
    text = "".join(f"[t{number}]\nfile = t.flat\n" for number in (3, 1, 2))
    assert [entry.name for entry in parse_config(text.encode(), PATH)] == ["t3", "t1", "t2"]


def test_windows_line_ends_and_missing_last_line_end() -> None:
    assert parse_one("[a]\r\nfile = a.flat\r\nsmp = 3").smp == "3"


def test_multi_line_value_in_triple_quotes() -> None:
    entry = parse_one('[a]\nqemu_params = """-cpu max\n-append \'x\ny\'"""  \nfile = a.flat')
    assert entry.qemu_params == "-cpu max\n-append 'x\ny'"
    assert entry.file == "a.flat"


def test_multi_line_value_closed_in_its_first_line() -> None:
    assert parse_one('[a]\nqemu_params = """-m 1"""\nfile = a.flat').qemu_params == "-m 1"


@pytest.mark.parametrize(("end", "joined"), [("\\", "-m 1-m 2"), ("\\\\", "-m 1\\\\\n-m 2")])
def test_backslash_at_the_end_joins_lines_unless_escaped(end: str, joined: str) -> None:
    entry = parse_one(f'[a]\nfile = a.flat\nqemu_params = """-m 1{end}\n-m 2"""')
    assert entry.qemu_params == joined


@pytest.mark.parametrize("smp", ["1", "8,threads=4", "$MAX_SMP", "$((($MAX_SMP < 8)?$MAX_SMP:8))"])
def test_numbers_of_cpus_that_upstream_writes(smp: str) -> None:
    assert parse_one(f"[a]\nfile = a.flat\nsmp = {smp}").smp == smp


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "holds no [name] entry"),
        ("hello", 1, "expected [name], key = value or # comment, found 'hello'"),
        ("\nfile = a.flat", 2, "expected a [name] line before the first key, found 'file'"),
        ("[a]\nsmp = 2", 1, "[a] has no line 'file = <guest>'"),
        ("[a]\nfile = a.flat\n[b]\n[c]\nfile = c.flat", 3, "[b] has no line"),
        ("[]", 1, "expected a name without blanks and slashes in [...], found ''"),
        ("[a b]", 1, "found 'a b'"),
        ("[../a]", 1, "found '../a'"),
        ("[a", 1, "expected [name]"),
        ("[a]\nfile = a\n[a]\nfile = b", 3, "[a] is already defined in line 1"),
        ("[a]\nfile = a\nqemu_parms = -m 1", 3, "unknown key 'qemu_parms'; did you mean 'qemu_params'?"),
        ("[a]\nfile = a\nzzz = 1", 3, "unknown key 'zzz'; known are file, smp"),
        ("[a]\nfile a.flat", 2, "expected [name], key = value"),
        ("[a]\nfile = ", 2, "expected one file name, found ''"),
        ("[a]\nfile = a b", 2, "expected one file name, found 'a b'"),
        ("[a]\nfile = a\nsmp = many", 3, "expected a number of CPUs from 1 on, found 'many'"),
        ("[a]\nfile = a\nsmp = 0", 3, "found '0'"),
        ("[a]\nfile = a\nsmp = -1", 3, "found '-1'"),
        ("[a]\nfile = a\nsmp =", 3, "found ''"),
        ("[a]\nfile = a\ntimeout = soon", 3, "expected a duration like 90, 90s or 2m, found 'soon'"),
        ("[a]\nfile = a\ntimeout = -1", 3, "found '-1'"),
        ("[a]\nfile = a\ntimeout = 1e9", 3, "found '1e9'"),
        ("[a]\nfile = a\ntimeout = 999d", 3, "at most 604800 s"),
        ("[a]\nfile = a\ncheck = /sys/a", 3, "expected <path>=<value> for check, found '/sys/a'"),
        ("[a]\nfile = a\ncheck = =Y", 3, "found '=Y'"),
        ("[a]\nfile = a\narch = x86 arm", 3, "expected one word for arch"),
        ("[a]\nfile = a\naccel = xen", 3, "expected kvm, tcg or hvf for accel, found 'xen'"),
        ("[a]\nfile = a\ntest_args = 'open", 3, 'test_args: "\'open": no closing quotation'),
        (
            "[a]\nfile = a\ntest_args = a b",
            3,
            "expected one word or a quoted text for test_args, found 'a b'",
        ),
        ('[a]\nfile = a\nqemu_params = -append "x', 3, "no closing quotation"),
        ('[a]\nfile = a\nqemu_params = """-m 1\n[b]', 3, "expected a closing"),
    ],
)
def test_malformed_line_is_one_error_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode(), PATH)
    where = f"x86/unittests.cfg:{line}: " if line else "x86/unittests.cfg: "
    assert str(caught.value).startswith(where)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[a]\n\xff\xfe", "cfg:2: expected UTF-8 text, found byte 0xff"),
        (b"[a]\nfile = a\0b", "cfg:2: .*NUL byte"),
    ],
)
def test_binary_content_is_an_error(content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(content, PATH)


def test_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unittests\.cfg: cannot be read: No such file or directory"):
        read_config(tmp_path / "unittests.cfg")


def test_oversized_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "unittests.cfg"
    path.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match=r"not a unittests\.cfg"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), (".5", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_error_about_a_key_names_its_line() -> None:
    entry = parse_one("[a]\nfile = a.flat\nsmp = $X")
    assert str(entry.error("smp", "no")) == "x86/unittests.cfg:3: [a] no"


@given(st.binary(max_size=200))
def test_no_content_raises_anything_else(content: bytes) -> None:
    try:
        parse_config(b"[a]\nfile = a.flat\n" + content, PATH)
    except ConfigError as error:
        assert "\n" not in str(error)


FRAGMENTS = [
    "[a]",
    "[b]",
    "file = x",
    "smp = 2",
    '"""',
    "qemu_params = ",
    "test_args = 'x'",
    "\\",
    "#",
    " ",
    "\n",
    "\n",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30))
def test_no_mixture_of_fragments_raises_anything_else(parts: list[str]) -> None:
    try:
        entries = parse_config("".join(parts).encode(), PATH)
    except ConfigError:
        return
    assert all(entry.file for entry in entries)
