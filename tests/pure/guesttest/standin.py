# SPDX-License-Identifier: Apache-2.0
"""Stands in for `vmm run`: its guest's file is a JSON list of what to do, so that the runner can be tested alone.

Actions: {"print": TEXT}, {"error": TEXT} (standard error), {"sleep": SECONDS}, {"ignore": "SIGTERM"},
{"spawn": SECONDS} (a process that sleeps, its pid goes to standard output as `pid N`), {"flood": BYTES},
{"arguments": true} (print the argv), {"die": SIGNAL}, {"end": [OUTCOME, STATUS, DETAIL]} (write the result and exit),
{"exit": STATUS} (exit without a result). SIGTERM ends it as it ends `vmm run`: with a result.
"""

import json
import os
import signal
import subprocess
import sys
import time


def main() -> None:
    options = dict(word.partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))

    def end(outcome: str, status: int, detail: str) -> None:
        with open(options["--result"], "w") as stream:
            code = status >> 1 if outcome == "debug-exit" else None
            json.dump({"outcome": outcome, "status": status, "code": code, "detail": detail}, stream)
        sys.stdout.flush()
        os._exit(status)

    signal.signal(signal.SIGTERM, lambda *_: end("interrupted", 143, "ended by SIGTERM"))
    with open(sys.argv[2]) as stream:
        script = json.load(stream)
    for step in script:
        ((action, value),) = step.items()
        if action == "print":
            print(value, end="", flush=True)
        elif action == "error":
            print(value, end="", flush=True, file=sys.stderr)
        elif action == "sleep":
            time.sleep(value)
        elif action == "ignore":
            signal.signal(getattr(signal, value), signal.SIG_IGN)
        elif action == "spawn":
            child = subprocess.Popen(["sleep", str(value)])
            print(f"pid {child.pid}", flush=True)
        elif action == "flood":
            for _ in range(value // 1000):
                sys.stdout.write("x" * 999 + "\n")
        elif action == "arguments":
            print(json.dumps(sys.argv[1:]), flush=True)
        elif action == "die":
            os.kill(os.getpid(), value)
        elif action == "end":
            end(*value)
        elif action == "exit":
            sys.stdout.flush()
            os._exit(value)


main()
