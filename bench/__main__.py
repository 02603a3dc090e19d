# SPDX-License-Identifier: Apache-2.0
"""`python -m bench`: run benchmarks and print their figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from bench import exits, hypercall, protection, startup, vtl
from bench.build import BenchError
from bench.figure import Figure

BENCHMARKS: dict[str, tuple[Callable[[int], list[Figure]], str]] = {
    "exits": (exits.run, "port-write exits per second, 1 and 2 vCPUs, against a minimal C loop"),
    "hypercall": (
        hypercall.run,
        "null-like hypercall and GetVpRegisters of one register, slow and fast, against a bare port write",
    ),
    "protection": (
        protection.run,
        "changing rights to a page, to 1,000, to 1 GiB; an intercept's round trip against a C program; execute "
        "protection; a default mask over 4 and 64 GiB",
    ),
    "startup": (
        startup.run,
        "from command to first guest instruction, and a whole dummy guest, against QEMU",
    ),
    "vtl": (
        vtl.run,
        "VTL call and return, and switches per second of 1, 2 and 4 VPs, against a C program; latency of interrupts to "
        "VTL1 against that within one VTL",
    ),
}


def main() -> int:
    """Parse arguments, run, print; the process status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(BENCHMARKS), metavar="NAME", help="which benchmark")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and what they compare")
    parser.add_argument("--all", action="store_true", help="run every benchmark")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="samples per side (default: 5)")
    args = parser.parse_args()
    if args.list:
        for name, (_, what) in sorted(BENCHMARKS.items()):
            print(f"{name}: {what}")
        return 0
    if args.runs < 1:
        parser.error("--runs: expected at least 1")
    names = sorted(BENCHMARKS) if args.all else [args.name] if args.name else []
    if not names:
        parser.error("name a benchmark, or give --list or --all")
    try:
        for name in names:
            for figure in BENCHMARKS[name][0](args.runs):
                print(json.dumps(figure.as_json()) if args.json else figure, flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
