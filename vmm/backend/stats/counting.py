# SPDX-License-Identifier: Apache-2.0
"""KVM_RUN with counters around it, to be put in the place of `Vcpu.run_call` before a VP's loop takes that.

The VMM's own KVM_RUNs (`Vcpu.run_once`), in which KVM looks at timers, ends an instruction or waits, are not counted.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final

from kvmapi.seam import RunCall

_EXIT_REASON_U32: Final = 2  # exit_reason is at byte 8 of struct kvm_run


class RunCounts:
    """exits: by KVM_EXIT_*; errors: KVM_RUNs that returned an errno, by number. Times in nanoseconds.

    run_ns: inside KVM_RUN, that is in the guest, in HLT and in KVM, and waiting for the interpreter afterwards.
    entered_ns: since when it is in KVM_RUN, 0 when it is not.
    """

    __slots__ = ("entered_ns", "errors", "exits", "run_ns")

    def __init__(self) -> None:
        self.exits: dict[int, int] = {}
        self.errors: dict[int, int] = {}
        self.run_ns = 0
        self.entered_ns = 0


def counted(run_call: RunCall, u32: memoryview, counts: RunCounts) -> RunCall:
    """`run_call` (a vCPU's KVM_RUN) that adds to `counts`. u32: of the vCPU's kvm_run."""
    call, fd, request = run_call
    exits, errors, now, at_reason = counts.exits, counts.errors, perf_counter_ns, _EXIT_REASON_U32

    def run(fd: int, request: int) -> int:
        begin = counts.entered_ns = now()
        try:
            result = call(fd, request)
        except OSError as error:
            counts.entered_ns = 0
            counts.run_ns += now() - begin
            number = error.errno or 0
            errors[number] = errors.get(number, 0) + 1
            raise
        counts.entered_ns = 0
        counts.run_ns += now() - begin
        reason = u32[at_reason]
        exits[reason] = exits.get(reason, 0) + 1
        return result

    return run, fd, request
