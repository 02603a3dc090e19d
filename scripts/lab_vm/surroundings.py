# SPDX-License-Identifier: Apache-2.0
"""What a command in the lab sees around it: environment variables, and host directories below /tmp and the like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SCRATCH = tuple(Path(name) for name in ("/tmp", "/run", "/var/tmp"))
"""Where the lab has a tmpfs of its own; the same list is in guest/init/mounts.c."""

HOME = "/run/lab/home"

INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "COLORTERM", "VIRTUAL_ENV", "TZ", "PYTEST_ADDOPTS")
INHERITED_PREFIXES = ("PYTHON", "VMM_", "KVMAPI_", "HYPOTHESIS_")

READ_ONLY_CHECKOUT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "MYPY_CACHE_DIR": "/tmp/mypy",
    "RUFF_CACHE_DIR": "/tmp/ruff",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
}
"""Tools that write next to the sources are told not to."""

PYTEST_OPTIONS = "-p no:cacheprovider -p no:hypothesispytest"
"""The checkout has no room for its cache. Hypothesis' plugin, which only words reports, is half of all that pytest
imports: seconds in emulation. Tests that use hypothesis do without it."""


def lab_environment(
    host: Mapping[str, str], kernel: str, results: Path | None, extra: Mapping[str, str]
) -> dict[str, str]:
    """The command's environment: a few of the host's variables, the lab's own, then `extra`, which wins."""
    environment = {
        name: value
        for name, value in host.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    environment.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    environment |= READ_ONLY_CHECKOUT
    environment |= {
        "HOME": HOME,
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/sh",
        "LAB_KERNEL": kernel,
        # Output goes through pipes, and a person wants to see it when it is written.
        "PYTHONUNBUFFERED": "1",
    }
    options = environment.get("PYTEST_ADDOPTS", "")
    environment["PYTEST_ADDOPTS"] = f"{options} {PYTEST_OPTIONS}".strip()
    if results is not None:
        environment["LAB_RESULTS"] = str(results)
    return environment | dict(extra)


def kept_directories(wanted: Iterable[Path], scratch: Sequence[Path] = SCRATCH) -> list[str]:
    """Those of the absolute paths that a scratch tmpfs would hide; one inside another is covered by it."""
    hidden = sorted(
        {path for path in wanted if any(path != root and path.is_relative_to(root) for root in scratch)}
    )
    return [
        str(path)
        for path in hidden
        if not any(path != other and path.is_relative_to(other) for other in hidden)
    ]
