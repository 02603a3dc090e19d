# SPDX-License-Identifier: Apache-2.0
"""Environment and directories of a command in the lab."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.lab_vm.places import GUEST_SOURCES
from scripts.lab_vm.surroundings import SCRATCH, kept_directories, lab_environment


def test_only_named_variables_of_the_host_go_in() -> None:
    host = {"PATH": "/x", "SECRET_TOKEN": "s", "HOME": "/root", "VMM_TRACE": "1", "TMPDIR": "/scratch"}

    environment = lab_environment(host, "upstream", None, {})

    assert environment["PATH"] == "/x"
    assert environment["VMM_TRACE"] == "1"
    assert environment["HOME"] == "/run/lab/home"
    assert {"SECRET_TOKEN", "TMPDIR", "LAB_RESULTS"}.isdisjoint(environment)


def test_nothing_writes_next_to_the_sources() -> None:
    environment = lab_environment({"PYTEST_ADDOPTS": "-x"}, "upstream", None, {})

    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert environment["PYTEST_ADDOPTS"] == "-x -p no:cacheprovider -p no:hypothesispytest"


def test_results_and_the_user_s_variables() -> None:
    environment = lab_environment({}, "patched", Path("/out"), {"HOME": "/mine"})

    assert (environment["LAB_RESULTS"], environment["LAB_KERNEL"]) == ("/out", "patched")
    assert environment["HOME"] == "/mine"


def test_directories_that_the_scratch_file_systems_hide_are_kept() -> None:
    wanted = [
        Path("/home/me/vmm"),
        Path("/tmp/ci/vmm"),
        Path("/tmp/ci/vmm/tests"),
        Path("/var/tmp/x"),
        Path("/tmp"),
    ]

    assert kept_directories(wanted) == ["/tmp/ci/vmm", "/var/tmp/x"]


def test_process_1_mounts_scratch_where_we_think_it_does() -> None:
    source = (GUEST_SOURCES / "init" / "mounts.c").read_text()
    match = re.search(r"scratch\[\] = \{(?P<names>[^}]*)\}", source)

    assert match is not None
    assert re.findall(r'"([^"]+)"', match["names"]) == [str(path) for path in SCRATCH]
