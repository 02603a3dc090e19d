# SPDX-License-Identifier: Apache-2.0
"""`--stats`: its words, its table, and how the table and the guest's output share a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vmm.backend.stats.figures import Figures, SwitchKey, VpFigures, VtlFigures
from vmm.cli.errors import UserError
from vmm.cli.stats_live import Screen
from vmm.cli.stats_option import StatsWanted, parse
from vmm.cli.stats_table import live_table, table

SECOND = 1_000_000_000


def test_nothing_is_counted_unless_asked() -> None:
    assert parse(None) is None


def test_words_add_up(tmp_path: Path) -> None:
    path = str(tmp_path / "stats.json")

    assert parse(["end"]) == StatsWanted(end=True)
    assert parse(["live"]) == StatsWanted(live=True, end=True)
    assert parse(["live", f"json:{path}"]) == StatsWanted(live=True, end=True, json_path=path)


@pytest.mark.parametrize("value", ["", "json", "LIVE", "csv:out", "live,end"])
def test_other_words_are_one_line(value: str) -> None:
    with pytest.raises(UserError, match="expected live, end or json:PATH"):
        parse([value])


@pytest.mark.parametrize("path", ["", "/nonexistent/stats.json"])
def test_a_file_that_cannot_be_written_is_refused_before_the_guest_runs(path: str) -> None:
    with pytest.raises(UserError, match="--stats"):
        parse([f"json:{path}"])


def one_second(**more: int | None) -> Figures:
    interrupts = more.get("interrupts", 12)
    vtl0 = VtlFigures(
        0, SECOND // 2, more.get("halted_ns", SECOND // 4), interrupts, 0, {"IO": 1500, "EINTR": 0}, None
    )
    vtl1 = VtlFigures(1, 0, 0, 0, 0, {}, {"memory write": 2, "memory read": 0})
    switches = {
        SwitchKey(1, 0, "VTL return"): 7,
        SwitchKey(0, 1, "VTL call"): 7,
        SwitchKey(0, 1, "interrupt"): 0,
    }
    return Figures(SECOND, [VpFigures(0, None, SECOND, [vtl0, vtl1], switches, 3)])


def test_the_table_of_a_run() -> None:
    assert table(one_second()) == [
        "in 1.000 s: 1,500 exits (1,500/s), 14 VTL switches (14/s)",
        " VP VTL   in guest     halted  interrupts  exits",
        "  0   0    0.250 s    0.250 s          12  IO 1,500",
        "  0   1    0.000 s    0.000 s           0  none",
        "VP 0 switched VTLs: 0>1 VTL call 7, 1>0 VTL return 7, VINA raised 3",
        "VP 0 VTL 1 was intercepted: memory write 2",
    ]


def test_the_live_table_has_shares_of_the_time() -> None:
    assert live_table(one_second())[2] == "  0   0     25.0 %     25.0 %          12  IO 1,500"


def test_before_the_guest_begins_there_is_nothing_to_have_a_share_of() -> None:
    figures = Figures(0, one_second().vps)

    assert live_table(figures)[2] == "  0   0    0.250 s    0.250 s          12  IO 1,500"


def test_what_is_not_known_is_not_zero() -> None:
    row = table(one_second(halted_ns=None, interrupts=None))[2]

    assert row == "  0   0    0.500 s    unknown     unknown  IO 1,500"


def test_a_machine_without_vtls_says_nothing_of_switches() -> None:
    vtl0 = one_second().vps[0].vtls[:1]

    lines = table(Figures(SECOND, [VpFigures(0, None, 0, vtl0, {}, 0)]))

    assert lines[0] == "in 1.000 s: 1,500 exits (1,500/s)"
    assert len(lines) == 3


class Terminal:
    """What was written, and the guest's own output among it."""

    def __init__(self, *, terminal: bool = True) -> None:
        self.written: list[str] = []
        self.screen = Screen(self.written.append, terminal=terminal, columns=lambda: 11)
        self.guest = self.screen.sharing(lambda data: self.written.append(data.decode()))


WIPE_TWO = "\x1b[2A\r\x1b[J"


def test_a_file_gets_one_table_below_the_other() -> None:
    to = Terminal(terminal=False)

    to.screen.show(["a line longer than a terminal"])
    to.screen.show(["two"])
    to.screen.wipe()

    assert to.written == ["a line longer than a terminal\n", "two\n"]


def test_a_terminal_keeps_one_table_in_its_place() -> None:
    to = Terminal()

    to.screen.show(["1234567890123", "b"])
    to.screen.show(["c"])
    to.screen.wipe()

    assert to.written == ["1234567890\nb\n", WIPE_TWO + "c\n", "\x1b[1A\r\x1b[J"]


def test_the_guest_writes_where_it_would_have_without_the_table() -> None:
    to = Terminal()

    to.guest(b"boot\n")
    to.screen.show(["a", "b"])
    to.guest(b"more\n")

    assert to.written == ["boot\n", "a\nb\n", WIPE_TWO, "more\n"]


def test_no_table_is_shown_in_the_middle_of_a_line() -> None:
    to = Terminal()

    to.guest(b"login: ")
    to.screen.show(["a"])
    to.guest(b"root\r\n")
    to.screen.show(["b"])

    assert to.written == ["login: ", "root\r\n", "b\n"]


def test_the_json_file_has_the_figures(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    wanted = parse([f"json:{path}"])
    assert wanted is not None

    wanted.write(one_second())

    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(one_second().as_json()))
