# SPDX-License-Identifier: Apache-2.0
"""A VP's exit, which takes its operands out of kvm_run itself, does what `Dispatcher.dispatch` does by name."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.backend.hyperv.test_caller import (
    DIRTY_U64,
    FAST,
    GUEST_OS_ID,
    HYPERCALL,
    INPUT,
    ONE_REP,
    OUTPUT,
    PAGE_GPA,
    PAGE_GVA,
    SELF_PARTITION,
    SELF_VP,
    SYNC_REGS,
    Rig,
    a_rig,
)
from vmm.backend.hyperv import page_code
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.registers import HvRegisterName as Register
from vmm.hypercall.convention import CallerMode, Outcome, caller_mode

GENERAL = (
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rsp",
    "rbp",
    *(f"r{n}" for n in range(8, 16)),
    "rip",
    "rflags",
)
CONTROLS = st.sampled_from(
    [
        Code.HvCallNotifyLongSpinWait | FAST,
        Code.HvCallSendSyntheticClusterIpi,
        Code.HvCallSendSyntheticClusterIpi | FAST,
        Code.HvCallGetVpRegisters | ONE_REP,
        Code.HvCallGetVpRegisters | 2 * ONE_REP,
        Code.HvCallGetVpRegisters,
        Code.HvCallModifyVtlProtectionMask | ONE_REP,
        0x7777,
        1 << 63,
    ]
) | st.integers(0, (1 << 64) - 1)
OPERANDS = st.sampled_from([INPUT, OUTPUT, INPUT + 4, 0xFFFF_F000, SELF_PARTITION, SELF_VP, 0x52, 0])
PLAIN = {"cs_l": 1, "dpl": 0, "cr0": 1, "efer": 1 << 10, "flags": 2}
MODES = [
    PLAIN,
    PLAIN | {"dpl": 3},
    PLAIN | {"cs_l": 0},
    PLAIN | {"cs_l": 0, "efer": 0},
    PLAIN | {"cs_l": 0, "efer": 0, "flags": 2 | 1 << 17},
    PLAIN | {"cs_l": 0, "efer": 0, "cr0": 0},
    PLAIN | {"efer": 1 << 8},
]


def by_name(rig: Rig, mode: CallerMode) -> tuple[Outcome, dict[str, int]]:
    """What `dispatch` makes of the registers, in an object that is no kvm_run."""
    registers = SimpleNamespace(**{name: getattr(rig.run.regs, name) for name in GENERAL})
    outcome = rig.hyperv.dispatcher.dispatch(rig.caller, registers, mode)
    return outcome, vars(registers)


@pytest.mark.tlfs("HC-002", "HC-014")
def test_whatever_the_caller_s_registers() -> None:
    with a_rig() as rig:

        @given(
            control=CONTROLS,
            first=OPERANDS,
            second=OPERANDS,
            mode=st.sampled_from([PLAIN, *MODES]),
            enabled=st.sampled_from([True, True, True, False]),
            at=st.sampled_from(sorted(page_code.AT_TRAP)),
            noise=st.integers(0, (1 << 64) - 1),
        )
        def check(
            control: int, first: int, second: int, mode: dict[str, int], enabled: bool, at: int, noise: int
        ) -> None:
            run = rig.run
            rig.write_msr(GUEST_OS_ID, int(enabled))
            rig.write_msr(HYPERCALL, PAGE_GPA | 1)
            names = (Register.HvRegisterGuestOsId, Register.HvRegisterVpIndex)
            rig.ram.write(INPUT, struct.pack("<QIB3x2I", SELF_PARTITION, SELF_VP, 0, *names))
            for name in GENERAL:
                setattr(run.regs, name, noise)
            run.regs.rcx, run.regs.rdx, run.regs.r8 = control, first, second
            run.regs.rip, run.regs.rflags = PAGE_GVA + at, mode["flags"]
            run.sregs.cs.l, run.sregs.ss.dpl = mode["cs_l"], mode["dpl"]
            run.sregs.cr0, run.sregs.efer = mode["cr0"], mode["efer"]
            run.u64[DIRTY_U64] = 0
            kind = caller_mode(mode["cr0"], mode["efer"], mode["flags"], mode["cs_l"], mode["dpl"])
            ram = bytes(rig.ram.data)
            outcome, expected = by_name(rig, kind)
            ram_by_name = bytes(rig.ram.data)
            rig.ram.data[:] = ram

            rig.caller.hypercall()

            if outcome is not Outcome.COMPLETED:
                expected["rip"] = page_code.continue_at(
                    PAGE_GVA, page_code.AGAIN if outcome is Outcome.RETRY else page_code.REFUSE
                )
            assert {name: getattr(run.regs, name) for name in GENERAL} == expected
            assert bytes(rig.ram.data) == ram_by_name
            assert run.u64[DIRTY_U64] == SYNC_REGS

        check()
