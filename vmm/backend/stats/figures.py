# SPDX-License-Identifier: Apache-2.0
"""The counts of a machine at one moment, what changed between two moments, and their JSON form (`SCHEMA`).

Times are nanoseconds here, seconds in JSON. None is "not known here": of KVM's counts where it keeps none, of
intercepts where nothing in the machine intercepts.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Final, NamedTuple

from kvmapi.names import EXIT_NAMES
from vmm.backend.stats.counts import MachineCounts, VpCounts, VtlCounts
from vmm.backend.vp import VirtualProcessor

SCHEMA: Final = 1
"""Changes with the meaning of a key; keys may be added."""
_NS: Final = 1_000_000_000


class SwitchKey(NamedTuple):
    """From which VTL to which, and why (`vmm.vsm.actions.SwitchReason`)."""

    source: int
    target: int
    cause: str


@dataclass(frozen=True)
class VtlFigures:
    """exits: by name, KVM_RUNs that a signal ended as EINTR among them. halted_ns: of run_ns, waiting in HLT."""

    vtl: int
    run_ns: int
    halted_ns: int | None
    interrupts: int | None
    nmis: int | None
    exits: Mapping[str, int]
    intercepts: Mapping[str, int] | None

    @property
    def guest_ns(self) -> int:
        """In KVM_RUN and not in HLT, as far as that is known."""
        return max(self.run_ns - (self.halted_ns or 0), 0)

    def since(self, earlier: VtlFigures) -> VtlFigures:
        """What has come since."""
        intercepts = None if self.intercepts is None else _less(self.intercepts, earlier.intercepts or {})
        return VtlFigures(
            self.vtl,
            max(self.run_ns - earlier.run_ns, 0),  # a read in mid-count may have been a moment ahead
            _less_known(self.halted_ns, earlier.halted_ns),
            _less_known(self.interrupts, earlier.interrupts),
            _less_known(self.nmis, earlier.nmis),
            _less(self.exits, earlier.exits),
            intercepts,
        )

    def as_json(self) -> dict[str, object]:
        """One JSON object."""
        return {
            "vtl": self.vtl,
            "in_guest_s": self.guest_ns / _NS,
            "halted_s": None if self.halted_ns is None else self.halted_ns / _NS,
            "in_kvm_run_s": self.run_ns / _NS,
            "exits": dict(self.exits),
            "interrupts": self.interrupts,
            "nmis": self.nmis,
            "intercepts": None if self.intercepts is None else dict(self.intercepts),
        }


@dataclass(frozen=True)
class VpFigures:
    """cpu_ns: processor time of the VP's thread, in the guest and for it."""

    vp: int
    host_cpu: int | None
    cpu_ns: int
    vtls: Sequence[VtlFigures]
    switches: Mapping[SwitchKey, int]
    vinas: int

    def since(self, earlier: VpFigures) -> VpFigures:
        """What has come since."""
        before = {each.vtl: each for each in earlier.vtls}
        vtls = [each.since(before[each.vtl]) if each.vtl in before else each for each in self.vtls]
        switches = {key: count - earlier.switches.get(key, 0) for key, count in self.switches.items()}
        cpu_ns, vinas = max(self.cpu_ns - earlier.cpu_ns, 0), self.vinas - earlier.vinas
        return VpFigures(self.vp, self.host_cpu, cpu_ns, vtls, switches, vinas)

    def as_json(self) -> dict[str, object]:
        """One JSON object."""
        return {
            "vp": self.vp,
            "host_cpu": self.host_cpu,
            "thread_cpu_s": self.cpu_ns / _NS,
            "vtls": [each.as_json() for each in self.vtls],
            "vtl_switches": [
                {"from": key.source, "to": key.target, "cause": key.cause, "count": count}
                for key, count in sorted(self.switches.items())
            ],
            "vina_raised": self.vinas,
        }


@dataclass(frozen=True)
class Figures:
    """A machine's."""

    elapsed_ns: int
    vps: Sequence[VpFigures]

    @property
    def exits(self) -> int:
        """Of all VPs and VTLs."""
        return sum(sum(vtl.exits.values()) for vp in self.vps for vtl in vp.vtls)

    @property
    def switches(self) -> int:
        """VTL switches of all VPs; a call and its return are two."""
        return sum(sum(vp.switches.values()) for vp in self.vps)

    def per_second(self, count: int) -> float:
        """`count` over the time of these figures; 0 when that is none."""
        return count * _NS / self.elapsed_ns if self.elapsed_ns else 0.0

    def since(self, earlier: Figures) -> Figures:
        """What has come since."""
        vps = [vp.since(before) for vp, before in zip(self.vps, earlier.vps, strict=True)]
        return Figures(self.elapsed_ns - earlier.elapsed_ns, vps)

    def as_json(self) -> dict[str, object]:
        """One JSON object."""
        return {
            "schema": SCHEMA,
            "elapsed_s": self.elapsed_ns / _NS,
            "exits": self.exits,
            "exits_per_s": self.per_second(self.exits),
            "vtl_switches": self.switches,
            "vtl_switches_per_s": self.per_second(self.switches),
            "vps": [vp.as_json() for vp in self.vps],
        }


def take(counts: MachineCounts, processors: Sequence[VirtualProcessor]) -> Figures:
    """The counts now. Exact where the VPs are frozen. Errors: `KvmError`."""
    elapsed_ns = perf_counter_ns() - counts.begun_ns if counts.begun_ns is not None else 0
    return Figures(
        elapsed_ns,
        [_vp(vp, processors[vp.index], counts.intercept_causes) for vp in counts.vps],
    )


def _vp(counts: VpCounts, processor: VirtualProcessor, causes: Sequence[str] | None) -> VpFigures:
    return VpFigures(
        counts.index,
        processor.host_cpu,
        processor.run_time_ns(),
        [_vtl(number, vtl, causes) for number, vtl in sorted(counts.vtls.items())],
        {SwitchKey(*key): count for key, count in dict(counts.switches).items()},
        counts.vinas,
    )


def _vtl(number: int, counts: VtlCounts, causes: Sequence[str] | None) -> VtlFigures:
    run, kernel = counts.run, counts.kernel()
    entered_ns, run_ns = run.entered_ns, run.run_ns
    if entered_ns:
        run_ns += max(perf_counter_ns() - entered_ns, 0)
    return VtlFigures(
        number,
        run_ns,
        *kernel,
        _named(dict(run.exits), dict(run.errors)),
        None if causes is None else {**dict.fromkeys(causes, 0), **dict(counts.intercepts)},
    )


def _named(exits: Mapping[int, int], errors: Mapping[int, int]) -> dict[str, int]:
    """The official names without KVM_EXIT_, the most frequent first; errors by their errno's name."""
    names = {
        EXIT_NAMES.get(reason, f"exit reason {reason}").removeprefix("KVM_EXIT_"): n
        for reason, n in exits.items()
    }
    names |= {errno.errorcode.get(number, f"errno {number}"): n for number, n in errors.items()}
    return dict(sorted(names.items(), key=lambda item: -item[1]))


def _less(now: Mapping[str, int], earlier: Mapping[str, int]) -> dict[str, int]:
    return {name: count - earlier.get(name, 0) for name, count in now.items()}


def _less_known(now: int | None, earlier: int | None) -> int | None:
    return None if now is None or earlier is None else now - earlier
