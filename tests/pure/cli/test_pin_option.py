# SPDX-License-Identifier: Apache-2.0
"""`--pin`: which CPU each VP gets, and one line for what makes no sense."""

from __future__ import annotations

import pytest

from vmm.cli.errors import UserError
from vmm.cli.pin_option import choose, parse, ranges


def own_core(cpu: int) -> str:
    return str(cpu)


def shared_core(cpu: int) -> str:
    """Hardware threads 2N and 2N+1 are of one core."""
    return str(cpu // 2)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", [0]),
        ("0-3", [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        ("0-1,6-7", [0, 1, 6, 7]),
        ("0-7:2", [0, 2, 4, 6]),
        ("1, 3", [1, 3]),
        ("0,0", [0, 0]),
        ("5-5", [5]),
        ("8191", [8191]),
    ],
)
def test_a_list_as_taskset_reads_it(text: str, cpus: list[int]) -> None:
    assert parse(text) == cpus


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected 'auto', or CPUs"),
        ("all", "expected 'auto', or CPUs"),
        ("1,", "expected 'auto', or CPUs"),
        ("-1", "expected 'auto', or CPUs"),
        ("0x1", "expected 'auto', or CPUs"),
        ("0:2", "expected 'auto', or CPUs"),
        ("٣", "expected 'auto', or CPUs"),  # a digit, but none of ASCII's
        ("3-1", "3-1 is an empty range"),
        ("0-3:0", "0-3:0 is an empty range"),
        ("8192", "no host has a CPU 8192"),
        ("0-99999", "no host has a CPU 99999"),
    ],
)
def test_anything_else_is_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)

    message = str(caught.value)
    assert message.startswith(f"--pin {text!r}: ") and words in message and "\n" not in message


def test_the_order_of_a_list_counts() -> None:
    assert choose("3,1-2", 2, [0, 1, 2, 3], own_core) == (3, 1)


def test_a_cpu_named_twice_runs_two_vps() -> None:
    assert choose("1,1", 2, [0, 1], own_core) == (1, 1)


def test_auto_takes_other_cores_first() -> None:
    available = [0, 1, 2, 3, 5]

    assert choose("auto", 5, available, shared_core) == (0, 2, 5, 1, 3)
    assert choose("auto", 2, available, shared_core) == (0, 2)
    assert choose("auto", 3, available, own_core) == (0, 1, 2)


@pytest.mark.parametrize(
    ("text", "vps", "words"),
    [
        ("0-3", 2, "CPU 2 is not available to this process, which may use 0-1"),
        ("9", 1, "CPU 9 is not available"),
        ("1", 2, "1 CPU for 2 VPs: name one for each"),
        ("auto", 3, "3 VPs and 2 available CPUs"),
    ],
)
def test_what_this_host_cannot_do_is_refused(text: str, vps: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        choose(text, vps, [0, 1], own_core)

    message = str(caught.value)
    assert message.startswith(f"--pin {text}: ") and words in message and "\n" not in message


@pytest.mark.parametrize(
    ("cpus", "text"),
    [([0], "0"), ([0, 1], "0-1"), ([0, 1, 2, 4, 6, 7], "0-2,4,6-7"), ([3, 5], "3,5"), ([], "")],
)
def test_cpus_as_people_write_them(cpus: list[int], text: str) -> None:
    assert ranges(cpus) == text
