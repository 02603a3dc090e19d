# SPDX-License-Identifier: Apache-2.0
"""Counters around KVM_RUN, their sums over a vCPU's life, differences, and the JSON form."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns

import pytest

from kvmapi import Kvm, Vcpu
from kvmapi.fake import FakeKvm
from kvmapi.fake_exits import Step, exit_with, io_out
from kvmapi.uapi import kvm as k
from vmm.backend.stats import kernel_counts
from vmm.backend.stats.counts import MachineCounts
from vmm.backend.stats.figures import Figures, SwitchKey, VpFigures, VtlFigures, take
from vmm.backend.stats.kernel_counts import KernelCounts
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.vsm.actions import SwitchReason, SwitchVtl


@contextmanager
def a_vcpu() -> Iterator[tuple[FakeKvm, Vcpu]]:
    fake = FakeKvm()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm:
        yield fake, vm.create_vcpu(0)


def a_vp(vcpu: Vcpu) -> VirtualProcessor:
    return VirtualProcessor(0, vcpu, PortBus(), MmioBus(), lambda outcome: None)


def run_counted(vcpu: Vcpu) -> int:
    """KVM_RUN as a VP's loop does it: 0, or an errno."""
    call, fd, request = vcpu.run_call
    try:
        return call(fd, request)
    except OSError as error:
        return error.errno or 0


class KernelSays:
    """What KVM counts, as the test sets it, by vCPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_vcpu: dict[Vcpu, KernelCounts] = {}
        monkeypatch.setattr(kernel_counts, "open_stats", lambda vcpu: vcpu)
        monkeypatch.setattr(kernel_counts, "read", lambda vcpu: self.by_vcpu[vcpu])


def test_each_exit_and_each_error_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_vcpu() as (fake, vcpu):
        KernelSays(monkeypatch).by_vcpu[vcpu] = KernelCounts(0, 0, 0)
        counts = MachineCounts(1)
        counts.watch(0, 0, vcpu)
        steps: list[Step | int] = [*[io_out(0x80, b"\0")] * 3, exit_with(k.KVM_EXIT_MMIO), errno.EINTR]
        fake.script(0, steps)

        results = [run_counted(vcpu) for _ in steps]

        assert results == [0, 0, 0, 0, errno.EINTR]
        (vtl,) = take(counts, [a_vp(vcpu)]).vps[0].vtls
        assert vtl.exits == {"IO": 3, "MMIO": 1, "EINTR": 1}
        assert vtl.run_ns > 0


def test_the_vmms_own_kvm_runs_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_vcpu() as (fake, vcpu):
        KernelSays(monkeypatch).by_vcpu[vcpu] = KernelCounts(0, 0, 0)
        counts = MachineCounts(1)
        counts.watch(0, 0, vcpu)
        fake.script(0, [errno.EINTR])

        assert vcpu.run_once() == errno.EINTR

        (vtl,) = take(counts, [a_vp(vcpu)]).vps[0].vtls
        assert (vtl.exits, vtl.run_ns) == ({}, 0)


def test_an_exit_without_a_name_is_counted_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_vcpu() as (fake, vcpu):
        KernelSays(monkeypatch).by_vcpu[vcpu] = KernelCounts(0, 0, 0)
        counts = MachineCounts(1)
        counts.watch(0, 0, vcpu)
        fake.script(0, [exit_with(4711)])

        run_counted(vcpu)

        assert take(counts, [a_vp(vcpu)]).vps[0].vtls[0].exits == {"exit reason 4711": 1}


def test_time_counts_from_when_the_guest_begins() -> None:
    """However long the machine was made before: the first interval of a live table begins with none."""
    counts = MachineCounts(1)
    with a_vcpu() as (_, vcpu):
        before = take(counts, [a_vp(vcpu)])
        counts.begin()
        after = take(counts, [a_vp(vcpu)])

    assert before.elapsed_ns == 0
    assert after.since(before).elapsed_ns > 0


def test_kvm_run_that_is_under_way_counts_up_to_now() -> None:
    with a_vcpu() as (_, vcpu):
        counts = MachineCounts(1)
        counts.watch(0, 0, vcpu)
        counts.vps[0].vtl(0).run.entered_ns = perf_counter_ns()

        first = take(counts, [a_vp(vcpu)]).vps[0].vtls[0].run_ns
        second = take(counts, [a_vp(vcpu)]).vps[0].vtls[0].run_ns

        assert 0 < first < second


def test_what_kvm_counted_of_vcpus_that_are_gone_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_vcpu() as (_, first):
        says = KernelSays(monkeypatch)
        counts = MachineCounts(1)
        says.by_vcpu[first] = KernelCounts(100, 10, 1)
        counts.watch(0, 1, first)
        counts.settle(above=0)
        del says.by_vcpu[first]  # closed: nobody may ask any more

        assert counts.vps[0].vtl(1).kernel() == (100, 10, 1)

        with a_vcpu() as (_, second):
            says.by_vcpu[second] = KernelCounts(5, 2, 0)
            counts.watch(0, 1, second)
            assert counts.vps[0].vtl(1).kernel() == (105, 12, 1)


def test_vtl0_is_not_settled_with_those_above(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_vcpu() as (_, vcpu):
        says = KernelSays(monkeypatch)
        counts = MachineCounts(1)
        says.by_vcpu[vcpu] = KernelCounts(1, 1, 1)
        counts.watch(0, 0, vcpu)
        counts.settle(above=0)
        says.by_vcpu[vcpu] = KernelCounts(2, 2, 2)

        assert counts.vps[0].vtl(0).kernel() == (2, 2, 2)


def test_a_kvm_that_counts_nothing_is_told_apart_from_nothing_counted() -> None:
    with a_vcpu() as (fake, vcpu):
        fake.fail("KVM_GET_STATS_FD", errno.ENOTTY)
        counts = MachineCounts(1)
        counts.watch(0, 0, vcpu)

        (vtl,) = take(counts, [a_vp(vcpu)]).vps[0].vtls

        assert (vtl.halted_ns, vtl.interrupts, vtl.nmis) == (None, None, None)
        assert json.loads(json.dumps(vtl.as_json()))["interrupts"] is None


def test_halts_are_sleep_and_polling_together() -> None:
    class Stats:
        def read(self) -> dict[str, tuple[int, ...]]:
            return {
                "halt_wait_ns": (100,),
                "halt_poll_success_ns": (20,),
                "halt_poll_fail_ns": (3,),
                "irq_injections": (7,),
                "exits": (1000,),
            }

    assert kernel_counts.read(Stats()) == (123, 7, None)


def test_switches_are_counted_by_direction_and_cause() -> None:
    counts = MachineCounts(2)
    vp = counts.vps[1]
    for reason in (SwitchReason.CALL, SwitchReason.CALL, SwitchReason.INTERRUPT):
        vp.switched(SwitchVtl(1, 0, 1, reason))
        vp.switched(SwitchVtl(1, 1, 0, SwitchReason.RETURN))

    assert counts.vps[0].switches == {}
    assert vp.switches == {(0, 1, "VTL call"): 2, (0, 1, "interrupt"): 1, (1, 0, "VTL return"): 3}


def test_intercepts_are_unknown_until_somebody_counts_them() -> None:
    with a_vcpu() as (_, vcpu):
        counts = MachineCounts(1)
        counts.watch(0, 0, vcpu)
        before = take(counts, [a_vp(vcpu)]).vps[0].vtls[0]

        counts.expect_intercepts(["memory read", "memory write"])
        counts.vps[0].intercepted(0, "memory write")
        after = take(counts, [a_vp(vcpu)]).vps[0].vtls[0]

        assert before.intercepts is None
        assert after.intercepts == {"memory read": 0, "memory write": 1}
        assert after.since(before).intercepts == {"memory read": 0, "memory write": 1}


def figures(elapsed_ns: int, io: int, switches: int, *, halted_ns: int | None = 250) -> Figures:
    vtl0 = VtlFigures(0, 1000, halted_ns, 3, 1, {"IO": io, "EINTR": 2}, None)
    vtl1 = VtlFigures(1, 500, 0, 0, 0, {"IO": io}, {"memory read": 4})
    keys = {SwitchKey(1, 0, "VTL return"): switches, SwitchKey(0, 1, "VTL call"): switches}
    return Figures(elapsed_ns, [VpFigures(0, None, 900, [vtl0, vtl1], keys, 0)])


def test_sums_and_rates() -> None:
    now = figures(2_000_000_000, io=10, switches=300)

    assert (now.exits, now.switches) == (22, 600)
    assert (now.per_second(now.exits), now.per_second(now.switches)) == (11.0, 300.0)
    assert now.vps[0].vtls[0].guest_ns == 750
    assert figures(0, 0, 0).per_second(5) == 0.0


def test_time_in_the_guest_is_all_of_kvm_run_where_halts_are_unknown() -> None:
    assert figures(1, 0, 0, halted_ns=None).vps[0].vtls[0].guest_ns == 1000


def test_a_difference_has_only_what_came_since() -> None:
    since = figures(3_000_000_000, io=15, switches=310).since(figures(2_000_000_000, io=10, switches=300))

    assert (since.elapsed_ns, since.exits, since.switches) == (1_000_000_000, 10, 20)
    assert since.vps[0].vtls[0].exits == {"IO": 5, "EINTR": 0}
    assert since.vps[0].vtls[0].halted_ns == 0


def test_a_vtl_that_is_new_counts_whole() -> None:
    earlier = figures(1, io=10, switches=0)
    without = Figures(1, [VpFigures(0, None, 900, earlier.vps[0].vtls[:1], {}, 0)])

    since = figures(2, io=11, switches=1).since(without)

    assert [sum(vtl.exits.values()) for vtl in since.vps[0].vtls] == [1, 11]
    assert since.switches == 2


def test_the_json_form() -> None:
    text = json.loads(json.dumps(figures(2_000_000_000, io=10, switches=300).as_json()))

    assert text == {
        "schema": 1,
        "elapsed_s": 2.0,
        "exits": 22,
        "exits_per_s": 11.0,
        "vtl_switches": 600,
        "vtl_switches_per_s": 300.0,
        "vps": [
            {
                "vp": 0,
                "host_cpu": None,
                "thread_cpu_s": 9e-07,
                "vtls": [
                    {
                        "vtl": 0,
                        "in_guest_s": 7.5e-07,
                        "halted_s": 2.5e-07,
                        "in_kvm_run_s": 1e-06,
                        "exits": {"IO": 10, "EINTR": 2},
                        "interrupts": 3,
                        "nmis": 1,
                        "intercepts": None,
                    },
                    {
                        "vtl": 1,
                        "in_guest_s": 5e-07,
                        "halted_s": 0.0,
                        "in_kvm_run_s": 5e-07,
                        "exits": {"IO": 10},
                        "interrupts": 0,
                        "nmis": 0,
                        "intercepts": {"memory read": 4},
                    },
                ],
                "vtl_switches": [
                    {"from": 0, "to": 1, "cause": "VTL call", "count": 300},
                    {"from": 1, "to": 0, "cause": "VTL return", "count": 300},
                ],
                "vina_raised": 0,
            }
        ],
    }


def test_a_vp_without_counters_runs_kvm_run_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_vcpu() as (fake, vcpu):
        KernelSays(monkeypatch).by_vcpu[vcpu] = KernelCounts(0, 0, 0)
        fake.script(0, [exit_with(k.KVM_EXIT_MMIO)] * 2)
        bare, counts = vcpu.run_call, MachineCounts(1)
        processor = a_vp(vcpu)

        assert processor.vcpu.run_call is bare
        assert run_counted(vcpu) == 0
        counts.watch(0, 0, vcpu)
        assert vcpu.run_call is not bare  # with them it does not
        assert run_counted(vcpu) == 0
        assert take(counts, [processor]).vps[0].vtls[0].exits == {"MMIO": 1}
