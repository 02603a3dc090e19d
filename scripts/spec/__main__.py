# SPDX-License-Identifier: Apache-2.0
"""`python -m scripts.spec [GROUP or ID ...]`: print the state of the checklist."""

from __future__ import annotations

import argparse
import json
import signal
import sys

from scripts.spec import checklist, claims, report, results


def main(arguments: list[str]) -> int:
    """Print the report; 2 when a claim cannot be read or names no item."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.spec",
        description="What of the Hyper-V and VSM checklist is implemented and proven.",
    )
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help="list only these groups or items: HC, VSM-045"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per item instead of the table")
    options = parser.parse_args(arguments)
    recorded = results.load(results.directory())
    try:
        evidence = report.gather(checklist.read_checklist(), claims.implemented(), claims.tested(), recorded)
    except claims.ClaimError as error:
        print(f"spec: {error}", file=sys.stderr)
        return 2
    if options.json:
        for row in evidence:
            print(
                json.dumps(
                    row.item._asdict()
                    | {"state": row.state, "places": row.places, "tests": row.tests}
                    | {"passed": [result._asdict() for result in row.passed]}
                    | {"failed": [result._asdict() for result in row.failed]}
                )
            )
        return 0
    for line in report.lines(evidence, set(options.groups), bool(recorded)):
        print(line)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `make spec | head` is no error
    sys.exit(main(sys.argv[1:]))
