# SPDX-License-Identifier: Apache-2.0
"""`vmm test`: run kvm-unit-tests style guests and judge them."""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from vmm.backend.ring0 import measure_speed
from vmm.cli.errors import UserError
from vmm.cli.machine_options import add_machine_options, machine_argv, machine_config, whole_number
from vmm.cli.output_file import check_writable
from vmm.cli.standard_streams import OutputError, check_output
from vmm.guesttest.config import ConfigError, parse_duration
from vmm.guesttest.guests import Collection, Guest, Selection, SelectionError, collect, find_guests
from vmm.guesttest.host_speed import MOST_PATIENCE, patience
from vmm.guesttest.junit import write_junit
from vmm.guesttest.report import LogFolder, Progress, json_text, table, totals
from vmm.guesttest.runner import DEFAULT_TIMEOUT_S, Everyone, GuestResult, Observer, Runner
from vmm.guesttest.targets import VmmTarget
from vmm.guesttest.verdict import VERDICT_MEANINGS, Verdict
from vmm.machine.config import ConfigError as MachineConfigError
from vmm.machine.cpu.spec import CpuSpecError, parse_cpu
from vmm.machine.ram import RamError, check_size

STATUS_PASSED = 0
STATUS_NOT_PASSED = 1
STATUS_SIGNAL = 128
MAX_JOBS = 1024

DESCRIPTION = """\
Run guests written in the style of kvm-unit-tests, each in a `vmm run` of its own, and judge them.

PATH is a guest (.flat, .elf), a directory (every .flat in and below it) or a unittests.cfg, whose entries bring
their own processors, memory, CPU model, arguments and time limit. Machine options given here win over those.
"""
VERDICTS = "\n".join(f"  {verdict:<12} {meaning}" for verdict, meaning in VERDICT_MEANINGS.items())
EPILOG = f"""\
verdicts:
{VERDICTS}

  A pass needs the guest to end through debug exit with code 0, and its report (PASS, FAIL, SUMMARY lines) to
  agree. No test is known by name.

exit status:
  0      every guest passed or was skipped, and at least one passed
  1      anything else, UNSUPPORTED included (see --allow-unsupported)
  2      wrong usage: no such PATH, a malformed unittests.cfg, nothing selected
  128+N  ended by signal N

examples:
  vmm test x86/unittests.cfg --jobs 2 --log-dir logs --junit results.xml
  vmm test x86/unittests.cfg --only 'vmexit_*' --json
  vmm test firmware/build --cpus 2 --timeout 20
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `vmm test`."""
    parser = subparsers.add_parser(
        "test",
        help="run kvm-unit-tests style guests and judge them",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", type=Path, help="guest, directory or unittests.cfg"
    )
    chosen = parser.add_argument_group("which guests")
    chosen.add_argument(
        "-k",
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="only guests of this name or pattern; repeatable",
    )
    chosen.add_argument("-g", "--group", default="", help="only entries of this group, 'nodefault' ones too")
    chosen.add_argument("-a", "--all", action="store_true", help="entries of the group 'nodefault' too")
    chosen.add_argument("-l", "--list", action="store_true", help="print the names of the guests and end")
    how = parser.add_argument_group("how")
    how.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=whole_number,
        help="guests at a time (default: as many as this host's processors carry, each guest counting its own)",
    )
    how.add_argument(
        "--timeout",
        metavar="DURATION",
        help=f"limit for each guest, such as 30 or 2m; 0 for none (default: its entry's, or {DEFAULT_TIMEOUT_S:g} s, "
        f"and up to {MOST_PATIENCE:g} times that where ring 0 is emulated)",
    )
    how.add_argument(
        "--allow-unsupported",
        action="store_true",
        help="guests that need what `vmm run` does not have (a q35 board, an IOMMU ...) do not spoil the exit status",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON document on standard output, no table")
    output.add_argument("--junit", metavar="FILE", help="write the results as JUnit XML too")
    output.add_argument(
        "--log-dir", metavar="DIR", type=Path, help="write what each guest printed to DIR/NAME.log"
    )
    output.add_argument(
        "-q", "--quiet", action="store_true", help="no progress, only what did not pass and the sums"
    )
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the guests; the process status."""
    selection = Selection(tuple(args.only), args.group, args.all)
    timeout_s = _timeout(args)
    if args.jobs is not None and not 1 <= args.jobs <= MAX_JOBS:
        raise UserError(f"--jobs {args.jobs}: expected 1 to {MAX_JOBS}")
    _check_machine_options(args)
    try:
        guests = find_guests(args.paths, selection)
        if args.list:
            print("\n".join(guest.name for guest in guests))
            return STATUS_PASSED
        collection = collect(guests, selection)
    except (ConfigError, SelectionError) as error:
        raise UserError(str(error)) from error

    if args.junit is not None:
        check_writable("--junit", args.junit)
    check_output()
    runner, results, logs = _run_guests(args, collection, timeout_s)
    passed = all_passed(results, allow_unsupported=args.allow_unsupported)
    _report(args, results, passed, logs)
    if runner.stopped_by is not None:
        return STATUS_SIGNAL + runner.stopped_by
    return STATUS_PASSED if passed else STATUS_NOT_PASSED


def all_passed(results: list[GuestResult], *, allow_unsupported: bool) -> bool:
    """Whether every guest passed or was skipped, and at least one passed."""
    harmless = {Verdict.PASS, Verdict.SKIP} | ({Verdict.UNSUPPORTED} if allow_unsupported else set())
    verdicts = {result.verdict for result in results}
    return Verdict.PASS in verdicts and verdicts <= harmless


def _check_machine_options(args: argparse.Namespace) -> None:
    """A mistake in an option is one line here, not the failure of every guest."""
    try:
        config = machine_config(args, Path(), initrd=None, cmdline="", raw_address=None)
        check_size(config.memory_bytes, huge_pages=config.huge_pages)
        if args.cpu is not None:
            parse_cpu(args.cpu)
    except (MachineConfigError, CpuSpecError, RamError) as error:
        raise UserError(str(error)) from error


def _timeout(args: argparse.Namespace) -> float | None:
    if args.timeout is None:
        return None
    try:
        return parse_duration(args.timeout)
    except ValueError as error:
        raise UserError(f"--timeout: {error}") from error


def _run_guests(
    args: argparse.Namespace, collection: Collection, timeout_s: float | None
) -> tuple[Runner, list[GuestResult], dict[Guest, Path]]:
    """The runner, what it found, and the logs written."""
    observers: list[Observer] = []
    with ExitStack() as stack:
        if not args.quiet:
            width = shutil.get_terminal_size().columns
            progress = Progress(sys.stderr, len(collection.guests), width=width)
            observers.append(stack.enter_context(closing(progress)))
        log_folder = None
        try:
            if args.log_dir is not None:
                log_folder = LogFolder(args.log_dir)
                observers.append(log_folder)
            target = VmmTarget(machine_argv(args))
            runner = Runner(
                target,
                jobs=args.jobs,
                timeout_s=timeout_s,
                patience=partial(_patience, quiet=args.quiet),
                cpus=args.cpus,
                observer=Everyone(observers),
            )
            return runner, runner.run(collection), log_folder.logs if log_folder else {}
        except BrokenPipeError:
            raise  # whoever watched us went away: not a matter of a file
        except OSError as error:
            raise UserError(_os_error_text(error)) from error


def _patience(*, quiet: bool) -> float:
    """The factor for time limits on this host, told when it is not 1."""
    found = measure_speed()
    factor = patience(found)
    if factor > 1 and not quiet:
        million = found.instructions_per_second / 1e6
        sys.stderr.write(
            f"vmm: ring 0 runs {million:.1f} million instructions a second here, time limits are {factor:.1f} times "
            "as long (--timeout sets another)\n"
        )
    return factor


def _os_error_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _report(
    args: argparse.Namespace, results: list[GuestResult], passed: bool, logs: dict[Guest, Path]
) -> None:
    """Tell the results in every way asked for; one that fails costs none of the others."""
    failure: UserError | None = None
    if args.junit is not None:
        try:
            write_junit(Path(args.junit), results, allow_unsupported=args.allow_unsupported)
        except OSError as error:
            failure = UserError(f"--junit {args.junit}: {error.strerror}")
    try:
        _print_results(args, results, passed, logs)
        sys.stdout.flush()
    except OutputError:
        sys.stderr.write(table(results))
        raise
    if failure is not None:
        raise failure


def _print_results(
    args: argparse.Namespace, results: list[GuestResult], passed: bool, logs: dict[Guest, Path]
) -> None:
    if args.json:
        sys.stdout.write(json_text(results, passed, logs))
    elif args.quiet:
        bad = [result for result in results if result.verdict not in (Verdict.PASS, Verdict.SKIP)]
        sys.stdout.write(table(bad) if bad and len(bad) < len(results) else "")
        sys.stdout.write(totals(results) + "\n")
    else:
        sys.stdout.write(table(results, colour=sys.stdout.isatty()))
