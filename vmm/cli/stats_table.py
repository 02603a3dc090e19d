# SPDX-License-Identifier: Apache-2.0
"""The figures of `--stats` as lines for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from vmm.backend.stats.figures import Figures, VpFigures, VtlFigures

_NS = 1_000_000_000
_HEAD = f"{'VP':>3} {'VTL':>3} {'in guest':>10} {'halted':>10} {'interrupts':>11}  exits"


def table(figures: Figures) -> list[str]:
    """All that a run did: totals."""
    lines = [_summary(figures), _HEAD]
    for vp in figures.vps:
        lines += [_row(vp, vtl, f"{_s(vtl.guest_ns)}", _halted(vtl, 0)) for vtl in vp.vtls]
    return lines + _switch_lines(figures) + _intercept_lines(figures)


def live_table(figures: Figures) -> list[str]:
    """What happened since the last time (`Figures.since`): shares of the time, counts as they are."""
    elapsed = figures.elapsed_ns
    lines = [_summary(figures), _HEAD]
    for vp in figures.vps:
        lines += [_row(vp, vtl, _share(vtl.guest_ns, elapsed), _halted(vtl, elapsed)) for vtl in vp.vtls]
    return lines + _switch_lines(figures) + _intercept_lines(figures)


def _summary(figures: Figures) -> str:
    exits, switches = figures.exits, figures.switches
    text = f"in {_s(figures.elapsed_ns)}: {exits:,} exits ({figures.per_second(exits):,.0f}/s)"
    if any(vtl.vtl for vp in figures.vps for vtl in vp.vtls):
        text += f", {switches:,} VTL switches ({figures.per_second(switches):,.0f}/s)"
    return text


def _row(vp: VpFigures, vtl: VtlFigures, guest: str, halted: str) -> str:
    interrupts = "unknown" if vtl.interrupts is None else f"{vtl.interrupts + (vtl.nmis or 0):,}"
    return (
        f"{vp.vp:>3} {vtl.vtl:>3} {guest:>10} {halted:>10} {interrupts:>11}  {_counts(vtl.exits) or 'none'}"
    )


def _switch_lines(figures: Figures) -> list[str]:
    lines = []
    for vp in figures.vps:
        parts = [
            f"{key.source}>{key.target} {key.cause} {count:,}"
            for key, count in sorted(vp.switches.items())
            if count
        ]
        if vp.vinas:
            parts.append(f"VINA raised {vp.vinas:,}")
        if parts:
            lines.append(f"VP {vp.vp} switched VTLs: {', '.join(parts)}")
    return lines


def _intercept_lines(figures: Figures) -> list[str]:
    return [
        f"VP {vp.vp} VTL {vtl.vtl} was intercepted: {counts}"
        for vp in figures.vps
        for vtl in vp.vtls
        if (counts := _counts(vtl.intercepts or {}))
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)


def _halted(vtl: VtlFigures, elapsed_ns: int) -> str:
    if vtl.halted_ns is None:
        return "unknown"
    return _share(vtl.halted_ns, elapsed_ns)


def _share(part_ns: int, whole_ns: int) -> str:
    """In percent; the time itself where there is no whole yet."""
    return f"{100 * part_ns / whole_ns:.1f} %" if whole_ns else _s(part_ns)


def _s(ns: int) -> str:
    return f"{ns / _NS:.3f} s"
