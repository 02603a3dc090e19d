# SPDX-License-Identifier: Apache-2.0
"""Write the pages of docs/ that come from tables: `python -m scripts.gen_docs` (`--check` only compares).

A page is a row of PAGES: its path and the function that returns its text. A test keeps the committed pages up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from scripts import hypercalls_page, msrs_page

ROOT = Path(__file__).resolve().parents[1]

PAGES: dict[str, Callable[[], str]] = {
    "docs/hypercalls.md": hypercalls_page.text,
    "docs/msrs.md": msrs_page.text,
}


def main(arguments: list[str]) -> int:
    """Write what changed, or with `--check` say it and return 1."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.gen_docs", description="Write the generated pages of docs/."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 when a page is out of date"
    )
    options = parser.parse_args(arguments)
    stale = []
    for name, text in PAGES.items():
        path = ROOT / name
        wanted = text()
        if not path.exists() or path.read_text(encoding="utf-8") != wanted:
            stale.append(name)
            if not options.check:
                path.write_text(wanted, encoding="utf-8")
    for name in stale:
        print(f"{name}: out of date, run python -m scripts.gen_docs" if options.check else f"{name}: written")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
