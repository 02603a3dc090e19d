# SPDX-License-Identifier: Apache-2.0
"""How fast ring 0 runs on this host, which instructions KVM cannot carry out there, and whether programs get there.

A KVM without VT-x or SVM emulates ring 0. It is slow then, has gaps, and some instructions never end. So the
experiment runs in a process of its own (`python -m vmm.backend.ring0 NAME...`), which says in JSON lines
what it is about to try and what came out, and is killed when it falls silent, or by the kernel when we end.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from kvmapi import Kvm, Vcpu, Vm
from kvmapi.uapi import kvm as k
from vmm.backend.ring3 import TSS_GPA, system_call_reaches_ring_0

CODE_GPA = 0x1000
PAGE = 4096

RATE = "rate"  # the name of the speed measurement among the experiments
SYSTEM_CALL = "syscall in ring 3"  # see `vmm.backend.ring3`
LOOP_INSTRUCTIONS = 2  # dec ecx; jnz
FIRST_LOOPS = 2_000  # 2.5 ms where ring 0 is emulated at 1.6 million instructions a second
MEASURED_SECONDS = 0.03
MOST_LOOPS = 20_000_000
SLOW_BELOW = 50_000_000  # instructions a second: hardware does thousands of millions, an emulator a few

STARTUP_SECONDS = 20.0  # Python's start on a busy machine
STEP_SECONDS = 1.5  # one experiment; each takes milliseconds unless it hangs

# 32-bit code. An instruction may fault: without an IDT that ends in a shutdown, which is a proper outcome.
INSTRUCTIONS: dict[str, bytes] = {
    "int3": b"\xcc",
    "int n": b"\xcd\x20",
    "xgetbv": b"\x0f\x01\xd0",
    "clac": b"\x0f\x01\xca",
    "invpcid": b"\x66\x0f\x38\x82\x01",
    "clwb": b"\x66\x0f\xae\x31",
    "movbe": b"\x0f\x38\xf0\xc1",  # register operand: invalid, must fault
    "monitor": b"\x0f\x01\xc8",
    "popcnt": b"\xf3\x0f\xb8\xc1",
    "xsave": b"\x0f\xae\x21",
    "movdqu": b"\xf3\x0f\x6f\x01",
    "vmcall": b"\x0f\x01\xc1",
    "vmmcall": b"\x0f\x01\xd9",
}
# The two hypercall instructions may hang, which costs STEP_SECONDS each: the processor's own is enough.
HYPERCALLS = {"AuthenticAMD": "vmmcall", "HygonGenuine": "vmmcall"}


PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


class Outcome(StrEnum):
    """What became of an instruction in ring 0."""

    WORKS = "works"  # carried out, or faulted as the guest's state demands
    UNEMULATED = "unemulated"  # KVM_EXIT_INTERNAL_ERROR: KVM gives up and asks the VMM
    HANGS = "hangs"  # the processor never comes back
    STAYS = "stays in ring 3"  # SYSTEM_CALL's: the kernel's entry point was run as a program is


@dataclass(frozen=True, slots=True)
class Ring0:
    """What the experiment found. `instructions_per_second` is 0 when it could not be measured."""

    instructions_per_second: float = 0.0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    error: str = ""

    @property
    def slow(self) -> bool:
        """Slower than hardware runs it: KVM emulates ring 0, or this host itself is emulated."""
        return 0 < self.instructions_per_second < SLOW_BELOW

    def having(self, outcome: Outcome) -> list[str]:
        return [name for name, result in self.outcomes.items() if result is outcome]


def measure_ring0(vendor: str = "") -> Ring0:
    """Run the experiments in child processes. vendor: of leaf 0, chooses the hypercall instruction to try.

    Never raises for what KVM does; a child that cannot start its guest is reported in `error`.
    """
    left_out = set(HYPERCALLS.values()) | {"vmcall"}
    left_out.discard(HYPERCALLS.get(vendor, "vmcall"))
    return _experiment([RATE, *(name for name in INSTRUCTIONS if name not in left_out), SYSTEM_CALL])


def measure_speed() -> Ring0:
    """Only how fast ring 0 runs; as `measure_ring0`. Takes as long as Python's start and `MEASURED_SECONDS`."""
    return _experiment([RATE])


def _experiment(pending: list[str]) -> Ring0:
    rate = 0.0
    outcomes: dict[str, Outcome] = {}
    while pending:
        trying, error = "", ""
        for line in _child(pending):
            if "trying" in line:
                trying = str(line["trying"])
                continue
            if "error" in line:
                error = str(line["error"])
            elif trying == RATE:
                rate = float(str(line["result"]))
            else:
                outcomes[trying] = Outcome(str(line["result"]))
            pending = [name for name in pending if name != trying]
            trying = ""
        if error or (pending and not trying):
            return Ring0(rate, outcomes, error or "the experiment ended without a result")
        if trying:  # silent since: it hangs
            if trying != RATE:
                outcomes[trying] = Outcome.HANGS
            pending = pending[pending.index(trying) + 1 :]
    return Ring0(rate, outcomes)


def _child(names: Sequence[str]) -> Iterator[dict[str, object]]:
    """The lines of one child; ends with the child, or kills it when a line is overdue."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # works in an uninstalled checkout too
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    with subprocess.Popen(
        [sys.executable, "-m", __name__, *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # a Ctrl-C at the terminal is for us, and we end the child
        preexec_fn=die_with_parent,  # two system calls, nothing that another thread could hold a lock of
    ) as child:
        assert child.stdout is not None
        buffered = b""
        patience = STARTUP_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            try:
                while selector.select(patience):
                    chunk = child.stdout.read1(PAGE)  # type: ignore[attr-defined]  # a BufferedReader
                    if not chunk:
                        return
                    patience = STEP_SECONDS
                    *lines, buffered = (buffered + chunk).split(b"\n")
                    yield from (json.loads(line) for line in lines)
            finally:
                child.kill()


def _protected_mode(vm: Vm, page: mmap.mmap, code: bytes) -> Vcpu:
    """A vCPU about to run `code` in flat 32-bit protected mode, paging off, without an IDT."""
    page[:] = code.ljust(PAGE, b"\xf4")  # HLT behind the code
    vcpu = vm.create_vcpu(0)
    sregs = vcpu.get_sregs()
    sregs.cr0 |= 1  # PE
    sregs.idt.limit = 0
    for segment, selector, kind in (
        (sregs.cs, 0x8, 0xB),
        (sregs.ds, 0x10, 0x3),
        (sregs.es, 0x10, 0x3),
        (sregs.ss, 0x10, 0x3),
    ):
        segment.base, segment.limit, segment.selector = 0, 0xFFFF_FFFF, selector
        segment.type, segment.present, segment.dpl, segment.s = kind, 1, 0, 1
        segment.db, segment.g, segment.l = 1, 1, 0
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip, regs.rflags, regs.rcx, regs.rsp = CODE_GPA, 2, CODE_GPA, CODE_GPA + PAGE
    vcpu.set_regs(regs)
    return vcpu


def _run(kvm: Kvm, code: bytes) -> tuple[int, float]:
    """(exit reason, seconds) of `code` in a VM of its own."""
    with mmap.mmap(-1, PAGE) as page:
        pin = ctypes.c_char.from_buffer(page)
        with kvm.create_vm() as vm:
            vm.set_tss_addr(TSS_GPA)
            vm.set_user_memory_region(0, CODE_GPA, PAGE, ctypes.addressof(pin))
            vcpu = _protected_mode(vm, page, code)
            start = time.perf_counter()
            vcpu.run_once()
            seconds = time.perf_counter() - start
            reason = vcpu.run.exit_reason
        del pin
    return reason, seconds


def _loop(count: int) -> bytes:
    """mov ecx, count; again: dec ecx; jnz again."""
    return b"\xb9" + count.to_bytes(4, "little") + b"\x49\x75\xfd"


def _rate(kvm: Kvm) -> float:
    """Ring 0 instructions a second, measured over about MEASURED_SECONDS."""
    _, seconds = _run(kvm, _loop(FIRST_LOOPS))
    loops = min(max(int(FIRST_LOOPS * MEASURED_SECONDS / seconds), FIRST_LOOPS), MOST_LOOPS)
    _, seconds = _run(kvm, _loop(loops))
    return loops * LOOP_INSTRUCTIONS / seconds


def _outcome(kvm: Kvm, name: str) -> Outcome:
    if name == SYSTEM_CALL:
        return Outcome.WORKS if system_call_reaches_ring_0(kvm) else Outcome.STAYS
    reason, _ = _run(kvm, INSTRUCTIONS[name])
    return Outcome.UNEMULATED if reason == k.KVM_EXIT_INTERNAL_ERROR else Outcome.WORKS


def _say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def main(names: Sequence[str]) -> int:
    """The child: carry out the experiments called `names`."""
    try:
        with Kvm.open() as kvm:
            for name in names:
                _say(trying=name)
                _say(result=_rate(kvm) if name == RATE else _outcome(kvm, name))
    except OSError as error:
        _say(error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
