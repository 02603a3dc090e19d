# SPDX-License-Identifier: Apache-2.0
"""A partition with VSM whose backend only takes notes: pages, MSRs and registers are plain Python values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.pure.hypercall.fakes import ALL_PRIVILEGES, Memory, Registers, Xmm, control
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.constants import HV_PARTITION_ID_SELF
from vmm.hv.hypercall_words import HV_INPUT_VTL
from vmm.hv.inputs import (
    HV_ENABLE_PARTITION_VTL_FLAGS,
    HV_INPUT_ENABLE_PARTITION_VTL,
    HV_INPUT_ENABLE_VP_VTL,
    HV_INPUT_GET_VP_REGISTERS,
    HV_INPUT_SET_VP_REGISTERS,
    HV_INPUT_START_VIRTUAL_PROCESSOR,
    HV_REGISTER_ASSOC,
)
from vmm.hv.register_bits import HV_X64_SEGMENT_ATTRIBUTES
from vmm.hv.status import HvStatus
from vmm.hv.vp_context import (
    HV_INITIAL_VP_CONTEXT,
    HV_X64_SEGMENT_REGISTER,
    HV_X64_TABLE_REGISTER,
)
from vmm.hypercall.call import Reply
from vmm.hypercall.convention import CallerMode, Outcome
from vmm.hypercall.dispatcher import Dispatcher
from vmm.vsm.actions import SwitchVtl
from vmm.vsm.calls import handlers
from vmm.vsm.offer import VsmOffer
from vmm.vsm.outside import Protections, VpRegisters
from vmm.vsm.partition import VsmPartition

SELF = HV_PARTITION_ID_SELF
OFFSETS = 0x28_00F
"""VTL call at 0xF, VTL return at 0x28."""

NO_TABLE = HV_X64_TABLE_REGISTER(0, 0)
FLAT = HV_X64_SEGMENT_REGISTER(0, 0xFFFF_FFFF, 0x10, HV_X64_SEGMENT_ATTRIBUTES(0xC093))
CODE = HV_X64_SEGMENT_REGISTER(0, 0xFFFF_FFFF, 8, HV_X64_SEGMENT_ATTRIBUTES(0xA09B))
TASK = HV_X64_SEGMENT_REGISTER(0, 0, 0x80, HV_X64_SEGMENT_ATTRIBUTES(0x008B))
NO_LDT = HV_X64_SEGMENT_REGISTER(0, 0, 0, HV_X64_SEGMENT_ATTRIBUTES(0))
CONTEXT = HV_INITIAL_VP_CONTEXT(
    0x20_0000, 0x30_0000, 2, CODE, FLAT, FLAT, NO_LDT, NO_LDT, FLAT, TASK, NO_LDT, NO_TABLE, NO_TABLE,
    0x500, 0x8001_0001, 0x10_0000, 0x220, 0,
)  # fmt: skip
"""What kvm-unit-tests' hyperv_vsm gives a new VTL: 64-bit mode, FS, GS and LDTR absent, PAT 0."""
SETTLED_CONTEXT = CONTEXT.replace(Cr0=0x8001_0011)
"""The same as a processor holds it: CR0.ET is always set."""


@dataclass
class Page:
    """A VP assist page."""

    enabled: bool = True
    entry_reason: int = 0
    registers: tuple[int, int] = (0x1111, 0x2222)
    registers_x86: tuple[int, int, int] = (0x11, 0x22, 0x33)
    asserted: bool = False

    def set_entry_reason(self, reason: int) -> None:
        if self.enabled:
            self.entry_reason = reason

    def return_registers(self) -> tuple[int, int]:
        return self.registers

    def return_registers_x86(self) -> tuple[int, int, int]:
        return self.registers_x86

    @property
    def vina_asserted(self) -> bool:
        return self.enabled and self.asserted

    @vina_asserted.setter
    def vina_asserted(self, value: bool) -> None:
        self.asserted = value and self.enabled


@dataclass
class Msrs:
    """Synthetic MSRs: any but those in `faults`, with any value but those in `refused`."""

    values: dict[int, int] = field(default_factory=dict)
    faults: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)

    def value(self, msr: int) -> int | None:
        return None if msr in self.faults else self.values.get(msr, 0)

    def put(self, msr: int, value: int) -> HvStatus:
        if msr in self.faults:
            return HvStatus.ACCESS_DENIED
        if value in self.refused:
            return HvStatus.INVALID_REGISTER_VALUE
        self.values[msr] = value
        return HvStatus.SUCCESS


class Vcpus:
    """A VP's vCPUs."""

    def __init__(self, services: Services, vp: int) -> None:
        self._services = services
        self._vp = vp

    def read(self, vtl: int, register: int) -> int | None:
        if register in self._services.lacking:
            return None
        return self._services.registers.get((self._vp, vtl, register), 0)

    def write(self, vtl: int, register: int, value: int) -> HvStatus:
        if register in self._services.lacking:
            return HvStatus.INVALID_PARAMETER
        if value in self._services.refused:
            return HvStatus.INVALID_REGISTER_VALUE
        self._services.registers[self._vp, vtl, register] = value
        return HvStatus.SUCCESS


class Services:
    """The backend."""

    def __init__(self) -> None:
        self.pages: dict[tuple[int, int], Page] = {}
        self.msrs: dict[tuple[int, int], Msrs] = {}
        self.registers: dict[tuple[int, int, int], int] = {}
        self.contexts: dict[tuple[int, int], HV_INITIAL_VP_CONTEXT] = {}
        self.lacking: set[int] = set()
        self.refused: set[int] = set()
        self.busy: set[int] = set()
        self.visits: list[tuple[int, int]] = []
        self.woken: list[int] = []
        self.answer: int = HvStatus.SUCCESS
        self.hidden_ports = range(0x40, 0x44)
        self.told: list[str] = []
        self.msr_answer = HvStatus.SUCCESS

    def add_vtl(self, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        if self.answer == HvStatus.SUCCESS:
            self.contexts[vp, vtl] = context
        return self.answer

    def start_vtl(self, caller_vp: int, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        return self.add_vtl(vp, vtl, context)

    def assist_page(self, vp: int, vtl: int) -> Page:
        return self.pages.setdefault((vp, vtl), Page())

    def synthetic_msrs(self, vp: int, vtl: int) -> Msrs:
        return self.msrs.setdefault((vp, vtl), Msrs())

    def code_page_offsets(self, vtl: int, bits_64: bool) -> int:
        return OFFSETS if bits_64 else OFFSETS + 1

    def constant_register(self, register: int) -> int | None:
        return 0xCAFE if register == 0x200 else None

    def visit(self, caller_vp: int, vp: int, work: Callable[[VpRegisters], Reply]) -> Reply | None:
        self.visits.append((caller_vp, vp))
        return None if vp in self.busy else work(Vcpus(self, vp))

    def ports_can_be_seen(self, first: int, last: int) -> bool:
        return not any(port in self.hidden_ports for port in range(first, last + 1))

    def ports_changed(self, caller_vp: int) -> bool:
        self.told.append("ports")
        return not self.busy

    def msrs_changed(self) -> HvStatus:
        self.told.append("msrs")
        return self.msr_answer

    def wake(self, vp: int) -> None:
        self.woken.append(vp)


@dataclass
class VpCaller:
    """A VP in one VTL, making hypercalls."""

    world: World
    vp: int
    vtl: int
    privileges: int = ALL_PRIVILEGES
    hypercalls_enabled: bool = True
    bits_64: bool = True
    switch: SwitchVtl | None = None
    memory: Memory = field(default_factory=Memory)
    xmm: Xmm = field(default_factory=Xmm)
    registers: Registers = field(default_factory=Registers)

    def intercept_memory_access(self, gpa: int, write: bool) -> None:
        raise AssertionError("no memory is protected here")

    # ---- hypercalls ----------------------------------------------------------------------------------

    def _issue(self, word: int) -> Outcome:
        mode = CallerMode.BITS_64 if self.bits_64 else CallerMode.BITS_32
        self.registers.set_input(mode, word, 0x1000, 0x3000)
        return self.world.dispatcher.dispatch(self, self.registers, mode)

    def status(self, code: Code, data: bytes, reps: int = 0) -> int:
        """The status of a call with its input in memory; -1 when it has to be made again."""
        self.memory.write(0x1000, data)
        outcome = self._issue(control(code, RepCount=reps))
        if outcome is Outcome.RETRY:
            return -1
        assert outcome is Outcome.COMPLETED, outcome
        return int(self.registers.result(CallerMode.BITS_64 if self.bits_64 else CallerMode.BITS_32).Status)

    @property
    def reps_done(self) -> int:
        return int(self.registers.result(CallerMode.BITS_64).RepsCompleted)

    def enable_partition_vtl(self, vtl: int, flags: int = 0, partition: int = SELF) -> int:
        block = HV_INPUT_ENABLE_PARTITION_VTL(partition, vtl, HV_ENABLE_PARTITION_VTL_FLAGS(flags))
        return self.status(Code.HvCallEnablePartitionVtl, block.pack())

    def enable_vp_vtl(
        self, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT = CONTEXT, partition: int = SELF
    ) -> int:
        block = HV_INPUT_ENABLE_VP_VTL(partition, vp, vtl, context)
        return self.status(Code.HvCallEnableVpVtl, block.pack())

    def start_vp(self, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT = CONTEXT) -> int:
        block = HV_INPUT_START_VIRTUAL_PROCESSOR(SELF, vp, vtl, context)
        return self.status(Code.HvCallStartVirtualProcessor, block.pack())

    def get(self, *names: int, vp: int = 0xFFFF_FFFE, vtl: int | None = None, partition: int = SELF) -> int:
        """The status; values are in the output page."""
        header = HV_INPUT_GET_VP_REGISTERS(partition, vp, input_vtl(vtl))
        data = header.pack() + b"".join(int(name).to_bytes(4, "little") for name in names)
        return self.status(Code.HvCallGetVpRegisters, data, len(names))

    def values(self, count: int) -> list[int]:
        page = self.memory.read(0x3000, 16 * count)
        return [int.from_bytes(page[at : at + 16], "little") for at in range(0, 16 * count, 16)]

    def read(self, name: int, **target: Any) -> int:
        """A register that can be read."""
        assert self.get(name, **target) == HvStatus.SUCCESS
        return self.values(1)[0]

    def set(self, *pairs: tuple[int, int], vp: int = 0xFFFF_FFFE, vtl: int | None = None) -> int:
        header = HV_INPUT_SET_VP_REGISTERS(SELF, vp, input_vtl(vtl))
        elements = [HV_REGISTER_ASSOC(int(name), value.to_bytes(16, "little")) for name, value in pairs]
        data = header.pack() + b"".join(element.pack() for element in elements)
        return self.status(Code.HvCallSetVpRegisters, data, len(pairs))

    def switch_by(self, code: Code, value: int = 0) -> SwitchVtl | None:
        """VTL call or return; None when it ended in #UD. The caller is in another VTL then."""
        if self.bits_64:
            self.registers.rcx, self.registers.rax = int(code), value
        else:
            self.registers.rax, self.registers.rcx = int(code), value
        mode = CallerMode.BITS_64 if self.bits_64 else CallerMode.BITS_32
        outcome = self.world.dispatcher.dispatch(self, self.registers, mode)
        if outcome is Outcome.INVALID_OPCODE:
            return None
        assert outcome is Outcome.VTL_SWITCH
        assert self.switch is not None
        return self.switch

    def call(self) -> SwitchVtl | None:
        return self.switch_by(Code.HvCallVtlCall)

    def vtl_return(self, value: int = 1) -> SwitchVtl | None:
        return self.switch_by(Code.HvCallVtlReturn, value)


def input_vtl(vtl: int | None) -> HV_INPUT_VTL:
    """A target VTL, or the caller's own."""
    return HV_INPUT_VTL(0) if vtl is None else HV_INPUT_VTL.make(TargetVtl=vtl, UseTargetVtl=1)


class World:
    """A partition, its backend, and callers on its VPs."""

    def __init__(self, vps: int = 2, protections: Protections | None = None, **offer: Any) -> None:
        self.services = Services()
        self.partition = VsmPartition(vps, VsmOffer(**offer), self.services, protections)
        self.rebuild()

    def rebuild(self) -> None:
        """Hypercalls act on the partition that is there now."""
        calls: dict[int, Callable[..., Any]] = handlers(self.partition)
        self.dispatcher: Dispatcher[Any] = Dispatcher(calls)

    def caller(self, vp: int = 0, **fields: Any) -> VpCaller:
        """The VP in its active VTL."""
        return VpCaller(self, vp, self.partition.vps[vp].active, **fields)

    def enable(self, *vtls: int, vps: tuple[int, ...] = (0,)) -> World:
        """Enable VTLs for the partition and, first of them first, on VPs: VP 0 by itself, others from there."""
        for vtl in vtls:
            caller = self.caller()
            assert caller.enable_partition_vtl(vtl) == HvStatus.SUCCESS
            assert caller.enable_vp_vtl(0, vtl) == HvStatus.SUCCESS
            self.enter(0, vtl)
            for vp in vps:
                if vp:
                    assert self.caller().enable_vp_vtl(vp, vtl) == HvStatus.SUCCESS
        while self.partition.vps[0].active:
            self.leave(0)
        return self

    def enter(self, vp: int, vtl: int) -> None:
        """Let an interrupt bring a VP into a VTL above its active one."""
        step = self.partition.vps[vp].next_step(1 << vtl, 0)
        assert isinstance(step, SwitchVtl) and step.target == vtl

    def leave(self, vp: int) -> None:
        """A fast VTL return."""
        assert self.partition.vps[vp].vtl_return(1, bits_64=True) is not None
