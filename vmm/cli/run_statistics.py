# SPDX-License-Identifier: Apache-2.0
"""One run's `--stats`: the counters that go into the machine, and who shows and writes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from vmm.backend.stats import figures
from vmm.backend.stats.counts import MachineCounts
from vmm.backend.vp import VirtualProcessor
from vmm.cli import stats_live
from vmm.cli.stats_option import StatsWanted
from vmm.cli.stats_table import live_table, table


class RunStatistics:
    """Made before the machine, which gets `counts`."""

    def __init__(self, wanted: StatsWanted, vps: int, console_fd: int) -> None:
        """console_fd: where the guest's console writes, -1 where that is no file."""
        self.counts = MachineCounts(vps)
        self._wanted = wanted
        errors_fd = sys.stderr.fileno()
        self._shared = wanted.live and console_fd >= 0 and stats_live.same_terminal(console_fd, errors_fd)
        self._last: figures.Figures | None = None
        self._screen = stats_live.Screen(self._tell, terminal=sys.stderr.isatty())

    def sharing(self, guest: stats_live.Sink) -> stats_live.Sink:
        """What the guest's output goes through, so that tables and it do not mix."""
        return self._screen.sharing(guest) if self._shared else guest

    @contextmanager
    def of(self, processors: Sequence[VirtualProcessor]) -> Iterator[None]:
        """While the machine runs. Errors: `KvmError`."""
        with (
            stats_live.Live(self._screen, self._intervals(processors)) if self._wanted.live else nullcontext()
        ):
            yield
        self._last = figures.take(self.counts, processors)

    def tell(self) -> None:
        """Tell the figures of the run, behind `of`. Whoever reads them may be slow: when the machine is closed and
        signals end the process again. Errors: `UserError`."""
        assert self._last is not None
        if self._wanted.end:
            self._tell("".join(f"vmm: {line}\n" for line in table(self._last)))
        self._wanted.write(self._last)

    def _intervals(self, processors: Sequence[VirtualProcessor]) -> stats_live.NextTable:
        earlier = figures.take(self.counts, processors)

        def next_table() -> list[str]:
            nonlocal earlier
            now = figures.take(self.counts, processors)
            since, earlier = now.since(earlier), now
            return live_table(since)

        return next_table

    def _tell(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
