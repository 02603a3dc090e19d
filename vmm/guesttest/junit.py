# SPDX-License-Identifier: Apache-2.0
"""Results as JUnit XML, the form that CI systems read.

One `testsuite`, one `testcase` per guest. FAIL is a `failure`, SKIP a `skipped`, everything else that is not
PASS an `error`, except that UNSUPPORTED is a `skipped` where the user allowed it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from vmm.guesttest.runner import GuestResult
from vmm.guesttest.verdict import Verdict

OUTPUT_BYTES = 64 << 10  # of a guest's console per test case: its end
# What XML 1.0 cannot carry at all, not even escaped (section 2.2, Char)
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, results: Sequence[GuestResult], *, allow_unsupported: bool) -> None:
    """Write the results to `path`. Errors: `OSError`."""
    path.write_bytes(junit_xml(results, allow_unsupported=allow_unsupported))


def junit_xml(results: Sequence[GuestResult], *, allow_unsupported: bool) -> bytes:
    """The results as a JUnit XML document."""
    suite = ElementTree.Element("testsuite", name="vmm test")
    tags = [_tag(result.verdict, allow_unsupported) for result in results]
    suite.set("tests", str(len(results)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(tags.count(tag)))
    suite.set("time", f"{sum(result.seconds for result in results):.3f}")
    for result, tag in zip(results, tags, strict=True):
        case = ElementTree.SubElement(suite, "testcase")
        case.set("classname", _clean(str(result.guest.image.parent)))
        case.set("name", _clean(result.guest.name))
        case.set("time", f"{result.seconds:.3f}")
        if tag:
            message = f"{result.verdict}: {result.judgement.reason}".removesuffix(": ")
            ElementTree.SubElement(case, tag, message=_clean(message), type=result.verdict.value)
        for name, output in (("system-out", result.console), ("system-err", result.errors)):
            if output:
                ElementTree.SubElement(case, name).text = _clean(
                    output[-OUTPUT_BYTES:].decode(errors="replace")
                )
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _tag(verdict: Verdict, allow_unsupported: bool) -> str:
    match verdict:
        case Verdict.PASS:
            return ""
        case Verdict.FAIL:
            return "failure"
        case Verdict.SKIP:
            return "skipped"
        case Verdict.UNSUPPORTED if allow_unsupported:
            return "skipped"
    return "error"


def _clean(text: str) -> str:
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
