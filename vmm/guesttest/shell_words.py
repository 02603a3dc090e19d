# SPDX-License-Identifier: Apache-2.0
"""The shell syntax inside values of `unittests.cfg`.

kvm-unit-tests' runner hands `smp`, `test_args` and `qemu_params` to bash's `eval`. So quotes group words, `#`
starts a comment, and `$MAX_SMP`, `$((...))` and backticks are replaced (docs/unittests.txt: "Backticks can be
used to pass the result of shell commands"). A value without such a replacement is split here; the others go
to bash itself, which is the only thing that does exactly what bash does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping

BASH_TIME_LIMIT_S = 10.0  # a value is a word list, not a program


class ShellWordsError(ValueError):
    """A value that no shell would take; says what is wrong with it."""


def _unquoted(text: str) -> Iterator[tuple[int, str, bool]]:
    """`(index, character, in double quotes)` of what is neither escaped nor in single quotes."""
    single = double = escaped = False
    for index, character in enumerate(text):
        if escaped:
            escaped = False
        elif single:
            single = character != "'"
        elif character == "\\":
            escaped = True
        elif character == "'" and not double:
            single = True
        else:
            double ^= character == '"'
            yield index, character, double


def needs_shell(text: str) -> bool:
    """Whether `text` asks for an expansion (`$NAME`, `$(...)`, backticks) outside single quotes."""
    return any(character in "$`" for _, character, _ in _unquoted(text))


def _comment_start(text: str) -> int:
    """Where the first comment of `text` starts, or -1. (shlex takes any `#` for one, bash does not.)"""
    for index, character, double in _unquoted(text):
        if character == "#" and not double and (index == 0 or text[index - 1].isspace()):
            return index
    return -1


def _without_comments(text: str) -> str:
    kept: list[str] = []
    while (start := _comment_start(text)) >= 0:
        _comment, line_end, rest = text[start:].partition("\n")
        kept.append(text[:start] + line_end)
        text = rest
    return "".join([*kept, text])


def split_words(text: str, variables: Mapping[str, str]) -> list[str]:
    """The words of `text` as bash sees them, with `variables` (and the environment) for `$NAME`.

    Errors: `ShellWordsError` for an open quote, a command that fails, or when bash is needed and missing.
    """
    if needs_shell(text):
        return _split_by_bash(text, variables)
    try:
        return shlex.split(_without_comments(text))
    except ValueError as error:
        raise ShellWordsError(f"{text!r}: {str(error).lower()}") from error


def condition_holds(condition: str, variables: Mapping[str, str]) -> bool:
    """Whether bash's `if CONDITION` takes the branch (`disabled_if` of `unittests.cfg`)."""
    completed = _bash(f"if {condition}\nthen exit 0\nelse exit 1\nfi", condition, variables)
    if completed.returncode not in (0, 1) or completed.stderr:
        raise ShellWordsError(f"{condition!r} is no condition for bash: {_last_line(completed.stderr)}")
    return completed.returncode == 0


def _split_by_bash(text: str, variables: Mapping[str, str]) -> list[str]:
    # An array keeps line ends and comments inside the value harmless. `set -f`: no file names for `*`.
    script = (
        f"set -f\nwords=({text}\n) || exit 1\n((${{#words[@]}})) && printf '%s\\0' \"${{words[@]}}\"\nexit 0"
    )
    completed = _bash(script, text, variables)
    if completed.returncode != 0 or completed.stderr:
        raise ShellWordsError(f"{text!r} is no word list for bash: {_last_line(completed.stderr)}")
    output = completed.stdout.decode(errors="surrogateescape")
    return output.split("\0")[:-1]


def _bash(script: str, text: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    bash = shutil.which("bash")
    if bash is None:
        raise ShellWordsError(f"{text!r} needs bash, which is not installed")
    try:
        return subprocess.run(
            [bash, "--norc", "--noprofile", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **variables},
            timeout=BASH_TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ShellWordsError(f"{text!r}: bash did not end within {BASH_TIME_LIMIT_S:g} s") from error


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it failed without a message"
