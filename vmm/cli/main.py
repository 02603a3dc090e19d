# SPDX-License-Identifier: Apache-2.0
"""The `vmm` command: its sub-commands, and how an error becomes one line and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from vmm.cli import standard_streams
from vmm.cli.errors import STATUS_BAD_INPUT, UserError

DESCRIPTION = """\
Run guests on Linux KVM.

  vmm run FILE      boot a kernel or a bare guest (multiboot, PVH, bzImage, ELF64, raw)
  vmm test PATH...  run kvm-unit-tests style guests and judge them
  vmm doctor        what this host's KVM can do, and what to change
"""
EPILOG = """\
examples:
  vmm run firmware/build/demo.flat --cpus 2
  vmm run vmlinuz --initrd initramfs.gz --append "console=ttyS0" --memory 1G
  vmm test x86/unittests.cfg --jobs 2 --junit results.xml

'vmm COMMAND --help' explains each command's options.
"""

# Sub-command -> the module that has its `add_parser(subparsers)` and `run(args) -> status`. Only the one that is
# asked for is imported: a guest's first instruction should not wait for the test runner's imports.
COMMANDS = {"run": "vmm.cli.run", "test": "vmm.cli.test", "doctor": "vmm.cli.doctor"}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, which names the sub-command that they are about."""

    def error(self, message: str) -> NoReturn:
        self.exit(STATUS_BAD_INPUT, f"{self.prog}: {' '.join(message.split())}; see '{self.prog} --help'\n")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # overloads
        """What nobody knows is an error here, not when the parser of `vmm` has got it back from a sub-command."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def build_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser of `vmm`. wanted: build only this sub-command's options (None: all)."""
    parser: argparse.ArgumentParser = Parser(
        prog="vmm",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version="vmm 0.1.0")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        if wanted is None or name == wanted:
            importlib.import_module(module).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        _tell(str(error))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not cut this short
        _tell("interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        standard_streams.give_up_output()
        _tell("the reader of the output went away")
    except standard_streams.OutputError as error:
        standard_streams.give_up_output()
        _tell(f"standard output: {error.strerror}")
    except MemoryError:
        _tell("out of memory: raise the limit of address space (ulimit -v), or ask for less")
    except Exception as error:
        if os.environ.get("VMM_TRACEBACK"):
            raise
        _tell(_defect(error))
    return STATUS_BAD_INPUT


def _run(arguments: list[str]) -> int:
    wanted = next((word for word in arguments[:1] if word in COMMANDS), None)
    try:
        args = build_parser(wanted).parse_args(arguments)
    except SystemExit as end:  # help, version, or a complaint: printed, but perhaps still in a buffer
        return end.code if isinstance(end.code, int) else 0
    status: int = importlib.import_module(COMMANDS[args.command]).run(args)
    return status


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody is left to be told
        print(f"vmm: {line}", file=sys.stderr, flush=True)


def _defect(error: Exception) -> str:
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else "unknown place"
    return (
        f"a defect of vmm: {type(error).__name__}: {error} ({place}); "
        "VMM_TRACEBACK=1 shows more, please report it"
    )
