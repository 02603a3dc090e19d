# SPDX-License-Identifier: Apache-2.0
"""`vmm run`: boot a guest and be its console."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmm.backend.host_thread import available_cpus, core_of
from vmm.backend.outcome import Outcome, OutcomeKind
from vmm.cli import stats_option
from vmm.cli.errors import STATUS_BAD_INPUT, UserError
from vmm.cli.machine_options import add_machine_options, machine_config
from vmm.cli.output_file import check_writable, write_text
from vmm.cli.pin_option import choose
from vmm.cli.run_signals import RunInterruptedError, RunSignals

if TYPE_CHECKING:
    from vmm.machine.config import MachineConfig

DESCRIPTION = """\
Boot FILE and be its console. The file's format is recognised: multiboot 1 (kvm-unit-tests' .flat and .elf), a PVH
ELF kernel (vmlinux), a Linux bzImage, a plain ELF64; anything else needs --raw ADDRESS.

With a terminal, every key goes to the guest; Ctrl-A x ends it, Ctrl-A p presses its power button, Ctrl-A h helps.
"""
EPILOG = """\
exit status:
  what the guest asks for through port 0xf4: (code << 1 | 1) & 0xff, always odd
  0    it powered off, or reset under --no-reboot
  2    bad input or host, triple fault, emulation failure: one line says what, registers follow
  124  --time-limit ran out
  128+N  signal N, 130 also for Ctrl-A x

examples:
  vmm run firmware/build/demo.flat --cpus 2
  vmm run vmlinuz --initrd initramfs.gz --append "console=ttyS0" -m 1G -c 4
  vmm run x86/apic.flat --cpu qemu64,+x2apic --time-limit 60 --result result.json
"""
# How long a thread that computes may keep the interpreter from a VP that has an exit to handle. Python's default of
# 5 ms would be 500 exits.
SWITCH_INTERVAL_S = 50e-6
LONGEST_TIME_LIMIT_S = 10_000_000  # more than threading's waits take on every host


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `vmm run`."""
    parser = subparsers.add_parser(
        "run",
        help="boot a kernel or a bare guest",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the kernel or guest image")
    parser.add_argument("--initrd", metavar="FILE", help="initial RAM disk, or a multiboot guest's module")
    parser.add_argument("--append", metavar="STRING", default="", help="the guest's command line")
    parser.add_argument(
        "--raw", metavar="ADDRESS", help="load FILE as it is at this guest physical address and start there"
    )
    parser.add_argument(
        "--serial",
        metavar="END",
        default="stdio",
        help="where the first serial port goes: stdio, file:PATH, pty, unix:PATH or none (default: stdio)",
    )
    parser.add_argument("--time-limit", metavar="SECONDS", type=float, help="end the run after this long")
    parser.add_argument(
        "--pin",
        metavar="CPUS",
        help="bind each VP's thread to a CPU of the host: a list as taskset's, such as 0-3 or 0,2, whose first "
        "CPU gets VP 0; 'auto' takes CPUs of different cores first",
    )
    parser.add_argument(
        "--stats",
        metavar="HOW",
        action="append",
        help="count what each VP does in each VTL: 'live' shows it on standard error every second and at the end, "
        "'end' only then, 'json:PATH' writes one JSON object then; may be given several times",
    )
    parser.add_argument("--result", metavar="FILE", help="write how the run ended as one JSON object")
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the guest; the process status."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if args.result is not None:
        check_writable("--result", args.result)
    try:
        result = _run(args)
    except UserError as error:
        result = Outcome(OutcomeKind.ERROR, STATUS_BAD_INPUT, str(error))
    except RunInterruptedError as interruption:
        result = interruption.outcome
    try:
        if result.kind not in (OutcomeKind.DEBUG_EXIT, OutcomeKind.POWER_OFF):
            _tell(result.detail)
        if result.report:
            print(result.report, file=sys.stderr, flush=True)
    finally:
        if args.result is not None:
            _write_result(args.result, result)
    return result.status


def _run(args: argparse.Namespace) -> Outcome:
    from kvmapi import Kvm, KvmError
    from vmm.backend.kick import KickError
    from vmm.console.choose import make_end
    from vmm.console.ends import LineError
    from vmm.console.line import LineEnd
    from vmm.console.terminal import TerminalEnd
    from vmm.machine.board import BoardEnds
    from vmm.machine.boot import BootError
    from vmm.machine.config import ConfigError
    from vmm.machine.cpu import CpuSpecError, TopologyError
    from vmm.machine.machine import Machine
    from vmm.machine.ram import RamError

    if args.stats:
        from vmm.cli.run_statistics import RunStatistics

    if args.time_limit is not None and not 0 < args.time_limit <= LONGEST_TIME_LIMIT_S:
        raise UserError(
            f"--time-limit {args.time_limit:g}: expected seconds, above 0 and up to {LONGEST_TIME_LIMIT_S}"
        )
    wanted = stats_option.parse(args.stats)
    try:
        with ExitStack() as stack:
            signals = stack.enter_context(RunSignals())
            config = _config(args)
            kvm = stack.enter_context(Kvm.open())
            with signals.held_back():
                keep = [name for name in (args.file, args.initrd) if name]
                end = make_end(args.serial, _tell, signals.end_run, keep)
                stack.callback(end.close)
                debug_end = LineEnd()
                debug_end.output_fd = sys.stderr.fileno()
                stack.callback(debug_end.close)
            statistics = None if wanted is None else RunStatistics(wanted, config.cpus, end.output_fd)
            guest_output = signals.guarded(end.write)
            ends = BoardEnds(
                serial=guest_output if statistics is None else statistics.sharing(guest_output),
                debug=signals.guarded(debug_end.write),
                notice=_tell,
                give_up=signals.cancel_output,
            )
            counts = None if statistics is None else statistics.counts
            machine = stack.enter_context(Machine(config, ends, kvm, counts))
            for warning in machine.warnings:
                _tell(f"warning: {warning}")
            machine.board.connect_serial_room(end.room)
            if isinstance(end, TerminalEnd):
                end.connect_power_button(machine.board.pm.press_power_button)
            signals.attach(machine.control, end, debug_end)
            stack.callback(end.stop_input)
            stack.callback(signals.detach)
            end.start_input(machine.board.serial_input)
            with nullcontext() if statistics is None else statistics.of(machine.vps):
                result = machine.run(args.time_limit)
        if statistics is not None:
            statistics.tell()
        return result
    except (
        KvmError,
        KickError,
        LineError,
        BootError,
        ConfigError,
        CpuSpecError,
        TopologyError,
        RamError,
    ) as error:
        raise UserError(str(error)) from error


def _config(args: argparse.Namespace) -> MachineConfig:
    raw_address = None
    if args.raw is not None:
        try:
            raw_address = int(args.raw, 0)
        except ValueError:
            raise UserError(f"--raw {args.raw}: expected an address such as 0x7c00") from None
    initrd = Path(args.initrd) if args.initrd is not None else None
    config = machine_config(
        args, Path(args.file), initrd=initrd, cmdline=args.append, raw_address=raw_address
    )
    if args.pin is None:
        return config
    return replace(config, pin=choose(args.pin, config.cpus, available_cpus(), core_of))


def _write_result(path: str, result: Outcome) -> None:
    record = {
        "outcome": str(result.kind),
        "status": result.status,
        "code": result.code,
        "detail": result.detail,
        "report": result.report,
    }
    write_text("--result", path, json.dumps(record) + "\n")


def _tell(line: str) -> None:
    print(f"vmm: {line}", file=sys.stderr, flush=True)
