# SPDX-License-Identifier: Apache-2.0
"""What the source says it implements, and what the tests say they prove."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from scripts.spec.checklist import ITEM_ID, ROOT

_LINE = re.compile(r"\bImplements:((?:.*,\n)*.*)")
_LIST = re.compile(rf"\s*({ITEM_ID}(?:,[\s#]*{ITEM_ID})*)\.?[\s\"']*$")

Places = dict[str, list[str]]
"""Item id to the places that name it, as `file:line` or test id."""


class ClaimError(Exception):
    """A claim that cannot be read. The message gives file, line and what was expected."""


def implemented(root: Path = ROOT) -> Places:
    """Item ids of the `Implements:` lines below vmm/."""
    found: Places = defaultdict(list)
    for path in sorted((root / "vmm").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "Implements:" not in text:
            continue
        for claim in _LINE.finditer(text):
            place = f"{path.relative_to(root)}:{text.count(chr(10), 0, claim.start()) + 1}"
            ids = _LIST.match(claim[1])
            if ids is None:
                raise ClaimError(
                    f"{place}: after `Implements:` expected ids like HC-003, HC-004, found {claim[1]!r}"
                )
            for item_id in re.findall(ITEM_ID, ids[1]):
                found[item_id].append(place)
    return dict(found)


def _marks(nodes: list[ast.expr], where: str) -> set[str]:
    """The ids in calls of `....tlfs(...)` anywhere in these expressions."""
    ids = set()
    for node in nodes:
        for call in ast.walk(node):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "tlfs"
            ):
                for argument in call.args:
                    if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                        raise ClaimError(f"{where}:{call.lineno}: tlfs() takes ids as plain strings")
                    ids.add(argument.value)
    return ids


def _claims(
    body: list[ast.stmt], prefix: str, inherited: set[str], where: str
) -> Iterator[tuple[str, set[str]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            own = inherited | _marks(node.decorator_list, where)
            yield from _claims(node.body, f"{prefix}::{node.name}", own, where)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield f"{prefix}::{node.name}", inherited | _marks(node.decorator_list, where)


def tested(root: Path = ROOT) -> dict[str, set[str]]:
    """Test id (`tests/x.py::test_y`, no parameters) to the ids that it claims."""
    found: dict[str, set[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "tlfs(" not in text:
            continue
        where = str(path.relative_to(root))
        module = ast.parse(text, where)
        everywhere = [
            node.value
            for node in module.body
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
        ]
        claims = _claims(module.body, where, _marks(everywhere, where), where)
        found |= {test: ids for test, ids in claims if ids}
    return found
