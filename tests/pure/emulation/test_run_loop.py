# SPDX-License-Identifier: Apache-2.0
"""A VP whose KVM cannot emulate an instruction: the emulator is asked, and the guest goes on or the run ends."""

from __future__ import annotations

import threading

from kvmapi import Kvm
from kvmapi.fake import FakeKvm
from kvmapi.fake_exits import Step, exit_with, shutdown
from kvmapi.uapi import kvm as k
from tests.pure.emulation.guest import Memory
from vmm.backend import kick
from vmm.backend.emulation.emulator import Emulator
from vmm.backend.outcome import Outcome, OutcomeKind
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.hypercall.outside import UnprotectedMemory

WATCHDOG_S = 10.0


def emulation_failure(code: bytes) -> Step:
    """KVM_EXIT_INTERNAL_ERROR, suberror 1, with the instruction's bytes (api.rst, section 5)."""
    return exit_with(
        k.KVM_EXIT_INTERNAL_ERROR,
        "IIQB15B",
        k.KVM_INTERNAL_ERROR_EMULATION,
        4,  # qwords that count: flags, length and bytes, and one KVM adds
        k.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
        len(code),
        *code.ljust(15, b"\0"),
    )


def run(*steps: Step, with_emulator: bool = True) -> tuple[Outcome, Emulator, FakeKvm]:
    kick.install()
    fake = FakeKvm()
    outcomes: list[Outcome] = []
    ended = threading.Event()
    with Kvm.open(seam=fake) as kvm, kvm.create_vm() as vm:
        vcpu = vm.create_vcpu(0)
        vcpu.set_cpuid2([])

        def end_run(outcome: Outcome) -> None:
            outcomes.append(outcome)
            vp.freeze()
            ended.set()

        vp = VirtualProcessor(0, vcpu, PortBus(), MmioBus(), end_run)
        emulator = Emulator(vcpu, UnprotectedMemory(Memory()))
        if with_emulator:
            vp.emulator = emulator
        fake.script(0, steps)
        vp.start()
        vp.thaw()
        try:
            assert ended.wait(WATCHDOG_S), "the VP did not end the run"
        finally:
            vp.stop()
    return outcomes[0], emulator, fake


def test_the_guest_goes_on_behind_an_instruction_that_is_carried_out() -> None:
    # RDPRU without its CPUID bit: #UD, then the guest runs on to its triple fault.
    outcome, _, fake = run(emulation_failure(b"\x0f\x01\xfd"), shutdown())

    assert outcome.kind is OutcomeKind.TRIPLE_FAULT
    assert len(fake.called("KVM_SET_VCPU_EVENTS")) == 1


def test_the_run_ends_with_the_bytes_and_the_reason_for_any_other() -> None:
    outcome, _, _ = run(emulation_failure(b"\x0f\xff\x90"))

    assert outcome.kind is OutcomeKind.EMULATION_FAILURE
    assert "0f ff 90" in outcome.detail
    assert "does not know opcode 0xfff" in outcome.detail
    assert "rip=" in outcome.report


def test_without_an_emulator_every_failure_ends_the_run() -> None:
    outcome, _, _ = run(emulation_failure(b"\x0f\x01\xfd"), with_emulator=False)

    assert outcome.kind is OutcomeKind.EMULATION_FAILURE


def test_another_internal_error_is_none_of_the_emulators_business() -> None:
    outcome, _, fake = run(exit_with(k.KVM_EXIT_INTERNAL_ERROR, "II", k.KVM_INTERNAL_ERROR_DELIVERY_EV, 0))

    assert outcome.kind is OutcomeKind.INTERNAL_ERROR
    assert fake.called("KVM_SET_VCPU_EVENTS") == []
