# SPDX-License-Identifier: Apache-2.0
"""`scripts/lab`: the command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.lab_vm.errors import LabError
from scripts.lab_vm.forwarding import forward_signals
from scripts.lab_vm.kernel_build import ensure_kernel
from scripts.lab_vm.lab import STATUS_LAB_FAILED, Lab, LabResult, Outcome, Output
from scripts.lab_vm.machine import CPU_MODEL
from scripts.lab_vm.measure import measure
from scripts.lab_vm.places import LAB_RESULTS
from scripts.lab_vm.progress import Progress
from scripts.lab_vm.recipe import LAB_VARIANTS, VARIANTS
from scripts.lab_vm.suite import HOST_RING, JUNIT_DIR, RING_MEMORY, run_on_kernels
from scripts.lab_vm.terminal import RawTerminal

DEFAULT_TEST_KERNELS = ("upstream", "patched")

DESCRIPTION = """\
Boot a Linux kernel with a working /dev/kvm (kvm_amd, nested paging) in QEMU's software emulation and run a command
in it. No hardware virtualization, no /dev/kvm and no root is needed outside.

Inside, the host's root file system is seen read-only under the same paths, this checkout and its virtual environment
included; /tmp, /run, /var/tmp and /dev/shm are empty and writable. The current directory is kept.
"""

EXAMPLES = """\
examples:
  scripts/lab run -- .venv/bin/python -m pytest tests/host
  scripts/lab run --kernel ~/linux/arch/x86/boot/bzImage --results out -- sh -c 'dmesg > "$LAB_RESULTS/dmesg"'
  scripts/lab shell --kernel upstream
  scripts/lab kernel upstream --jobs 2
  scripts/lab test --kernel ~/linux/arch/x86/boot/bzImage

exit status: the command's (128 plus the number for a signal); 124 when the time limit was reached; 125 when the lab
failed (the kernel crashed or hung, QEMU ended); 2 for a wrong command line or a missing package.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = actions.add_parser("run", help="run a command, with its output and exit status")
    _add_machine_options(run)
    run.add_argument("command", nargs="+", metavar="CMD", help="the command and its arguments, after --")
    shell = actions.add_parser("shell", help="an interactive shell")
    _add_machine_options(shell)
    shell.add_argument("command", nargs="*", metavar="CMD", help="instead of a shell, after --")
    tests = actions.add_parser("test", help="run the tests that need /dev/kvm on several kernels at once")
    tests.add_argument(
        "--kernel",
        action="append",
        metavar="KERNEL",
        help="repeated: as for run (default: upstream, patched)",
    )
    tests.add_argument("--cpus", type=int, default=2, metavar="N", help="processors of each (default: 2)")
    tests.add_argument("--memory", default=RING_MEMORY, metavar="SIZE", help="of each (default: %(default)s)")
    tests.add_argument(
        "--time-limit", type=float, default=7200.0, metavar="S", help="seconds for each (default: 7200)"
    )
    tests.add_argument(
        "--results", type=Path, default=LAB_RESULTS, metavar="DIR", help="(default: build/lab-test)"
    )
    tests.add_argument(
        "command",
        nargs="*",
        metavar="CMD",
        help=f"after --: a command that puts JUnit files into ${JUNIT_DIR} (default: {HOST_RING})",
    )
    kernel = actions.add_parser("kernel", help="build a kernel, or find it built; prints its bzImage")
    kernel.add_argument("variant", choices=list(VARIANTS))
    kernel.add_argument(
        "--jobs", type=int, metavar="N", help="parallel compilers (default: the host's processors)"
    )
    figures = actions.add_parser(
        "measure", help="measure boot time, KVM exits and Python's speed; prints JSON"
    )
    _add_machine_options(figures)
    return parser


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel",
        default="upstream",
        metavar="KERNEL",
        help=f"{', '.join(LAB_VARIANTS)}, or a file: bzImage, or vmlinux with a PVH entry (default: upstream)",
    )
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="processors (default: 2)")
    parser.add_argument(
        "--cpu", default=CPU_MODEL, metavar="MODEL", help=f"as QEMU's -cpu takes it (default: {CPU_MODEL})"
    )
    parser.add_argument("--memory", default="4G", metavar="SIZE", help="with M or G (default: 4G)")
    parser.add_argument(
        "--time-limit", type=float, metavar="S", help="seconds from power on (default: 900; none for shell)"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="the kernel's log (default: new in build/lab/)"
    )
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="writable inside under the same path, also $LAB_RESULTS"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable for the command"
    )
    parser.add_argument(
        "--kernel-arg", action="append", default=[], metavar="ARG", help="added to the kernel's command line"
    )
    parser.add_argument(
        "--qemu-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="added to QEMU's (--qemu-arg=-device ...)",
    )
    parser.add_argument(
        "--clean-log",
        action="store_true",
        help="a complaint of the kernel makes the status 125, whatever the command's is",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no closing remarks")


class Passthrough:
    """The command's output to our own, unchanged."""

    def stdout(self, data: bytes) -> None:
        _write(1, data)

    def stderr(self, data: bytes) -> None:
        _write(2, data)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def extra_environment(settings: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` for the host's value; LabError when the host has none."""
    environment = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name:
            raise LabError(f"--env {setting!r}: expected NAME=VALUE or NAME")
        if not equals:
            if name not in os.environ:
                raise LabError(f"--env {name}: not set here; give a value with --env {name}=VALUE")
            value = os.environ[name]
        environment[name] = value
    return environment


def make_lab(arguments: argparse.Namespace, progress: Progress, default_limit: float) -> Lab:
    limit = arguments.time_limit if arguments.time_limit is not None else default_limit
    if limit <= 0:
        raise LabError(f"--time-limit {limit}: expected seconds above 0")
    return Lab(
        arguments.kernel,
        cpus=arguments.cpus,
        memory=arguments.memory,
        cpu_model=arguments.cpu,
        time_limit=limit,
        results=arguments.results,
        log=arguments.log,
        kernel_arguments=arguments.kernel_arg,
        qemu_arguments=arguments.qemu_arg,
        progress=progress,
    )


def _run(arguments: argparse.Namespace, progress: Progress) -> int:
    lab = make_lab(arguments, progress, default_limit=900.0)
    output: Output = Passthrough()
    run = lab.start(arguments.command, environment=extra_environment(arguments.env), output=output)
    forward_signals([run])
    return _conclude(run.finish(), arguments)


def _shell(arguments: argparse.Namespace, progress: Progress) -> int:
    lab = make_lab(arguments, progress, default_limit=float("inf"))
    with RawTerminal() as terminal:
        run = lab.start(
            arguments.command or [os.environ.get("SHELL", "/bin/sh"), "-i"],
            environment=extra_environment(arguments.env),
            output=Passthrough(),
            console=terminal,
        )
        forward_signals([run])
        result = run.finish()
    return _conclude(result, arguments)


def _conclude(result: LabResult, arguments: argparse.Namespace) -> int:
    if result.outcome is not Outcome.EXITED:
        print(f"lab: {result.report}", file=sys.stderr)
        return result.exit_status
    if result.warnings and (arguments.clean_log or not arguments.quiet):
        print(
            f"lab: the kernel complained {len(result.warnings)} times (log: {result.log}):", file=sys.stderr
        )
        for trouble in result.warnings:
            print(f"lab:   {trouble.headline}", file=sys.stderr)
    return STATUS_LAB_FAILED if result.warnings and arguments.clean_log else result.exit_status


def _test(arguments: argparse.Namespace, progress: Progress) -> int:
    return run_on_kernels(
        arguments.kernel or DEFAULT_TEST_KERNELS,
        results=arguments.results.resolve(),
        time_limit=arguments.time_limit,
        cpus=arguments.cpus,
        memory=arguments.memory,
        command=arguments.command or [HOST_RING],
        progress=progress,
    )


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    progress = Progress(quiet=getattr(arguments, "quiet", False))
    try:
        if arguments.action == "kernel":
            print(ensure_kernel(arguments.variant, progress, arguments.jobs).bzimage)
            return 0
        if arguments.action == "measure":
            return measure(make_lab(arguments, progress, default_limit=900.0))
        if arguments.action == "test":
            return _test(arguments, progress)
        return _shell(arguments, progress) if arguments.action == "shell" else _run(arguments, progress)
    except LabError as error:
        progress.clear()
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Nobody reads our output any more; as a program that SIGPIPE ended.
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        progress.clear()
        return 128 + signal.SIGINT
