# SPDX-License-Identifier: Apache-2.0
"""pytest plugin: kvm-unit-tests style guests as test items.

Off unless asked for, by `pytest --vmm-guests` or `vmm_guests = true` in the ini file. Then every `.flat` file below
the collected directories is an item; a `.elf` file or a `unittests.cfg` is collected where it is named on the
command line (a directory often holds one guest in several forms).

    pytest --vmm-guests firmware/build --vmm-guest-option=--cpus=2

Options and ini names are in `pytest --help`, group "vmm guests". Installed projects load this module with every run
of pytest, so it imports nothing of ours before there is a guest to collect.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vmm.guesttest.guests import Guest
    from vmm.guesttest.runner import GuestResult

CONSOLE_TAIL_LINES = 40  # of a failed guest's console, in the failure's text


@cache
def _host_patience() -> float:
    from vmm.backend.ring0 import measure_speed
    from vmm.guesttest.host_speed import patience

    return patience(measure_speed())


class GuestFailedError(Exception):
    """A guest that did not pass; `result` says everything about it."""

    def __init__(self, result: GuestResult) -> None:
        super().__init__(f"{result.verdict}: {result.judgement.reason}".removesuffix(": "))
        self.result = result


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("vmm guests")
    group.addoption(
        "--vmm-guests", action="store_true", help="collect kvm-unit-tests style guests (.flat files)"
    )
    group.addoption(
        "--vmm-guest-option",
        metavar="OPTION",
        action="append",
        default=[],
        help="an option of `vmm run` for all guests, such as --vmm-guest-option=--cpus=2; repeatable",
    )
    group.addoption(
        "--vmm-guest-timeout",
        metavar="SECONDS",
        type=float,
        help="limit for each guest (default: its entry's in unittests.cfg, or 90, and more on a slow host)",
    )
    parser.addini("vmm_guests", "collect kvm-unit-tests style guests", type="bool", default=False)
    parser.addini("vmm_guest_options", "options of `vmm run` for all guests", type="args", default=[])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Make a collector of a guest's file."""
    config = parent.config
    if not (config.getoption("--vmm-guests") or config.getini("vmm_guests")):
        return None
    named = file_path.suffix in (".elf", ".cfg") and parent.session.isinitpath(file_path)
    if file_path.suffix != ".flat" and not named:
        return None
    collector: pytest.Collector = GuestFile.from_parent(parent, path=file_path)
    return collector


class GuestFile(pytest.File):
    """A file that holds guests: one in a `.flat`, several in a `unittests.cfg`."""

    def collect(self) -> Iterator[pytest.Item]:
        """Its guests as items."""
        from vmm.guesttest.config import ConfigError
        from vmm.guesttest.guests import Selection, SelectionError, find_guests

        try:
            for guest in find_guests([self.path], Selection()):
                yield GuestItem.from_parent(self, name=guest.name, guest=guest)
        except (ConfigError, SelectionError) as error:
            raise self.CollectError(str(error)) from error


class GuestItem(pytest.Item):
    """One guest; passes if `vmm test` would say PASS."""

    def __init__(self, *, guest: Guest, **rest: Any) -> None:
        super().__init__(**rest)
        self.guest = guest

    def runtest(self) -> None:
        """Run the guest. Errors: `GuestFailedError`."""
        from vmm.guesttest.guests import Selection, collect
        from vmm.guesttest.runner import Runner
        from vmm.guesttest.targets import VmmTarget
        from vmm.guesttest.verdict import Verdict

        options = [*self.config.getini("vmm_guest_options"), *self.config.getoption("--vmm-guest-option")]
        timeout_s = self.config.getoption("--vmm-guest-timeout")
        runner = Runner(VmmTarget(options), timeout_s=timeout_s, patience=_host_patience)
        (result,) = runner.run(collect([self.guest], Selection()))
        if runner.stopped_by is not None:
            raise KeyboardInterrupt
        self.add_report_section("call", "console", result.console.decode(errors="replace"))
        self.user_properties += [("verdict", result.verdict.value), ("tests", result.judgement.tests)]
        if result.verdict is Verdict.SKIP:
            pytest.skip(result.judgement.reason)
        if result.verdict is not Verdict.PASS:
            raise GuestFailedError(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The verdict, the command to repeat the run with, and the end of the console."""
        if not isinstance(excinfo.value, GuestFailedError):
            return super().repr_failure(excinfo, style)
        result = excinfo.value.result
        lines = [f"{self.guest.image}: {excinfo.value}", f"command: {' '.join(result.command)}"]
        for title, output in (("console", result.console), ("standard error", result.errors)):
            text = output.decode(errors="replace").splitlines()
            if text:
                lines += [f"--- {title}, last {CONSOLE_TAIL_LINES} lines ---", *text[-CONSOLE_TAIL_LINES:]]
        return "\n".join(lines)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the guest comes from."""
        line = self.guest.entry.line - 1 if self.guest.entry else None
        return self.path, line, f"guest {self.name}"
