# SPDX-License-Identifier: Apache-2.0
"""What is implemented and what is proven, item by item."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from scripts.spec.checklist import Item
from scripts.spec.claims import ClaimError, Places
from scripts.spec.results import Result

_STATEMENT_WIDTH = 64


class Evidence(NamedTuple):
    """All that is known of one item."""

    item: Item
    places: list[str]
    """Where it is implemented."""
    tests: list[str]
    """Tests that claim it."""
    passed: list[Result]
    failed: list[Result]

    @property
    def implemented(self) -> bool:
        """Some code claims it."""
        return bool(self.places)

    @property
    def proven(self) -> bool:
        """Implemented, shown by a test, contradicted by none."""
        return bool(self.places and self.passed and not self.failed)

    @property
    def state(self) -> str:
        """The item's word in the report."""
        if self.proven:
            return "proven"
        return "implemented" if self.implemented else "not yet"


def gather(
    items: list[Item], implemented: Places, tested: dict[str, set[str]], results: list[Result]
) -> list[Evidence]:
    """Join the sources. `ClaimError` when one names an id the checklist does not have."""
    known = {item.id for item in items}
    wrong = [
        f"{places[0]} implements {item_id}" for item_id, places in implemented.items() if item_id not in known
    ]
    wrong += [f"{test} claims {item_id}" for test, ids in tested.items() for item_id in sorted(ids - known)]
    if wrong:
        raise ClaimError("no such item in the checklist: " + "; ".join(wrong))
    tests = defaultdict(list)
    for test, ids in tested.items():
        for item_id in ids:
            tests[item_id].append(test)
    ended: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        for item_id in tested.get(result.test, set()) & set(result.ids):
            ended[item_id, result.outcome].append(result)
    return [
        Evidence(
            item,
            implemented.get(item.id, []),
            sorted(tests[item.id]),
            ended[item.id, "passed"],
            ended[item.id, "failed"],
        )
        for item in items
    ]


def _by_ring(results: list[Result]) -> str:
    """`pure: tests/pure/x.py::test_y (+2); host (kvm_amd): ...`"""
    grouped: dict[str, list[str]] = defaultdict(list)
    for result in results:
        ring = f"{result.ring} ({result.host})" if result.host else result.ring
        if result.test not in grouped[ring]:
            grouped[ring].append(result.test)
    return "; ".join(
        f"{ring}: {tests[0]}" + (f" (+{len(tests) - 1})" if len(tests) > 1 else "")
        for ring, tests in grouped.items()
    )


def _explain(evidence: Evidence) -> str:
    if evidence.proven:
        return "by " + _by_ring(evidence.passed)
    if evidence.failed:
        return "FAILED in " + _by_ring(evidence.failed)
    if evidence.implemented:
        claimed = f"{evidence.tests[0]} has not passed yet" if evidence.tests else "no test"
        return f"{evidence.places[0]}; {claimed}"
    if evidence.tests:
        return f"tested by {evidence.tests[0]}, but no code says it implements it"
    return ""


def _line(evidence: Evidence) -> str:
    item = evidence.item
    statement = item.statement
    if len(statement) > _STATEMENT_WIDTH:
        statement = statement[: _STATEMENT_WIDTH - 3] + "..."
    shelf = item.shelf.name if item.shelf is not None else ""
    what = f"{item.id:9}{item.strength:3}{shelf:14}{evidence.state:12}{statement:{_STATEMENT_WIDTH}}"
    return f"{what}  {_explain(evidence)}".rstrip()


def _classes(all_evidence: list[Evidence]) -> Iterator[str]:
    """The items that are not proven because they cannot be, class by class, groups in one line."""
    shelves: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for evidence in all_evidence:
        if evidence.item.shelf is not None and not evidence.proven:
            name, reason = evidence.item.shelf
            shelves[name][reason].append(evidence.item.id)
    for name, reasons in shelves.items():
        count = sum(len(items) for items in reasons.values())
        yield f"not proven, class '{name}': {count}"
        for reason, items in reasons.items():
            which = items[0] if len(items) == 1 else f"{len(items)} of {items[0].partition('-')[0]}"
            yield f"  {which:12}{reason}"
        yield ""


def lines(all_evidence: list[Evidence], groups: set[str], recorded: bool) -> Iterator[str]:
    """The report. `groups` limits the items that are listed, never what is counted."""
    if all_evidence:
        yield f"{'item':9}{'':3}{'class':14}{'state':12}{'statement':{_STATEMENT_WIDTH}}  evidence"
    for evidence in all_evidence:
        if not groups or evidence.item.group in groups or evidence.item.id in groups:
            yield _line(evidence)
    yield ""
    yield f"{'group':8}{'items':>7}{'implemented':>13}{'proven':>8}{'in a class':>12}{'open':>6}  open are"
    for group in dict.fromkeys(evidence.item.group for evidence in all_evidence):
        members = [evidence for evidence in all_evidence if evidence.item.group == group]
        unproven = [evidence.item for evidence in members if not evidence.proven]
        left = [item.id for item in unproven if item.shelf is None]
        implemented = sum(evidence.implemented for evidence in members)
        proven = sum(evidence.proven for evidence in members)
        classed = len(unproven) - len(left)
        yield f"{group:8}{len(members):7}{implemented:13}{proven:8}{classed:12}{len(left):6}  {' '.join(left)}".rstrip()
    yield ""
    yield from _classes(all_evidence)
    if not recorded:
        yield "No test run is recorded: run `make test` (or pytest on a folder of tests/) to prove something."
    implemented = sum(evidence.implemented for evidence in all_evidence)
    proven = sum(evidence.proven for evidence in all_evidence)
    yield f"implemented {implemented} of {len(all_evidence)}, proven {proven} of {len(all_evidence)}"
