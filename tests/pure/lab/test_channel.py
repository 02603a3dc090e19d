# SPDX-License-Identifier: Apache-2.0
"""Frames and jobs on the lab's link."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.lab_vm.channel import (
    CHUNK_BYTES,
    HEADER,
    JOB_MAX_BYTES,
    FrameReader,
    FrameType,
    Job,
    JobFlag,
    encode_frame,
    exit_status,
)


def job(**changes: Any) -> Job:
    """changes: fields of `Job`."""
    settings: dict[str, Any] = {
        "arguments": ["sh", "-c", "true"],
        "directory": "/d",
        "environment": {"A": "1"},
    }
    return Job(**(settings | changes))


@given(
    frames=st.lists(st.tuples(st.sampled_from(FrameType), st.binary(max_size=50)), max_size=6),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=30),
)
def test_frames_survive_any_cutting(frames: list[tuple[FrameType, bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(kind, payload) for kind, payload in frames)
    reader, got = FrameReader(), []

    for number in range(len(stream)):
        step = cuts[number % len(cuts)]
        got += list(reader.feed(stream[:step]))
        stream = stream[step:]

    assert got == [(int(kind), payload) for kind, payload in frames]


def test_an_impossible_length_is_refused_before_its_payload_arrives() -> None:
    header = HEADER.pack(FrameType.STDOUT, CHUNK_BYTES + 1)

    with pytest.raises(ValueError, match="frame 0x4f of 32769 bytes"):
        list(FrameReader().feed(header))


def test_a_job_is_counts_then_strings() -> None:
    payload = job(flags=JobFlag.RESULTS, results="/r", keep=["/tmp/k"]).encode()

    assert struct.unpack_from("<4I", payload) == (JobFlag.RESULTS, 1, 3, 1)
    assert payload[16:].split(b"\0") == [b"/d", b"/r", b"/tmp/k", b"sh", b"-c", b"true", b"A=1", b""]


def test_a_file_name_that_is_not_utf_8_keeps_its_bytes() -> None:
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")

    assert b"\0\xff\xfe\0" in job(arguments=["cat", name]).encode()


@pytest.mark.parametrize(
    "changes", [{"arguments": ["a\0b"]}, {"environment": {"A": "\0"}}, {"directory": "\0"}]
)
def test_a_nul_cannot_shift_the_strings_of_a_job(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="NUL"):
        job(**changes).encode()


def test_a_job_has_a_longest_size() -> None:
    with pytest.raises(ValueError, match=f"the lab takes {JOB_MAX_BYTES}"):
        job(arguments=["x" * JOB_MAX_BYTES]).encode()


@pytest.mark.parametrize(
    ("wait_status", "status"),
    # wait(2): the code in bits 8 to 15, a signal in bits 0 to 6, bit 7 for a core dump
    [(0, 0), (7 << 8, 7), (255 << 8, 255), (9, 137), (15, 143), (11 | 0x80, 139)],
)
def test_exit_status_is_a_shell_s(wait_status: int, status: int) -> None:
    assert exit_status(wait_status) == status
