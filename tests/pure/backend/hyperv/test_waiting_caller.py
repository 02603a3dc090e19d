# SPDX-License-Identifier: Apache-2.0
"""Registers of a VP that others write while its own hypercall waits for another VP."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvmapi.uapi.x86 import kvm_xsave
from tests.pure.backend.hyperv.test_caller import (
    DIRTY_U64,
    FAST,
    INPUT,
    ONE_REP,
    OUTPUT,
    PAGE_GVA,
    SELF_PARTITION,
    SELF_VP,
    SYNC_REGS,
    Rig,
    a_rig,
)
from tests.pure.backend.hyperv.test_transport import RESULT_U64, VMCALL, leave
from tests.pure.backend.hyperv.test_transport import XMM as EXIT_XMM
from vmm.backend.hyperv import page_code
from vmm.backend.hyperv.errands import _Errand
from vmm.backend.hyperv.transport import Transport
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.registers import HvRegisterName as Register
from vmm.hv.status import HvStatus
from vmm.hypercall.call import AGAIN, DONE, Reply
from vmm.hypercall.outside import AccessInterceptedError, CallerMemory
from vmm.outside import Buffer

SENT_TO, WRITTEN = 0x5000, 0xABCD
SPIN = Code.HvCallNotifyLongSpinWait | FAST


@pytest.fixture
def rig() -> Iterator[Rig]:
    with a_rig() as made:
        yield made


@pytest.fixture
def exits() -> Iterator[Rig]:
    with a_rig(Transport(VMCALL, exits=True)) as made:
        yield made


class TakenAway:
    """A caller's memory that it may not write any more when its output is there."""

    def __init__(self, memory: CallerMemory) -> None:
        self.read, self.require_writable = memory.read, memory.require_writable

    def write(self, gpa: int, data: Buffer) -> None:
        raise AccessInterceptedError(gpa, write=True)


def answer(rig: Rig, code: int, reply: Callable[[], Reply], **written: int) -> None:
    """Have `code` wait for VP 1, which does not come, and VP 0 write its own registers for it meanwhile."""

    def write() -> None:
        for name, value in written.items():
            setattr(rig.run.regs, name, value)
        rig.run.u64[DIRTY_U64] |= SYNC_REGS

    def handler(context: Any, call: Any) -> Reply:
        errands = rig.hyperv._errands
        errands._left[0].append(_Errand(write))
        assert errands.ask(0, 1, lambda: 1) is None
        return reply()

    rig.hyperv.dispatcher._handled[code].handler = handler


@pytest.mark.tlfs("REG-015", "VSM-112")
def test_a_call_to_be_made_again_is_not_where_rip_was_moved(rig: Rig) -> None:
    answer(rig, Code.HvCallNotifyLongSpinWait, lambda: (AGAIN, 0, None), rip=SENT_TO)

    rig.call(SPIN)

    assert rig.run.regs.rip == SENT_TO
    assert rig.run.u64[DIRTY_U64] & SYNC_REGS


def test_without_rip_the_call_is_made_again_with_what_was_written(rig: Rig) -> None:
    answer(rig, Code.HvCallNotifyLongSpinWait, lambda: (AGAIN, 0, None), rbx=WRITTEN, rax=WRITTEN)

    assert rig.call(SPIN) == WRITTEN

    assert (rig.run.regs.rip, rig.run.regs.rbx) == (PAGE_GVA + page_code.AGAIN, WRITTEN)


@pytest.mark.parametrize("moved", [True, False])
def test_an_output_page_taken_away_meanwhile_is_told_of_unless_rip_was_moved(rig: Rig, moved: bool) -> None:
    """Where it was, the call is not made again, nor the access."""
    told = []
    rig.caller.on_refused_parameter = lambda gpa, write: told.append((gpa, write))
    rig.caller.memory = TakenAway(rig.caller.memory)
    written = {"rip": SENT_TO} if moved else {"rbx": WRITTEN}
    answer(rig, Code.HvCallGetVpRegisters, lambda: (0, 1, [bytes(16)]), **written)

    rig.call(Code.HvCallGetVpRegisters | ONE_REP, INPUT, OUTPUT)

    if moved:
        assert (rig.run.regs.rip, told) == (SENT_TO, [])
    else:
        assert (rig.run.regs.rip, told) == (PAGE_GVA + page_code.AGAIN, [(OUTPUT, True)])


def test_the_result_does_not_replace_what_was_written(rig: Rig) -> None:
    answer(rig, Code.HvCallNotifyLongSpinWait, lambda: DONE, rip=SENT_TO, rax=WRITTEN)

    assert rig.call(SPIN) == WRITTEN
    assert rig.run.regs.rip == SENT_TO


def test_a_32_bit_caller_s_result_does_not_either(rig: Rig) -> None:
    answer(rig, Code.HvCallNotifyLongSpinWait, lambda: DONE, rdx=WRITTEN)
    rig.run.sregs.cs.l = 0
    regs = rig.run.regs
    regs.rip, regs.rdx, regs.rax = PAGE_GVA, 0, SPIN

    rig.caller.hypercall()

    assert (regs.rdx, regs.rax) == (WRITTEN, 0)


def test_nor_does_a_continued_call_s_control_word(rig: Rig) -> None:
    control = Code.HvCallGetVpRegisters | 2 * ONE_REP
    output = bytes(16)
    answer(rig, Code.HvCallGetVpRegisters, lambda: (AGAIN, 1, [output]), rip=SENT_TO, rcx=WRITTEN)
    rig.ram.write(INPUT, b"\xff" * 8 + bytes(24))

    rig.call(control, INPUT, OUTPUT)

    assert (rig.run.regs.rip, rig.run.regs.rcx) == (SENT_TO, WRITTEN)
    assert rig.ram.read(OUTPUT, 16) == output


def test_the_next_call_has_its_own_registers_again(rig: Rig) -> None:
    answer(rig, Code.HvCallNotifyLongSpinWait, lambda: DONE, rip=SENT_TO, rax=WRITTEN)
    rig.call(SPIN)
    rig.hyperv.dispatcher._handled[Code.HvCallNotifyLongSpinWait].handler = lambda context, call: DONE
    rig.hyperv.dispatcher._prepared.clear()

    assert rig.call(SPIN) == 0
    assert rig.run.regs.rip == PAGE_GVA


XMM, XSTATE_BV, SSE = 160, 512, 2
NAMES = struct.pack("<I", Register.HvRegisterGuestOsId)
GET_FAST = Code.HvCallGetVpRegisters | FAST | ONE_REP
OUTPUT_VALUE = bytes(range(16))


def xmm(rig: Rig, number: int) -> bytes:
    return bytes(rig.vps[0].vcpu.get_xsave())[XMM + 16 * number :][:16]


def put_xmm(rig: Rig, number: int, data: bytes) -> None:
    vcpu = rig.vps[0].vcpu
    area = bytearray(vcpu.get_xsave())
    area[XMM + 16 * number : XMM + 16 * number + len(data)] = data
    area[XSTATE_BV] |= SSE
    vcpu.set_xsave(kvm_xsave.from_buffer_copy(area))


def answer_and_write_xmm(rig: Rig, reply: Reply) -> None:
    """As `answer`: XMM3 and XMM7 are written meanwhile."""

    def write() -> None:
        put_xmm(rig, 3, b"\x33" * 16)
        put_xmm(rig, 7, b"\x77" * 16)

    answer(rig, Code.HvCallGetVpRegisters, lambda: reply)
    waits = rig.hyperv.dispatcher._handled[Code.HvCallGetVpRegisters].handler

    def handler(context: Any, call: Any) -> Reply:
        rig.hyperv._errands._left[0].append(_Errand(write))
        found: Reply = waits(context, call)
        return found

    rig.hyperv.dispatcher._handled[Code.HvCallGetVpRegisters].handler = handler


@pytest.mark.tlfs("REG-015")
def test_fast_output_does_not_put_back_vector_registers(rig: Rig) -> None:
    """Those around it; it goes where the call says."""
    put_xmm(rig, 0, NAMES)
    answer_and_write_xmm(rig, (0, 1, [OUTPUT_VALUE]))

    assert rig.call(GET_FAST, SELF_PARTITION, SELF_VP) == ONE_REP

    assert [xmm(rig, number) for number in (1, 3, 7)] == [OUTPUT_VALUE, b"\x33" * 16, b"\x77" * 16]


@pytest.mark.tlfs("REG-015")
@pytest.mark.parametrize("done", [0, 1], ids=["fails", "succeeds"])
def test_nor_does_kvm_with_those_of_the_exit(exits: Rig, done: int) -> None:
    """XMM0 to XMM5 of the exit are what KVM gives the vCPU, where the call succeeds."""
    reply = (0, 1, [OUTPUT_VALUE]) if done else (int(HvStatus.INVALID_PARAMETER), 0, [])
    answer_and_write_xmm(exits, reply)

    result = leave(exits, GET_FAST, SELF_PARTITION, SELF_VP, NAMES)

    assert xmm(exits, 3) == b"\x33" * 16 and xmm(exits, 7) == b"\x77" * 16
    block = bytes(exits.run.u8[EXIT_XMM : EXIT_XMM + 96])
    if done:
        assert result == ONE_REP
        assert (block[16:32], block[48:64]) == (OUTPUT_VALUE, b"\x33" * 16)


# ---- KVM_EXIT_HYPERV, whose instruction KVM ends itself -------------------------------------------------


def as_kvm_does(rig: Rig) -> list[int]:
    """KVM_RUN ends the instruction: the result into RAX, RIP behind it. By each: what RIP was before."""
    vcpu, seen = rig.vps[0].vcpu, []
    enter, fd, request = vcpu.run_call

    def run(fd: int, request: int) -> int:
        seen.append(rig.run.regs.rip)
        rig.run.regs.rax, rig.run.regs.rip = rig.run.u64[RESULT_U64], PAGE_GVA + len(VMCALL)
        return enter(fd, request)

    vcpu._bare_run_call = run, fd, request
    return seen


def test_kvm_ends_the_instruction_before_the_registers_are_those_that_were_written(exits: Rig) -> None:
    answer(exits, Code.HvCallNotifyLongSpinWait, lambda: DONE, rip=SENT_TO, rbx=WRITTEN)
    seen = as_kvm_does(exits)

    leave(exits, SPIN)

    regs = exits.run.regs
    assert len(seen) == 1
    assert (regs.rip, regs.rbx, regs.rax) == (SENT_TO, WRITTEN, 0)
    assert exits.run.u64[DIRTY_U64] & SYNC_REGS
    assert exits.run.immediate_exit


def test_a_call_to_be_made_again_by_exit_is_not_where_rip_was_moved(exits: Rig) -> None:
    answer(exits, Code.HvCallNotifyLongSpinWait, lambda: (AGAIN, 0, None), rip=SENT_TO, rax=WRITTEN)
    seen = as_kvm_does(exits)

    leave(exits, SPIN)

    assert len(seen) == 1
    assert (exits.run.regs.rip, exits.run.regs.rax) == (SENT_TO, WRITTEN)


def test_a_finished_call_of_which_nothing_was_written_is_kvm_s_to_end(exits: Rig) -> None:
    answer(exits, Code.HvCallNotifyLongSpinWait, lambda: DONE)
    seen = as_kvm_does(exits)

    assert leave(exits, SPIN) == 0

    assert seen == []
