# SPDX-License-Identifier: Apache-2.0
"""HvCallGetVpRegisters and HvCallSetVpRegisters over KVM's registers and the Hyper-V state (TLFS 7.10.1, 7.10.2).

| register | from |
|---|---|
| those that are synthetic MSRs | `vmm.hvmsr` |
| those that are CPUID leaves, clock frequencies | what the machine announces |
| general, control, segment, debug registers, the processor's MSRs | `register_access` |
| x87, MMX, XMM, YMM, XCR0 | `fpu_registers` |
| events in flight, activity | `event_registers` |
| local APIC | `apic_registers` |

Another VP's registers are read and written on its own thread (`errands`), a slice of the list at a time. What is left
is unknown here; `NOT_OFFERED` says of each why.

| fault | answer |
|---|---|
| partition other than SELF | INVALID_PARTITION_ID |
| no such VP | INVALID_VP_INDEX |
| VTL not enabled on the VP | INVALID_VTL_STATE |
| unknown register; one that this processor model lacks; a write to one that is only read | INVALID_PARAMETER |
| a synthetic MSR's register without its privilege | ACCESS_DENIED |
| a value that the register cannot hold | INVALID_REGISTER_VALUE |

Implements: REG-001, REG-002, REG-005, REG-006, REG-007, REG-015, REG-016
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from kvmapi import KvmError, Vcpu
from vmm.backend.hyperv import apic_registers, event_registers, fpu_registers, register_access
from vmm.backend.hyperv.errands import Errands
from vmm.backend.hyperv.register_access import MSRS, SYNTHETIC, Read, RegisterValueError, Write
from vmm.backend.vp import VirtualProcessor
from vmm.hv.constants import HV_PARTITION_ID_SELF, HV_VP_INDEX_SELF
from vmm.hv.cpuid import HvCpuidLeaf
from vmm.hv.inputs import (
    HV_INPUT_GET_VP_REGISTERS,
    HV_INPUT_SET_VP_REGISTERS,
    HV_INPUT_SWITCH_VIRTUAL_ADDRESS_SPACE,
)
from vmm.hv.registers import HvRegisterName
from vmm.hv.status import HvStatus
from vmm.hvcalls.register_values import Widths, settled
from vmm.hvmsr.state import HvOffer, HvState
from vmm.hypercall.call import AGAIN, DONE, CallInput, Reply, failed
from vmm.hypercall.outside import HypercallContext

VALUE_BYTES: Final = 16
_SUCCESS: Final = int(HvStatus.SUCCESS)
_VTL: Final = 0xF
_N = HvRegisterName

_CPUID: Final = {
    int(_N.HvRegisterHypervisorVersion): HvCpuidLeaf.HvCpuIdFunctionMsHvVersion,
    int(_N.HvRegisterPrivilegesAndFeaturesInfo): HvCpuidLeaf.HvCpuIdFunctionMsHvFeatures,
    int(_N.HvRegisterFeaturesInfo): HvCpuidLeaf.HvCpuIdFunctionMsHvEnlightenmentInformation,
    int(_N.HvRegisterImplementationLimitsInfo): HvCpuidLeaf.HvCpuIdFunctionMsHvImplementationLimits,
    int(_N.HvRegisterHardwareFeaturesInfo): HvCpuidLeaf.HvCpuIdFunctionMsHvHardwareFeatures,
    int(_N.HvRegisterCpuManagementFeaturesInfo): 0x4000_0007,
    int(_N.HvRegisterPasidFeaturesInfo): 0x4000_0008,
    int(_N.HV_REGISTER_SKIP_LEVEL_FEATURES_INFO): 0x4000_0009,
    int(_N.HvRegisterNestedVirtFeaturesInfo): 0x4000_000A,
    int(_N.HvRegisterIptFeaturesInfo): 0x4000_000B,
    int(_N.IsolationConfiguration): 0x4000_000C,
}
_HARDWARE: Final[dict[int, tuple[Read, Write | None]]] = (
    register_access.ACCESSORS | fpu_registers.ACCESSORS | event_registers.ACCESSORS | apic_registers.ACCESSORS
)
_CR3: Final = int(_N.HvX64RegisterCr3)
_NEVER_WRITTEN: Final = frozenset(
    {
        int(_N.HvX64RegisterTsc),
        int(_N.HvX64RegisterTscAdjust),
        int(_N.MsrMcUpdatePatchLevel),
        int(_N.HvX64RegisterIa32FeatureControl),
    }
)
"""All VPs and VTLs read the same TSC. The others KVM lets the VMM write where it would not let the guest."""

NOT_OFFERED: Final = {
    "with VTLs": ("HvRegisterVsm", "GuestVsmPartitionConfig", "HvX64RegisterCrIntercept"),
    "for a parent or VTL2, which stops VPs and hears of what they can take": (
        "HvRegisterExplicitSuspend",
        "HvRegisterInterceptSuspend",
        "HvRegisterDispatchSuspend",
        "HvRegisterInstructionEmulationHints",
        "HvRegisterDeliverabilityNotifications",
        "HvX64RegisterPendingDebugException",
        "HvRegisterPendingEvent1",
        "HvRegisterPendingEvent2",
        "HvRegisterPendingEvent3",
        "HvX64RegisterEmulatedTimer",
        "HvX64RegisterPmTimerAssist",
        "HvRegisterVpRootSignalCount",
        "VpConfig",
        "GuestSchedulerEvent",
        "RegisterPage",
    ),
    "of a hypervisor's guest's guests (nested virtualization)": (
        "HvX64RegisterIntermediate",
        "IntermediateCr3",
        "HvX64RegisterIa32Vmx",
        "HvX64RegisterAmdVm",
        "HvX64RegisterNested",
        "HvRegisterNestedVpIndex",
        "HV_REGISTER_NESTED",
    ),
    "of isolated partitions": (
        "HvX64RegisterGhcb",
        "HvX64RegisterSev",
        "HvRegisterIsolationCapabilities",
    ),
    "of features that CPUID does not announce": (
        "HvRegisterPowerState",
        "HvRegisterDebugDeviceOptions",
        "HvRegisterMemoryZeroingControl",
        "HvRegisterCpuManagementVersion",
        "HvRegisterStats",
        "HvX64RegisterPerf",
        "HvX64RegisterPmc",
        "HvX64RegisterFixedCt",
        "HvX64RegisterDsArea",
        "HvX64RegisterPebs",
        "HvX64RegisterRtit",
        "HvX64RegisterLbr",
        "HvX64RegisterLer",
        "HvX64RegisterSsp",
    ),
    "with a meaning that no document gives, or that the TSC page gives": (
        "HvRegisterReferenceTscSequence",
        "HvX64RegisterTscVirtualOffset",
        "TscVirtualMultiplier",
        "Available1",
    ),
    "of the local APIC, write-only": ("HvX64RegisterApicEoi", "HvX64RegisterApicSelfIpi"),
}
"""Reason -> how the names of the registers begin that nobody can read or write here."""

_Get = Callable[[int, int, Vcpu], int]
_Set = Callable[[int, int, Vcpu, int], None]


class RegisterOwner(HypercallContext, Protocol):
    """A caller with its vCPU. Used on the VP's thread."""

    @property
    def vp(self) -> int:
        """VP index."""

    @property
    def vcpu(self) -> Vcpu:
        """Its vCPU, whose `run.regs` and `run.sregs` are valid."""


class RegisterError(Exception):
    """A register cannot be read or written: the status for the guest."""

    def __init__(self, status: HvStatus) -> None:
        super().__init__(status)
        self.status = status


def constants(offer: HvOffer, leaves: Mapping[int, int]) -> dict[int, int]:
    """Registers that never change: CPUID leaves (EAX, EBX, ECX, EDX as one number, EAX lowest) and frequencies."""
    found = {register: leaves.get(int(leaf), 0) for register, leaf in _CPUID.items()}
    if offer.features.FrequencyRegsAvailable:
        found[int(_N.HvRegisterProcessorClockFrequency)] = offer.tsc_hz
        found[int(_N.HvRegisterInterruptClockFrequency)] = offer.apic_hz
    return found


class RegisterCalls:
    """The handlers. Thread-safe; see the package for threads."""

    def __init__(
        self,
        state: HvState,
        leaves: Mapping[int, int],
        processors: Sequence[VirtualProcessor],
        errands: Errands,
        widths: Widths,
    ) -> None:
        """leaves: CPUID leaf -> EAX, EBX, ECX, EDX as one 128-bit number, EAX lowest."""
        self._state = state
        self._processors = processors
        self._errands = errands
        self._widths = widths
        self._getters: dict[int, _Get] = {}
        self._setters: dict[int, _Set] = {}
        known = constants(state.offer, leaves)
        missing = tuple(start for starts in NOT_OFFERED.values() for start in starts)
        for name in _N:
            if not name.name.startswith(missing):
                self._add(name, known.get(int(name)))

    def _add(self, name: HvRegisterName, constant: int | None) -> None:
        register = int(name)
        read, write = _HARDWARE.get(register, (None, None))
        msr = MSRS.get(register, 0)
        if constant is not None:
            self._getters[register] = lambda vp, vtl, vcpu: constant
        elif msr in SYNTHETIC:
            if name.access.readable:
                self._getters[register] = _msr_getter(self._state, msr)
            if name.access.writable:
                self._setters[register] = lambda vp, vtl, vcpu, value: self._write_msr(vp, vtl, msr, value)
        if read is not None and name.access.readable:
            self._getters[register] = _getter(read)
        if write is not None and name.access.writable and register not in _NEVER_WRITTEN:
            self._setters[register] = _setter(write, read)

    @property
    def readable(self) -> frozenset[int]:
        """Registers that can be read, on a processor model that has them."""
        return frozenset(self._getters)

    @property
    def writable(self) -> frozenset[int]:
        """Registers that can be written, on a processor model that has them."""
        return frozenset(self._setters)

    # ---- handlers ------------------------------------------------------------------------------------

    def get(self, context: RegisterOwner, call: CallInput[HV_INPUT_GET_VP_REGISTERS, int]) -> Reply:
        """Values of registers, up to the first that cannot be had."""
        (partition, vp, input_vtl, _), names, _ = call
        vtl = input_vtl & _VTL
        if vp == HV_VP_INDEX_SELF and partition == HV_PARTITION_ID_SELF and vtl == context.vtl:
            return self._get(
                context.vp, vtl, context.vcpu, names
            )  # most calls: nothing about them can be wrong
        refused, vp = self._target(context, partition, vp, vtl)
        if refused:
            return failed(refused)
        if vp == context.vp:
            return self._get(vp, vtl, context.vcpu, names)
        reply = self._errands.ask(context.vp, vp, lambda: self._get(vp, vtl, self._away(vp), names))
        return (AGAIN, 0, ()) if reply is None else reply

    def set(self, context: RegisterOwner, call: CallInput[HV_INPUT_SET_VP_REGISTERS, Any]) -> Reply:
        """Write registers, up to the first that refuses its value."""
        (partition, vp, input_vtl, _), elements, _ = call
        vtl = input_vtl & _VTL
        refused, vp = self._target(context, partition, vp, vtl)
        if refused:
            return failed(refused)
        if vp == context.vp:
            return self._set(vp, vtl, context.vcpu, elements)
        reply = self._errands.ask(context.vp, vp, lambda: self._set(vp, vtl, self._away(vp), elements))
        return (AGAIN, 0, None) if reply is None else reply

    def switch_address_space(
        self, context: RegisterOwner, call: CallInput[HV_INPUT_SWITCH_VIRTUAL_ADDRESS_SPACE, Any]
    ) -> Reply:
        """HvCallSwitchVirtualAddressSpace: MOV to CR3 by hypercall.

        Implements: TLB-006
        """
        value = settled(_CR3, call.header.AddressSpace, self._widths)
        if value is None:
            return failed(HvStatus.INVALID_PARAMETER)
        try:
            self._setters[_CR3](context.vp, context.vtl, context.vcpu, value)
        except RegisterError:
            return failed(HvStatus.INVALID_PARAMETER)
        return DONE

    def _target(
        self, context: RegisterOwner, partition: int, vp: int, vtl: int
    ) -> tuple[HvStatus | None, int]:
        """The VP that is meant, and why not."""
        if partition != HV_PARTITION_ID_SELF:
            return HvStatus.INVALID_PARTITION_ID, 0
        if vp == HV_VP_INDEX_SELF:
            vp = context.vp
        elif vp >= len(self._processors):
            return HvStatus.INVALID_VP_INDEX, 0
        if self._state.vp(vp, vtl) is None:
            return HvStatus.INVALID_VTL_STATE, 0
        return None, vp

    # ---- on the target's thread ----------------------------------------------------------------------

    def _away(self, vp: int) -> Vcpu:
        """A VP's vCPU whose synchronised registers may be older than KVM's: it has not run since a reset."""
        vcpu = self._processors[vp].vcpu
        register_access.refresh(vcpu)
        return vcpu

    def _get(self, vp: int, vtl: int, vcpu: Vcpu, names: Sequence[int]) -> Reply:
        values: list[bytes] = []
        getters = self._getters
        try:
            for register in names:  # one by one: those before the bad one are the answer
                getter = getters.get(register)
                if getter is None:
                    raise RegisterError(HvStatus.INVALID_PARAMETER)
                value = getter(vp, vtl, vcpu)
                values.append(value.to_bytes(VALUE_BYTES, "little"))
        except RegisterError as error:
            return failed(error.status, len(values), values)
        return _SUCCESS, len(values), values

    def _set(self, vp: int, vtl: int, vcpu: Vcpu, elements: Sequence[Any]) -> Reply:
        done = 0
        try:
            for element in elements:
                widths = self._widths.under(vcpu.run.sregs.cr4)
                setter = self._setters.get(element.Name)
                if setter is None:
                    raise RegisterError(HvStatus.INVALID_PARAMETER)
                value = settled(element.Name, int.from_bytes(element.Value, "little"), widths)
                if value is None:
                    raise RegisterError(HvStatus.INVALID_REGISTER_VALUE)
                setter(vp, vtl, vcpu, value)
                done += 1
        except RegisterError as error:
            return failed(error.status, done)
        return _SUCCESS, done, None

    def _write_msr(self, vp: int, vtl: int, msr: int, value: int) -> None:
        state = self._state.vp(vp, vtl)
        status = HvStatus.ACCESS_DENIED if state is None else state.msrs.put(msr, value)
        if status != HvStatus.SUCCESS:
            raise RegisterError(status)


def _msr_getter(state: HvState, msr: int) -> _Get:
    find = state.vp

    def get(vp: int, vtl: int, vcpu: Vcpu) -> int:
        found = find(vp, vtl)
        read = None if found is None else found.msrs.values.get(msr)
        if read is None:
            raise RegisterError(HvStatus.ACCESS_DENIED)
        return read()

    return get


def _getter(read: Read) -> _Get:
    def get(vp: int, vtl: int, vcpu: Vcpu) -> int:
        try:
            return read(vcpu)
        except KvmError as error:  # an MSR that this processor model does not have
            raise RegisterError(HvStatus.INVALID_PARAMETER) from error

    return get


def _setter(write: Write, read: Read | None) -> _Set:
    def put(vp: int, vtl: int, vcpu: Vcpu, value: int) -> None:
        try:
            write(vcpu, value)
        except RegisterValueError as error:
            raise RegisterError(HvStatus.INVALID_REGISTER_VALUE) from error
        except KvmError as error:  # KVM checks what the processor would check
            there = read is None or _readable(read, vcpu)
            status = HvStatus.INVALID_REGISTER_VALUE if there else HvStatus.INVALID_PARAMETER
            raise RegisterError(status) from error

    return put


def _readable(read: Read, vcpu: Vcpu) -> bool:
    try:
        read(vcpu)
    except KvmError:
        return False
    return True
