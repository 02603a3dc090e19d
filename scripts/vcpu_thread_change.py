# SPDX-License-Identifier: Apache-2.0
"""How long a KVM_RUN takes whose vCPU ran on another thread before: `python -m scripts.vcpu_thread_change`.

Linux 6.12 waits for an RCU grace period then; with our series it does not (KVM_X86_VSM_ANY_THREAD). No guest runs:
`immediate_exit` is set. Prints medians in microseconds, of `ROUNDS` each; in the lab by
`scripts/lab run --kernel patched -- .venv/bin/python -m scripts.vcpu_thread_change`.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from kvmapi import Kvm, Vcpu

ROUNDS = 100


def run(vcpu: Vcpu) -> float:
    """Seconds that one KVM_RUN takes."""
    begin = time.perf_counter()
    vcpu.run_once()
    return time.perf_counter() - begin


def main() -> int:
    """Measure and print."""
    with (
        Kvm.open() as kvm,
        kvm.create_vm() as vm,
        vm.create_vcpu(0) as vcpu,
        ThreadPoolExecutor(1) as first,
        ThreadPoolExecutor(1) as second,
    ):
        vcpu.run.immediate_exit = True
        same = [first.submit(run, vcpu).result() for _ in range(ROUNDS)]
        other = [pool.submit(run, vcpu).result() for _ in range(ROUNDS // 2) for pool in (second, first)]
    for name, times in (("the same thread", same), ("another thread", other)):
        print(
            f"KVM_RUN on {name}: median {statistics.median(times) * 1e6:.0f} us, worst {max(times) * 1e6:.0f} us"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
