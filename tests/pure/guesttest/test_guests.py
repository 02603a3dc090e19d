# SPDX-License-Identifier: Apache-2.0
"""PATHs -> guests: what is found, what is selected, what is skipped or unsupported."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmm.guesttest.config import ConfigError
from vmm.guesttest.guests import Guest, Selection, SelectionError, collect, find_guests
from vmm.guesttest.qemu_options import DEFAULT_CPU

ALL = Selection()


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "unittests.cfg"
    path.write_text(text)
    return path


def entry(tmp_path: Path, lines: str) -> Guest:
    (guest,) = find_guests([config(tmp_path, f"[a]\nfile = a.flat\n{lines}\n")], ALL)
    return guest


def test_file_is_one_guest_that_takes_the_machine_it_gets(tmp_path: Path) -> None:
    image = tmp_path / "smptest.flat"
    image.touch()
    (guest,) = find_guests([image], ALL)
    assert (guest.name, guest.image, guest.needs(), guest.timeout_s) == ("smptest", image, None, None)


def test_directory_stands_for_every_flat_file_below_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.flat", "a.flat", "deep/c.flat", "d.elf", "e.txt"):
        (tmp_path / name).touch()
    assert [guest.name for guest in find_guests([tmp_path], ALL)] == ["a", "b", "c"]


def test_entries_of_a_config_in_its_order(tmp_path: Path) -> None:
    path = config(tmp_path, "[b]\nfile = x.flat\ntimeout = 5\n[a]\nfile = x.flat\ngroups = g h\n")
    first, second = find_guests([path], ALL)
    assert (first.name, first.image, first.timeout_s) == ("b", tmp_path / "x.flat", 5.0)
    assert (second.name, second.groups) == ("a", ("g", "h"))


def test_equal_names_are_made_distinct(tmp_path: Path) -> None:
    for folder in ("x", "y", "z"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.flat").touch()
    assert [guest.name for guest in find_guests([tmp_path], ALL)] == ["a", "a~2", "a~3"]


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (Selection(names=("vmexit_*",)), ["vmexit_a", "vmexit_b"]),
        (Selection(names=("other", "vmexit_b")), ["vmexit_b", "other"]),
        (Selection(group="slow"), ["vmexit_b"]),
    ],
)
def test_selection_by_name_and_group(tmp_path: Path, selection: Selection, names: list[str]) -> None:
    path = config(
        tmp_path, "[vmexit_a]\nfile = x\n[vmexit_b]\nfile = x\ngroups = slow nodefault\n[other]\nfile = x\n"
    )
    assert [guest.name for guest in find_guests([path], selection)] == names


def test_selection_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="none of 1 is selected"):
        find_guests([config(tmp_path, "[a]\nfile = x\n")], Selection(names=("b",)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.flat", "no such file or directory"),
        ("folder", "no .flat file in or below"),
        ("a.txt", "expected a guest"),
    ],
)
def test_path_that_is_no_guest_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.txt").touch()
    with pytest.raises(SelectionError) as caught:
        find_guests([tmp_path / name], ALL)
    assert message in str(caught.value)


def test_words_are_in_the_order_of_upstreams_runner(tmp_path: Path) -> None:
    guest = entry(tmp_path, "smp = 2\ntest_args = '-x y'\nqemu_params = -cpu max -m 1G")
    assert guest.qemu_words() == ["-smp", "2", "-append", "-x y", "-cpu", "max", "-m", "1G"]


def test_empty_test_args_give_no_append(tmp_path: Path) -> None:
    assert entry(tmp_path, "test_args =").qemu_words() == ["-smp", "1"]


def test_values_are_expanded_anew_at_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = entry(tmp_path, 'smp = $MAX_SMP\ntest_args = "10 `echo $NOW`"')
    monkeypatch.setenv("MAX_SMP", "7")
    monkeypatch.setenv("NOW", "1")
    assert guest.qemu_words() == ["-smp", "7", "-append", "10 1"]
    monkeypatch.setenv("NOW", "2")
    assert guest.qemu_words()[-1] == "10 2"


def test_entry_without_cpu_gets_qemus_default(tmp_path: Path) -> None:
    needs = entry(tmp_path, "").needs()
    assert needs is not None
    assert needs.cpu == DEFAULT_CPU


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("arch = i386", "i386 only"),
        ("groups = nodefault", "marked as manual run only (nodefault)"),
        ("accel = tcg", "tcg only"),
        ("check = /proc/self/comm=nobody", "/proc/self/comm not equal to nobody"),
        ("check = /no/such/file=Y", "/no/such/file not equal to Y"),
        ('disabled_if = [[ "$TARGET" = qemu ]]', 'disabled because: [[ "$TARGET" = qemu ]]'),
    ],
)
def test_entry_that_upstreams_runner_skips_is_skipped(tmp_path: Path, lines: str, reason: str) -> None:
    guest = entry(tmp_path, lines)
    assert collect([guest], ALL).skipped == {guest: reason}


@pytest.mark.parametrize(
    "lines", ["arch = x86_64", "accel = kvm|tcg", 'disabled_if = [[ "$TARGET" != qemu ]]', "groups = other"]
)
def test_entry_for_this_host_is_not_skipped(tmp_path: Path, lines: str) -> None:
    assert collect([entry(tmp_path, lines)], ALL).skipped == {}


def test_check_that_holds_is_no_reason_to_skip(tmp_path: Path) -> None:
    (tmp_path / "parameter").write_text("Y\n")
    assert collect([entry(tmp_path, f"check = {tmp_path}/parameter=Y")], ALL).skipped == {}


@pytest.mark.parametrize("selection", [Selection(everything=True), Selection(group="nodefault")])
def test_nodefault_entries_run_when_asked_for(tmp_path: Path, selection: Selection) -> None:
    assert collect([entry(tmp_path, "groups = nodefault")], selection).skipped == {}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("qemu_params = -device edu", "-device edu"),
        ("groups = migration", "group migration"),
        ("groups = panic", "panic"),
    ],
)
def test_entry_that_needs_more_than_vmm_run_has_is_unsupported(
    tmp_path: Path, lines: str, reason: str
) -> None:
    guest = entry(tmp_path, lines)
    assert reason in collect([guest], ALL).unsupported[guest]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("qemu_params = -m many", "cfg:3: [a] -m many: expected a size"),
        ("smp = $NO_SUCH_VARIABLE_", "cfg:1: [a] -smp: expected an operand"),
        ("smp = `exit 4", "cfg:3: [a] smp: '`exit 4' is no word list for bash"),
        ("test_args = `echo a b`", "cfg:3: [a] expected one word or a quoted text, found ['a', 'b']"),
        ("disabled_if = [[", "cfg:3: [a] '[[' is no condition for bash"),
    ],
)
def test_value_that_cannot_be_used_is_an_error_with_its_line(
    tmp_path: Path, lines: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        collect([entry(tmp_path, lines)], ALL)
    assert message in str(caught.value)


def test_collection_knows_how_many_cpus_each_guest_asks_for(tmp_path: Path) -> None:
    guest = entry(tmp_path, "smp = 4")
    assert collect([guest], ALL).cpus == {guest: 4}
