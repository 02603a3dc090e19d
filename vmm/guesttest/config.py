# SPDX-License-Identifier: Apache-2.0
"""`unittests.cfg` of kvm-unit-tests: which guests exist and how each is started.

The format is what kvm-unit-tests' docs/unittests.txt describes and its scripts read: `[name]` starts an
entry, `key = value` lines belong to the entry above, `#` starts a comment, the value of `qemu_params` may be
given in triple quotes over several lines. Where those scripts silently skip a line that they do not
understand, this parser says so: a typing mistake must not turn into a test with other options.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

from vmm.guesttest.shell_words import ShellWordsError, needs_shell, split_words

MAX_CONFIG_BYTES = 1 << 20  # upstream's largest is 14 KiB
MAX_TIMEOUT_S = 7 * 86400.0

SECTION_LINE = re.compile(r"\[(.*)\]")
PARAMETER_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*) *= *(.*)")
# timeout(1): a number and a unit; 0 means no limit
DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([smhd]?)")
DURATION_UNIT_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
ACCELERATOR = re.compile(r"(kvm|tcg|hvf)(\|(kvm|tcg|hvf))*")

# One row per key of the format: the attribute of `Entry` that holds its value ("" = known, of no use here).
KEYS = {
    "file": "file",
    "smp": "smp",
    "test_args": "test_args",
    "qemu_params": "qemu_params",
    "extra_params": "qemu_params",
    "kvmtool_params": "",
    "groups": "groups",
    "arch": "arch",
    "machine": "machine",
    "accel": "accel",
    "timeout": "timeout_s",
    "check": "check",
    "disabled_if": "disabled_if",
}
SMP_VALUE = re.compile(r"[1-9][0-9]{0,5}(,[a-z]+=[0-9]+)*")  # the operand of QEMU's -smp
MULTI_LINE_KEYS = ("qemu_params", "extra_params", "kvmtool_params")
SHELL_KEYS = ("smp", "test_args", "qemu_params", "extra_params")
TRIPLE_QUOTE = '"""'


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is `file:line: what was expected, what was found`."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        super().__init__(f"{path}:{line}: {message}" if line else f"{path}: {message}")


@dataclass
class Entry:
    """One `[name]` of the file. Values that bash would expand are still unexpanded (`shell_words`)."""

    name: str
    path: Path
    line: int
    file: str = ""
    smp: str = "1"
    test_args: str | None = None
    qemu_params: str = ""
    groups: tuple[str, ...] = ()
    arch: str = ""
    machine: str = ""
    accel: tuple[str, ...] = ()
    timeout_s: float | None = None  # None: the runner's default; 0: no limit
    check: tuple[tuple[str, str], ...] = ()  # (file, the content it must have)
    disabled_if: str = ""
    value_lines: dict[str, int] = field(default_factory=dict)

    @property
    def image(self) -> Path:
        """The guest's file: it lies beside the configuration."""
        return self.path.parent / self.file

    def error(self, key: str, message: str) -> ConfigError:
        """A `ConfigError` about this entry's `key`."""
        return ConfigError(self.path, self.value_lines.get(key, self.line), f"[{self.name}] {message}")


def read_config(path: Path) -> list[Entry]:
    """The entries of the file at `path`, in its order. Errors: `ConfigError`, also for an unreadable file."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(path, 0, f"cannot be read: {error.strerror}") from error
    if len(content) > MAX_CONFIG_BYTES:
        raise ConfigError(path, 0, f"is larger than {MAX_CONFIG_BYTES} bytes: not a unittests.cfg")
    return parse_config(content, path)


def parse_config(content: bytes, path: Path) -> list[Entry]:
    """The entries in `content`; `path` is for messages and for the guests' folder. Errors: `ConfigError`."""
    return _Parser(path).parse(content)


class _Parser:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        self._entry: Entry | None = None

    def parse(self, content: bytes) -> list[Entry]:
        lines = self._decode(content)
        index = 0
        while index < len(lines):
            number, text = index + 1, lines[index].strip()
            index += 1
            if not text or text.startswith("#"):
                continue
            section = SECTION_LINE.fullmatch(strip_comment(text))
            if section:
                self._start(section[1], number)
                continue
            parameter = PARAMETER_LINE.fullmatch(text)
            if parameter is None:
                raise self._error(number, f"expected [name], key = value or # comment, found {text!r}")
            key, value = parameter[1], parameter[2]
            if key in MULTI_LINE_KEYS and value.startswith(TRIPLE_QUOTE):
                value, index = self._multi_line(lines, number, value.removeprefix(TRIPLE_QUOTE))
            self._set(key, value, number)
        self._finish_entry()
        if not self._entries:
            raise self._error(0, "holds no [name] entry: not a unittests.cfg")
        return list(self._entries.values())

    def _decode(self, content: bytes) -> list[str]:
        for number, line in enumerate(content.split(b"\n"), start=1):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise self._error(
                    number, f"expected UTF-8 text, found byte {line[error.start]:#04x}"
                ) from error
            if "\0" in text:
                raise self._error(number, "expected text, found a NUL byte")
        return content.decode().replace("\r\n", "\n").split("\n")

    def _multi_line(self, lines: list[str], first: int, value: str) -> tuple[str, int]:
        """The text up to the closing triple quote, and the index of the line behind it."""
        text = value
        for index in range(first, len(lines) + 1):
            if text.rstrip().endswith(TRIPLE_QUOTE):
                return text.rstrip().removesuffix(TRIPLE_QUOTE), index
            if index == len(lines):
                break
            # As in the shell: a backslash at the line's end joins, an escaped backslash does not.
            backslashes = len(text) - len(text.rstrip("\\"))
            joined = text[:-1] if backslashes % 2 else text + "\n"
            text = joined + lines[index]
        raise self._error(
            first, f"expected a closing {TRIPLE_QUOTE} for the value that starts here, found none"
        )

    def _start(self, name: str, number: int) -> None:
        self._finish_entry()
        if not name.strip() or re.search(r"[\s/]", name):
            raise self._error(number, f"expected a name without blanks and slashes in [...], found {name!r}")
        if name in self._entries:
            raise self._error(number, f"[{name}] is already defined in line {self._entries[name].line}")
        self._entry = Entry(name, self._path, number)
        self._entries[name] = self._entry

    def _finish_entry(self) -> None:
        if self._entry is not None and not self._entry.file:
            raise self._error(self._entry.line, f"[{self._entry.name}] has no line 'file = <guest>'")

    def _set(self, key: str, value: str, number: int) -> None:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(KEYS)}"
            raise self._error(number, f"unknown key {key!r}{hint}")
        entry = self._entry
        if entry is None:
            raise self._error(number, f"expected a [name] line before the first key, found {key!r}")
        attribute = KEYS[key]
        if not attribute:
            return
        if key in SHELL_KEYS:
            self._check_shell_value(key, value, number)
        elif key != "disabled_if":
            value = strip_comment(value)
        entry.value_lines[attribute] = number
        setattr(entry, attribute, self._typed(key, value, number))

    def _typed(self, key: str, value: str, number: int) -> object:
        match key:
            case "file":
                return self._file(value, number)
            case "groups":
                return tuple(value.split())
            case "arch" | "machine":
                if len(value.split()) > 1:
                    raise self._error(number, f"expected one word for {key}, found {value!r}")
            case "accel":
                if value and not ACCELERATOR.fullmatch(value):
                    raise self._error(number, f"expected kvm, tcg or hvf for accel, found {value!r}")
                return tuple(value.split("|")) if value else ()
            case "timeout":
                return self._duration(value, number)
            case "check":
                return self._checks(value, number)
        return value

    def _file(self, value: str, number: int) -> str:
        if not value or len(value.split()) > 1:
            raise self._error(number, f"expected one file name, found {value!r}")
        return value

    def _duration(self, value: str, number: int) -> float:
        try:
            return parse_duration(value)
        except ValueError as error:
            raise self._error(number, str(error)) from error

    def _checks(self, value: str, number: int) -> tuple[tuple[str, str], ...]:
        checks = []
        for word in value.split():
            path, equals, content = word.partition("=")
            if not path or not equals:
                raise self._error(number, f"expected <path>=<value> for check, found {word!r}")
            checks.append((path, content))
        return tuple(checks)

    def _check_shell_value(self, key: str, value: str, number: int) -> None:
        if needs_shell(value):
            return  # bash tells when the entry is run
        try:
            words = split_words(value, {})
        except ShellWordsError as error:
            raise self._error(number, f"{key}: {error}") from error
        if key == "smp" and not (words and SMP_VALUE.fullmatch(words[0])):
            raise self._error(number, f"expected a number of CPUs from 1 on, found {value!r}")
        if key == "test_args" and len(words) > 1:
            raise self._error(number, f"expected one word or a quoted text for test_args, found {value!r}")

    def _error(self, line: int, message: str) -> ConfigError:
        return ConfigError(self._path, line, message)


def strip_comment(text: str) -> str:
    """`text` without a comment that follows a blank, and without blanks at its end."""
    return re.sub(r"\s#.*$", "", text).rstrip()


def parse_duration(text: str) -> float:
    """Seconds of a duration in timeout(1)'s syntax: `90`, `90s`, `1.5m`, `2h`; 0 stands for no limit.

    Errors: `ValueError`.
    """
    match = DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a duration like 90, 90s or 2m, found {text!r}")
    seconds = float(match[1]) * DURATION_UNIT_S[match[2]]
    if seconds > MAX_TIMEOUT_S:
        raise ValueError(f"expected a duration of at most {MAX_TIMEOUT_S:g} s, found {text!r}")
    return seconds
