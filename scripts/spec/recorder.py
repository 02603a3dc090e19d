# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin that keeps the results of tests with a `tlfs` mark; tests/conftest.py registers it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from scripts.spec import results
from scripts.spec.results import Result

_PROPERTY = "tlfs"


class SpecRecorder:
    """One per test run, in the process that gathers the reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._host = results.host()
        self._outcomes: dict[str, tuple[list[str], str]] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Let reports carry the ids: a worker process of a parallel run has the marks, the others only reports."""
        for item in items:
            ids = sorted({str(item_id) for mark in item.iter_markers("tlfs") for item_id in mark.args})
            if ids:
                item.user_properties.append((_PROPERTY, ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test passed when its call did and neither setup nor teardown failed."""
        ids = next((value for name, value in report.user_properties if name == _PROPERTY), None)
        if not isinstance(ids, list):
            return
        before = self._outcomes.get(report.nodeid, (ids, "skipped"))[1]
        if report.failed:
            outcome = "failed"
        elif report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
            outcome = "passed" if before != "failed" else before
        else:
            outcome = before
        self._outcomes[report.nodeid] = (ids, outcome)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write what was learnt. A place that cannot be written to is said, and fails nothing."""
        if self._config.option.collectonly or hasattr(self._config, "workerinput"):
            return
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        learnt = [Result(node, "", ids, outcome, when) for node, (ids, outcome) in self._outcomes.items()]
        learnt = [result._replace(host="" if result.ring == "pure" else self._host) for result in learnt]
        ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        whole = self._whole_folders(session) if ended else []

        def replaced(old: Result) -> bool:
            path = self._config.rootpath / old.file
            return old.host in ("", self._host) and any(path.is_relative_to(folder) for folder in whole)

        if not learnt and not whole:
            return
        try:
            results.store(results.directory(), learnt, replaced)
        except OSError as error:
            print(f"\nspec: results not recorded: {error}")

    def _whole_folders(self, session: pytest.Session) -> list[Path]:
        """Files and folders all of whose tests were to run, and were not cut short."""
        option = self._config.option
        narrowed = option.keyword or option.markexpr or option.deselect or getattr(option, "lf", False)
        if narrowed or session.shouldstop or session.shouldfail:
            return []
        start = self._config.invocation_params.dir
        return [(start / argument).resolve() for argument in self._config.args if "::" not in argument]
