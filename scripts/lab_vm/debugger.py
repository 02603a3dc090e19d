# SPDX-License-Identifier: Apache-2.0
"""Where a hung kernel stands: QEMU's monitor protocol (QMP) over an inherited socket.

QMP is a line of JSON each way: a greeting, `qmp_capabilities`, then commands; events come in between.
"""

from __future__ import annotations

import bisect
import itertools
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

REPLY_SECONDS = 5.0
"""QEMU answers at once unless it hangs itself."""

NMI_SECONDS = 5.0
"""A kernel that takes the NMI prints its registers and call traces in this time, emulated and on a loaded host."""

REGISTER_RIP = re.compile(r"\bRIP=(?P<address>[0-9a-f]{16})")
CPU_LINE = re.compile(r"^CPU#(?P<number>\d+)", re.MULTILINE)
KERNEL_HALF = 1 << 63


class Monitor:
    """A QMP client. Every method gives up after `REPLY_SECONDS` and then returns None."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(REPLY_SECONDS)
        self._received = b""
        self._greeted = False

    def command(self, name: str, **arguments: object) -> Any:
        """The command's return value, or None when QEMU does not answer or refuses."""
        try:
            if not self._greeted:
                self._line()
                self._greeted = True
                self.command("qmp_capabilities")
            request: dict[str, object] = {"execute": name}
            if arguments:
                request["arguments"] = arguments
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            while True:
                answer = json.loads(self._line())
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    return None
        except (OSError, ValueError):
            return None

    def human(self, line: str) -> str:
        """The text a command of QEMU's human monitor prints; empty when there is no answer."""
        return str(self.command("human-monitor-command", **{"command-line": line}) or "")

    def _line(self) -> bytes:
        while b"\n" not in self._received:
            data = self._connection.recv(65536)
            if not data:
                raise ConnectionError("QEMU closed its monitor")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        return line


class SymbolTable:
    """Kernel addresses to names, from a System.map."""

    def __init__(self, text: str = "") -> None:
        symbols = []
        for line in text.splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[1] in "tTwW":
                symbols.append((int(fields[0], 16), fields[2]))
        symbols.sort()
        self._addresses = [address for address, _ in symbols]
        self._names = [name for _, name in symbols]

    def name(self, address: int) -> str:
        """`function+0x12`, or what can be said of an address without a symbol."""
        if address < KERNEL_HALF:
            return "not in the kernel: user space, or a guest of KVM"
        at = bisect.bisect_right(self._addresses, address) - 1
        if at < 0:
            return "no symbol"
        return f"{self._names[at]}+{address - self._addresses[at]:#x}"


def processors(registers: str, symbols: SymbolTable) -> list[str]:
    """One line per processor from the output of `info registers -a`."""
    lines = []
    starts = [*CPU_LINE.finditer(registers)]
    for start, following in itertools.zip_longest(starts, starts[1:]):
        block = registers[start.start() : following.start() if following else None]
        rip = REGISTER_RIP.search(block)
        if rip is None:
            continue
        address = int(rip["address"], 16)
        halted = ", halted" if "HLT=1" in block else ""
        lines.append(f"processor {start['number']} at {address:#x} ({symbols.name(address)}{halted})")
    return lines


def examine(monitor: Monitor, system_map: Path | None, log: Path) -> list[str]:
    """Findings about a machine that no longer answers; then an NMI, so that the kernel's log shows a call trace.

    The NMI makes the kernel panic; `Kernel Offset:` is the last line of that.
    """
    symbols = SymbolTable(system_map.read_text() if system_map is not None else "")
    findings = processors(monitor.human("info registers -a"), symbols)
    before = log.stat().st_size
    monitor.command("inject-nmi")
    deadline = time.monotonic() + NMI_SECONDS
    while time.monotonic() < deadline and b"Kernel Offset:" not in log.read_bytes()[before:]:
        time.sleep(0.1)
    return findings
