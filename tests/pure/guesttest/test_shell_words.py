# SPDX-License-Identifier: Apache-2.0
"""Words of a value, as bash would see them."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.guesttest.shell_words import ShellWordsError, condition_holds, needs_shell, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("-cpu max", ["-cpu", "max"]),
        ("'cpuid'", ["cpuid"]),
        ('"ept_access* -vmx"', ["ept_access* -vmx"]),
        (r"a\ b", ["a b"]),
        ("-m 256 # more than the default", ["-m", "256"]),
        ("a#b", ["a#b"]),
        ("a #b\nc '#' \"#\" \\#", ["a", "c", "#", "#", "#"]),
        ("'$MAX_SMP'", ["$MAX_SMP"]),
    ],
)
def test_value_without_expansion_is_split_like_a_shell_line(text: str, words: list[str]) -> None:
    assert split_words(text, {}) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$MAX_SMP", ["3"]),
        ('"10 `echo 20`"', ["10 20"]),
        ("$((($MAX_SMP < 8)?$MAX_SMP:8))", ["3"]),
        ("-append '$MAX_SMP' ${MAX_SMP} * # $x", ["-append", "$MAX_SMP", "3", "*"]),
        ("$NOTHING_OF_THIS_NAME", []),
        ('""$NOTHING_OF_THIS_NAME', [""]),
        ("$MAX_SMP\n-m 1", ["3", "-m", "1"]),
    ],
)
def test_expansions_are_made_by_bash(text: str, words: list[str]) -> None:
    assert split_words(text, {"MAX_SMP": "3"}) == words


@pytest.mark.parametrize(
    "text", ["'open", '"open', '"$open', "`exit 3", "$(", "$x; true", "`no-such-command-here`"]
)
def test_value_no_shell_would_take_is_an_error(text: str) -> None:
    with pytest.raises(ShellWordsError) as caught:
        split_words(text, {})
    assert str(caught.value).startswith(repr(text))


def test_error_quotes_the_value() -> None:
    with pytest.raises(ShellWordsError, match=r"'open\": no closing quotation"):
        split_words("'open", {})


def test_missing_bash_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ShellWordsError, match="needs bash"):
        split_words("$X", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("'$A'", False), ('"$A"', True), (r"\$A", False), ("\"'$A'\"", True), ("`a`", True), ("a b", False)],
)
def test_needs_shell_looks_at_quotes(text: str, expected: bool) -> None:
    assert needs_shell(text) is expected


@pytest.mark.parametrize(
    ("condition", "holds"), [('[[ "$TARGET" != qemu ]]', False), ('[[ "$TARGET" = qemu ]]', True)]
)
def test_condition_is_judged_by_bash(condition: str, holds: bool) -> None:
    assert condition_holds(condition, {"TARGET": "qemu"}) is holds


def test_broken_condition_is_an_error() -> None:
    with pytest.raises(ShellWordsError, match="no condition for bash"):
        condition_holds("[[ x = ", {})


@given(st.lists(st.text(st.sampled_from("ab -,=+.#\n\"'\\ *"), min_size=1), max_size=4))
def test_our_own_splitting_equals_bash(words: list[str]) -> None:
    import shlex  # only this test quotes

    text = shlex.join(words)
    by_bash = subprocess.run(
        ["bash", "-c", f"set -f; printf '%s\\0' {text}"], capture_output=True, check=True
    ).stdout.decode()
    assert split_words(text, {}) == (by_bash.split("\0")[:-1] if words else [])
