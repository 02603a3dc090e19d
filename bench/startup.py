# SPDX-License-Identifier: Apache-2.0
"""From the command to the guest: `vmm run` against QEMU on the same `/dev/kvm`, in turns.

| figure | clock starts | clock stops |
|---|---|---|
| first-instruction | the process is spawned | the first byte that a multiboot guest's first instructions send arrives |
| dummy-guest | the process is spawned | the process has ended, having run a whole guest |

The first guest's first instructions are `mov` and `out` to the serial port. On QEMU's side its BIOS is included: that
is what the user waits for.
"""

from __future__ import annotations

import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.build import BenchError, guest, run_program, time_limit_s
from bench.figure import Figure, Side

WATCHDOG_S = 60
LOAD_GPA = 0x100000
# mov $0x3f8, %dx; mov $'\n', %al; out %al, %dx; mov $0xf4, %dx; xor %eax, %eax; out %eax, %dx; 1: hlt; jmp 1b
CODE = bytes.fromhex("66baf803 b00a ee 66baf400 31c0 ef f4 ebfd")


def first_instruction_image() -> bytes:
    """A multiboot 1 image with address fields: header, then code that reports at once."""
    flags = 1 << 16
    header_size = 32
    entry = LOAD_GPA + header_size
    end = entry + len(CODE)
    magic = 0x1BADB002
    checksum = -(magic + flags) & 0xFFFFFFFF
    return struct.pack("<8I", magic, flags, checksum, LOAD_GPA, LOAD_GPA, end, end, entry) + CODE


def vmm_command(image: Path) -> list[str]:
    """Our command for a guest."""
    return [sys.executable, "-m", "vmm", "run", str(image)]


def qemu_command(image: Path) -> list[str]:
    """QEMU's command for the same guest, as kvm-unit-tests' runner gives it."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise BenchError("qemu-system-x86_64 is missing: install the Debian package qemu-system-x86")
    options = "-nodefaults -vga none -display none -no-reboot -serial stdio -machine accel=kvm"
    return [qemu, *options.split(), "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-kernel", str(image)]


def first_byte_ms(command: list[str]) -> float:
    """Milliseconds from spawning `command` to the first byte of its output."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        try:
            limit_s = time_limit_s(WATCHDOG_S)
            if not select.select([child.stdout], [], [], limit_s)[0]:
                raise BenchError(f"{' '.join(command)} printed nothing within {limit_s:g} s")
            byte = os.read(child.stdout.fileno(), 1)
            elapsed = time.perf_counter() - begin
            _, stderr = child.communicate(timeout=limit_s)
        except BaseException:
            child.kill()
            raise
    if not byte:
        raise BenchError(f"{command[0]} printed nothing: {stderr.decode(errors='replace').strip()}")
    return elapsed * 1e3


def whole_run_ms(command: list[str]) -> float:
    """Milliseconds of a whole run that must end with debug-exit code 0."""
    begin = time.perf_counter()
    result = run_program(command, time_limit_s(WATCHDOG_S))
    elapsed = time.perf_counter() - begin
    if result.returncode != 1:
        raise BenchError(f"{' '.join(command)} ended with {result.returncode}, expected 1")
    return elapsed * 1e3


def run(runs: int) -> list[Figure]:
    """Both figures."""
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory, "first.bin")
        image.write_bytes(first_instruction_image())
        first = [(first_byte_ms(vmm_command(image)), first_byte_ms(qemu_command(image))) for _ in range(runs)]
    dummy = guest("dummy.flat")
    whole = [(whole_run_ms(vmm_command(dummy)), whole_run_ms(qemu_command(dummy))) for _ in range(runs)]
    return [_figure("first-instruction", first), _figure("dummy-guest", whole)]


def _figure(name: str, samples: list[tuple[float, float]]) -> Figure:
    return Figure(
        name=name,
        unit="ms",
        better="lower",
        ours=Side("vmm", [pair[0] for pair in samples]),
        reference=Side("qemu", [pair[1] for pair in samples]),
    )
