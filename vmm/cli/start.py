# SPDX-License-Identifier: Apache-2.0
"""Where the process of `vmm` starts: what must be settled before anything else is imported.

Nearly all of a short command's time goes into imports. Python turns a Ctrl-C meanwhile into a traceback and status
1, which is also what a passing guest ends with. So SIGINT has its default action, which ends the process at once,
until a command that has something to clean up catches it. One that we inherited as ignored (`nohup`, a background
job of a script) stays so.
"""

# `signal` without its enumerations: a Ctrl-C while those are imported would be too early.
import _signal  # type: ignore[import-not-found]  # CPython's own, without type information
import sys

if _signal.getsignal(_signal.SIGINT) == _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def main() -> int:
    """Run the command line that the process was started with; the process status."""
    from vmm.cli import standard_streams

    standard_streams.open_missing()
    standard_streams.watch()

    from vmm.cli.main import main as run_command

    return run_command(sys.argv[1:])
