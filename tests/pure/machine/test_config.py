# SPDX-License-Identifier: Apache-2.0
"""Sizes and machine options as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmm.machine.config import ConfigError, MachineConfig, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("128", 128 << 20),
        ("128M", 128 << 20),
        ("64KiB", 64 << 10),
        ("2g", 2 << 30),
        ("1.5G", 3 << 29),
        ("4096b", 4096),
        (" 1 GB ", 1 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-5M", "1.2.3M", "5X", "1e9", "0x100", "9" * 400 + "M", "0.3b"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"size '"):
        parse_size(text)


@pytest.mark.parametrize("cpus", [0, -1, 1025, 10**9])
def test_absurd_processor_counts_are_refused(cpus: int) -> None:
    with pytest.raises(ConfigError, match="1 to 1024"):
        MachineConfig(kernel=Path("kernel"), cpus=cpus)


@pytest.mark.parametrize("vtls", [0, 1, 17])
def test_absurd_numbers_of_vtls_are_refused(vtls: int) -> None:
    with pytest.raises(ConfigError, match="2 to 16"):
        MachineConfig(kernel=Path("kernel"), vsm=True, vtls=vtls)
