# SPDX-License-Identifier: Apache-2.0
"""The `vmm` command: its sub-commands, and how an error becomes one line and an exit status."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

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


def build_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser of `vmm`. wanted: build only this sub-command's options (None: all)."""
    parser = argparse.ArgumentParser(
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
    wanted = next((word for word in arguments[:1] if word in COMMANDS), None)
    try:
        args = build_parser(wanted).parse_args(arguments)
        status: int = importlib.import_module(COMMANDS[args.command]).run(args)
        sys.stdout.flush()
    except UserError as error:
        print(f"vmm: {error}", file=sys.stderr)
        return STATUS_BAD_INPUT
    except KeyboardInterrupt:
        print("vmm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output went away (`vmm doctor | head`). The interpreter would complain once more
        # when it flushes at exit: give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print("vmm: the reader of the output went away", file=sys.stderr)
        return STATUS_BAD_INPUT
    except Exception as error:
        if os.environ.get("VMM_TRACEBACK"):
            raise
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = (
            f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else "unknown place"
        )
        print(
            f"vmm: a defect of vmm: {type(error).__name__}: {error} ({place}); "
            "VMM_TRACEBACK=1 shows more, please report it",
            file=sys.stderr,
        )
        return STATUS_BAD_INPUT
    return status
