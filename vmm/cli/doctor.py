# SPDX-License-Identifier: Apache-2.0
"""`vmm doctor`: what this host's KVM can do, what that means, and what to change.

`--json` prints one object. Its keys are stable; `schema` grows when one changes its meaning or goes:

| key | what |
|---|---|
| `schema` | 1 |
| `status` | the exit status: 0, 1 or 2 as in `vmm doctor --help` |
| `can_run` | true when `status` is 0 |
| `summary` | one line |
| `host` | kernel, processor, memory, limits, tools, `device` (the node /dev/kvm) |
| `kvm` | null when `status` is 2; `kind` (bare, upstream, patched), `engine`, `hardware`, `module_parameters`, |
| | `capabilities` and `vm_capabilities` (name without KVM_CAP_, lower case -> answer), `missing` by importance, |
| | `max_vcpus`, `max_memslots`, `sync_regs`, `memory_attributes`, `rwx_attributes`, `hyperv`, `tsc_khz`, |
| | `vsm_series` (`series`: none, original, ours; `features` by name), `feature_msrs`, |
| | `strategies` (need of VSM -> how it is met) |
| `ring0` | null when not measured; `instructions_per_second`, `emulated`, `outcomes`, `error` |
| `findings` | list of `key`, `severity` (ok, note, problem), `found`, `meaning`, `change` |
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from kvmapi import Kvm, KvmError, KvmUnavailableError
from vmm.backend.host_capabilities import Need
from vmm.backend.host_profile import HostProfile, probe
from vmm.backend.ring0 import Ring0, measure_ring0
from vmm.cli.doctor_findings import Finding, Severity, host_findings, unavailable
from vmm.cli.doctor_host import DEVICE, HostFacts, host_facts
from vmm.cli.doctor_kvm import kvm_findings

SCHEMA = 1
STATUS_OK, STATUS_INCOMPLETE, STATUS_NO_KVM = 0, 1, 2

DESCRIPTION = """\
Look at this host's KVM, memory, limits and tools, and say in plain words what that means for guests and
what to change. Makes a few tiny guests to see how ring 0 runs (2 seconds at most; --quick leaves that out).
"""
EPILOG = """\
exit status:
  0  a guest can run
  1  KVM is there, but something necessary is missing
  2  KVM cannot be used: no /dev/kvm, or not for this user
  128+N  ended by signal N

examples:
  vmm doctor
  vmm doctor --json | python3 -m json.tool
"""
MARKS = {Severity.OK: "ok  ", Severity.NOTE: "note", Severity.PROBLEM: "BAD "}
HEADINGS = ("found", "what it means", "what to change")
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NO_MODULE = (errno.ENODEV, errno.ENXIO)  # a device node with no driver behind it
FORBIDDEN = (errno.EACCES, errno.EPERM)
NARROWEST, WIDEST = 72, 150  # characters of the table


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found. `host` is None when KVM cannot be used, `ring0` None when it was not measured."""

    facts: HostFacts
    host: HostProfile | None
    ring0: Ring0 | None
    findings: tuple[Finding, ...]

    @property
    def status(self) -> int:
        if self.host is None:
            return STATUS_NO_KVM
        problem = any(finding.severity is Severity.PROBLEM for finding in self.findings)
        return STATUS_INCOMPLETE if problem else STATUS_OK

    @property
    def summary(self) -> str:
        first = next((f for f in self.findings if f.severity is Severity.PROBLEM), None)
        if first is None:
            notes = sum(finding.severity is Severity.NOTE for finding in self.findings)
            return "guests can run" + (
                f", with {notes} limitations" if notes > 1 else ", with a limitation" * notes
            )
        return f"{first.found}: {first.meaning}"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `vmm doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="what this host's KVM can do, and what to change",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--quick", action="store_true", help="do not measure ring 0")
    parser.add_argument(
        "--device", metavar="PATH", type=Path, default=DEVICE, help=f"KVM's device (default: {DEVICE})"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; its status."""
    try:
        with _ended_by_signals():
            report = examine(args.device, measure=None if args.quick else measure_ring0)
    except SignalError as end:
        print(f"vmm: ended by {end.number.name}", file=sys.stderr)
        return 128 + end.number
    if args.json:
        print(json.dumps(as_json(report), indent=2))
    elif report.host is None:
        finding = report.findings[0]
        print(f"vmm doctor: {finding.found}: {finding.meaning}", file=sys.stderr)
        print(f"what to do: {finding.change}", file=sys.stderr)
    else:
        print(table(report.findings, shutil.get_terminal_size((110, 24)).columns))
        print(f"\n{report.summary}")
    return report.status


class SignalError(BaseException):
    """A signal came that is to end us. Not an `Exception`: nobody on the way may take it for a failure of theirs."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """`ENDING_SIGNALS` become a `SignalError`, once: what it unwinds, the experiment's child, is not cut short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = False

    def caught(number: int, _frame: FrameType | None) -> None:
        nonlocal ended
        if not ended:
            ended = True
            raise SignalError(signal.Signals(number))

    heeded = [number for number in ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, caught) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ended else handler)


def examine(device: Path, measure: Callable[[str], Ring0] | None) -> Report:
    """Look at everything. measure: finds out how ring 0 runs on a processor of the vendor it is given."""
    facts = host_facts(device)
    try:
        with Kvm.open(str(device)) as kvm:
            host = probe(kvm)
    except KvmUnavailableError as error:
        return Report(facts, None, None, (_explained(facts, error), *host_findings(facts)))
    except KvmError as error:
        broken = Finding(
            "kvm",
            Severity.PROBLEM,
            f"KVM refuses a simple VM: {error.call}",
            str(error),
            error.hint or "see dmesg",
        )
        return Report(facts, None, None, (broken, *host_findings(facts)))
    return examined(facts, host, measure(host.vendor) if measure else None)


def examined(facts: HostFacts, host: HostProfile, ring0: Ring0 | None) -> Report:
    """The report on a host that has KVM."""
    return Report(facts, host, ring0, (*kvm_findings(facts, host, ring0), *host_findings(facts)))


def _explained(facts: HostFacts, error: KvmUnavailableError) -> Finding:
    """The finding for a device that cannot be used. A node that looks fine but is not KVM is for the error
    to say.
    """
    if not (facts.device.exists and facts.device.permitted) or error.errno in NO_MODULE:
        return unavailable(facts)
    path = facts.device.path
    found = f"{path}: {error.strerror}"
    if error.errno in FORBIDDEN:
        meaning = "the permissions of the file allow it, so something else forbids it"
        change = (
            f"in a container pass --device {path}; elsewhere look for a mount with 'nodev' and for what a security "
            "module says in dmesg"
        )
        return Finding("device", Severity.PROBLEM, found, meaning, change)
    change = error.hint or f"name KVM's device, {DEVICE} on most hosts"
    return Finding("device", Severity.PROBLEM, found, "it is not a usable KVM", change)


def as_json(report: Report) -> dict[str, Any]:
    """The object of `--json`; see the module's docstring."""
    return {
        "schema": SCHEMA,
        "status": report.status,
        "can_run": report.status == STATUS_OK,
        "summary": report.summary,
        "host": dataclasses.asdict(report.facts),
        "kvm": _kvm_json(report.host) if report.host else None,
        "ring0": _ring0_json(report.ring0, report.host.modules.hardware)
        if report.ring0 and report.host
        else None,
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
    }


def _kvm_json(host: HostProfile) -> dict[str, Any]:
    features, extras = host.hyperv_features
    return {
        "kind": host.kind,
        "engine": host.modules.engine,
        "hardware": host.modules.hardware,
        "module_parameters": dict(host.modules.parameters),
        "capabilities": dict(host.capabilities),
        "vm_capabilities": dict(host.vm_capabilities),
        "missing": {need.value: list(host.missing(need)) for need in Need},
        "max_vcpus": host.max_vcpus,
        "max_memslots": host.max_memslots,
        "sync_regs": host.sync_regs,
        "memory_attributes": host.memory_attributes,
        "rwx_attributes": host.rwx_attributes,
        "hyperv": {"ebx": features, "edx": extras, "vsm": host.vsm},
        "vsm_series": {"series": host.vsm_support.series, "features": list(host.vsm_support.feature_names)},
        "tsc_khz": host.tsc_khz,
        "feature_msrs": {f"{index:#x}": value for index, value in host.feature_msrs.items()},
        "strategies": host.strategies(),
    }


def _ring0_json(ring0: Ring0, hardware: bool) -> dict[str, Any]:
    return {
        "instructions_per_second": ring0.instructions_per_second,
        "emulated": ring0.slow and not hardware,
        "outcomes": {name: outcome.value for name, outcome in ring0.outcomes.items()},
        "error": ring0.error,
    }


def table(findings: Sequence[Finding], columns: int) -> str:
    """The findings as three columns, `columns` characters wide within reason."""
    width = (min(max(columns, NARROWEST), WIDEST) - len("note ") - 2 * len(" | ")) // 3

    def row(mark: str, cells: Sequence[str]) -> str:
        wrapped = [textwrap.wrap(cell, width, break_on_hyphens=False) or [""] for cell in cells]
        height = max(map(len, wrapped))
        lines = []
        for at in range(height):
            parts = [cell[at] if at < len(cell) else "" for cell in wrapped]
            text = " | ".join(part.ljust(width) for part in parts)
            lines.append(f"{mark if at == 0 else '    '} {text}".rstrip())
        return "\n".join(lines)

    rule = "-" * 5 + "-+-".join("-" * width for _ in range(3))
    rows = [
        row(MARKS[finding.severity], (finding.found, finding.meaning, finding.change)) for finding in findings
    ]
    return "\n".join([row("    ", HEADINGS), rule, *rows])
