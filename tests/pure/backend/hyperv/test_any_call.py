# SPDX-License-Identifier: Apache-2.0
"""The handlers of a whole machine, whatever a guest passes to them: no exception, a status that the TLFS has.

`tests/pure/hypercall/test_any_input.py` does this for the calling convention, with handlers of a test. Here the
handlers are the machine's own, over a KVM that keeps what it is given. `HYPERCALL_INPUTS` sets the number of calls.
"""

from __future__ import annotations

import ctypes
import os
import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmapi.uapi import kvm as k
from kvmapi.uapi import x86
from tests.pure.backend.hyperv.test_caller import GUEST_OS_ID, HYPERCALL, INPUT, OUTPUT, PAGE_GPA, Rig, a_rig
from tests.pure.hvcalls.contexts import context, opentmk_context, real_mode_context
from tests.pure.hypercall import any_input
from vmm.backend.hyperv import register_access
from vmm.backend.hyperv.flags import EVERYTHING
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.hypercall_words import HV_HYPERCALL_RESULT
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus
from vmm.hypercall.call import CallKind
from vmm.hypercall.calls import CALLS_BY_CODE

INPUTS = int(os.environ.get("HYPERCALL_INPUTS", "12000")) // 12
CODES = sorted(EVERYTHING.codes)
FREE = settings(
    max_examples=max(INPUTS // len(CODES), 1),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SELF_PARTITION, SELF_VP = (1 << 64) - 1, 0xFFFF_FFFE
PAGE = 4096

USUAL = [0, 1, 2, 3, 0xF, 0x10, 0xFF, 0x202, 0x1000, 0x9000, SELF_VP, SELF_PARTITION, 1 << 31, 1 << 63]
PARTITIONS = [SELF_PARTITION] * 15 + [0]
VPS = [SELF_VP] * 4 + [0, 1, 1, 1, 1, 2, 0xFFFF_FFFF]
VTLS = [0] * 12 + [0x10, 0x11, 0x20]
REGISTERS = [int(name) for name in HvRegisterName]
CONTEXTS = [context().pack(), context().pack(), opentmk_context().pack(), real_mode_context().pack()]


def fresh(rig: Rig) -> None:
    """The caller in 64-bit ring 0 again, with its hypercall page, whatever earlier calls made of it."""
    sregs = x86.kvm_sregs(cr0=1, efer=1 << 10)
    sregs.cs.l = 1
    for vp in rig.vps:
        vp.vcpu.set_sregs(sregs)
    register_access.copy(rig.run.sregs, sregs)
    rig.vps[1].vcpu.set_mp_state(k.KVM_MP_STATE_UNINITIALIZED)
    rig.ram.fill(INPUT, PAGE)
    rig.write_msr(GUEST_OS_ID, 1)
    rig.write_msr(HYPERCALL, PAGE_GPA | 1)
    rig.fake.calls.clear()


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """Whatever the guest reports is no surprise, and the second VP does at once what it is kicked for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Rig, "unexpected", lambda self, line: None)  # a crash report
        with a_rig() as made:
            patched.setattr(made.vps[1], "kick", made.vps[1].after_kick)  # no thread runs it here
            yield made


class Draw(random.Random):
    """What a guest may pass, from one number: quicker than to draw each field."""

    def number(self) -> int:
        return self.choice(USUAL) if self.random() < 0.7 else self.getrandbits(64)

    def header(self) -> bytes:
        """Partition, VP, VTL: as most calls begin."""
        return struct.pack("<QIB3x", self.choice(PARTITIONS), self.choice(VPS), self.choice(VTLS))

    def register(self) -> int:
        return self.choice(REGISTERS) if self.random() < 0.95 else self.getrandbits(32)

    def block(self, code: int, reps: int) -> bytes:
        """A parameter block that mostly gets far."""
        match code:
            case Code.HvCallGetVpRegisters:
                return self.header() + b"".join(struct.pack("<I", self.register()) for _ in range(reps))
            case Code.HvCallSetVpRegisters:
                elements = (
                    (self.register(), self.number(), self.choice([0, self.number()])) for _ in range(reps)
                )
                return self.header() + b"".join(struct.pack("<I12xQQ", *element) for element in elements)
            case Code.HvCallTranslateVirtualAddress | Code.HvCallTranslateVirtualAddressEx:
                flags = self.choice([self.getrandbits(6), self.getrandbits(12), self.number()])
                return self.header()[:16] + struct.pack("<QQ", flags, self.choice([3, 0x1000, self.number()]))
            case Code.HvCallStartVirtualProcessor:
                made = bytearray(self.choice(CONTEXTS))
                for _ in range(self.randrange(3)):
                    at = self.randrange(0, len(made) - 8)
                    made[at : at + 8] = struct.pack("<Q", self.number())
                return struct.pack("<QIB3x", self.choice(PARTITIONS), self.choice([1] * 9 + VPS), 0) + bytes(
                    made
                )
            case _:
                words = b"".join(struct.pack("<Q", self.number()) for _ in range(self.randrange(12)))
                return self.choice([self.header(), b""]) + words


def put_xmm(rig: Rig, data: bytes) -> None:
    """XMM0 and those behind it."""
    area = x86.kvm_xsave()
    ctypes.memmove(ctypes.addressof(area) + 160, data, len(data))
    ctypes.c_uint8.from_address(ctypes.addressof(area) + 512).value = 2
    rig.vps[0].vcpu.set_xsave(area)


@pytest.mark.parametrize("code", CODES, ids=lambda code: Code(code).name)
def test_no_input_makes_a_handler_fail(rig: Rig, code: Code) -> None:
    rep = CALLS_BY_CODE[code].kind is CallKind.REP
    output_size = CALLS_BY_CODE[code].output_size

    @FREE
    @given(seed=st.integers(0, (1 << 64) - 1))
    def check(seed: int) -> None:
        any_input.made += 1
        draw = Draw(seed)
        reps, fast = draw.randint(1, 5) if rep else 0, draw.random() < 0.3
        fresh(rig)
        errors = rig.hyperv.dispatcher.internal_errors
        block = draw.block(code, reps).ljust(112, b"\0")
        rig.ram.write(INPUT, block)
        rig.ram.fill(OUTPUT, PAGE, 0xEE)
        if fast:
            put_xmm(rig, block[16:112])
            result = rig.call(code | reps << 32 | 1 << 16, *struct.unpack_from("<QQ", block))
        else:
            result = rig.call(code | reps << 32, INPUT, OUTPUT)

        assert rig.hyperv.dispatcher.internal_errors == errors
        if rig.run.regs.rip & 0xFFF == 0:  # completed: not made again, not refused, RIP not set by the call
            HvStatus(HV_HYPERCALL_RESULT(result).Status)  # has a name
        if code in (Code.HvCallGetVpRegisters, Code.HvCallTranslateVirtualAddress):
            written = 0 if fast else output_size * (reps if rep else 1)
            assert rig.ram.read(OUTPUT + written, PAGE - written) == b"\xee" * (PAGE - written)

    check()
