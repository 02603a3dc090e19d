# SPDX-License-Identifier: Apache-2.0
"""`Vtls`: the VTLs of one machine on KVM: their VMs, the vCPUs of each VP, and who runs.

It is what `vmm.vsm.partition` asks of a backend (`vmm.vsm.outside.VsmServices`), what each VP's scheduler needs
(`scheduler.Around`), and what interrupts (`vmm.backend.hyperv.services.HigherVtls`) and address spaces
(`vmm.backend.hyperv.address_spaces.VtlVcpus`) have to know of VTLs above 0.

Life: made with VTL0's vCPUs, VPs not started; `reset` with all VPs frozen; `close` when no VP runs any more.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from kvmapi import KvmError, Vcpu, Vm
from kvmapi.uapi import kvm as k
from vmm.backend.emulation.emulator import Emulator
from vmm.backend.hyperv import page_code, starts
from vmm.backend.hyperv.auto_eoi import AutoEoi
from vmm.backend.hyperv.caller import Caller
from vmm.backend.hyperv.errands import Errands
from vmm.backend.hyperv.local_apic import KvmLocalApic, msi_address, signal
from vmm.backend.partition import VtlVm
from vmm.backend.vp import Handler, VirtualProcessor
from vmm.backend.vsm import startup_signals
from vmm.backend.vsm.apic_timer import ApicTimer
from vmm.backend.vsm.intercepts import Intercepts
from vmm.backend.vsm.ipi_watch import IpiWatch
from vmm.backend.vsm.kernel_wait import KernelWait
from vmm.backend.vsm.port_exits import VtlPorts
from vmm.backend.vsm.scheduler import VpScheduler, VtlVcpu
from vmm.backend.vsm.shared_msrs import SharedMsrs
from vmm.backend.vsm.shared_state import SharedState
from vmm.backend.vsm.startup import Startup
from vmm.backend.vsm.startup_signals import StartupSignals
from vmm.backend.vsm.vp_registers import OwnRegisters
from vmm.backend.vsm.waits import VtlWaits
from vmm.backend.vsm.watched_accesses import WatchedAccesses
from vmm.hv.status import HvStatus
from vmm.hv.vp_context import HV_INITIAL_VP_CONTEXT
from vmm.hvcalls.vp_sets import members
from vmm.hvmsr.outside import LocalApic
from vmm.hvmsr.state import HvState, HvVpState
from vmm.hypercall.call import AGAIN, Reply
from vmm.hypercall.outside import ProcessorMemory
from vmm.outside import Clock
from vmm.vsm.memory import report
from vmm.vsm.offer import VsmOffer
from vmm.vsm.outside import AssistPage, SyntheticMsrs, VpRegisters
from vmm.vsm.partition import VsmPartition
from vmm.vsm.protections import MemoryProtections

_log = logging.getLogger(__name__)

VTL0: Final = 0
_SPIV: Final = 0xF0
_SPIV_ENABLED: Final = 1 << 8


@dataclass(frozen=True)
class Parts:
    """What the VTLs are built from.

    vm: VTL0's. hides_port: whether its KVM decodes a port itself. watch_ports: see `interface.Machine`.
    memory: with the rights of a VTL. make_vm: a further VTL's KVM VM over the same memory, with local APICs only.
    add_vcpu: the vCPU of a VP in it, as the machine's others are. connect: the Hyper-V state and hypercalls of a VTL on
    a VP. read_tsc: the guest's TSC, None where it cannot be known.
    """

    vm: Vm
    processors: Sequence[VirtualProcessor]
    apic_ids: Sequence[int]
    memory: Callable[[int], ProcessorMemory]
    clock: Clock
    state: HvState
    errands: Errands
    constants: Mapping[int, int]
    make_vm: Callable[[int], VtlVm]
    add_vcpu: Callable[[VtlVm, int], Vcpu]
    connect: Callable[[VirtualProcessor, int, Vcpu], Caller]
    hides_port: Callable[[int], bool]
    watch_ports: Callable[[bytes | None], None]
    read_tsc: Callable[[], int] | None
    tsc_khz: int
    has_xcr0: bool
    bus_cycle_ns: int
    signals: StartupSignals
    wait_in_kernel: bool


class Vtls:
    """See the module. Thread-safe where it does not say whose thread it is."""

    def __init__(self, parts: Parts, offer: VsmOffer, protections: MemoryProtections | None = None) -> None:
        """The Hyper-V state of VTL0 is there. `attach` follows."""
        self._parts = parts
        self._offer = offer
        self._lock = threading.Lock()
        self._refused: set[tuple[int, int]] = set()
        self._vms: dict[int, VtlVm] = {}
        self._vcpus: dict[tuple[int, int], Vcpu] = {}
        """By VP and VTL above 0: also those whose VTL is not enabled yet, since its context was refused."""
        self._auto_eois: list[dict[int, AutoEoi]] = [{} for _ in parts.processors]
        self._addresses = [msi_address(apic_id) for apic_id in parts.apic_ids]
        self.partition = VsmPartition(len(parts.processors), offer, self, protections)
        vps, kicks = self.partition.vps, [each.kick for each in parts.processors]
        self._waits: VtlWaits = IpiWatch(vps, kicks, parts.clock)
        if parts.wait_in_kernel:
            stay_out = [each.ask_to_stay_out for each in parts.processors]
            self._waits = KernelWait(vps, kicks, stay_out, parts.clock)
        parts.errands.before_work = self.recall
        self._startup = Startup(self.partition, parts.processors, parts.signals)
        self.shared_msrs = [SharedMsrs(processor) for processor in parts.processors]
        self.schedulers: list[VpScheduler] = []
        self.intercepts = Intercepts(self.partition, parts.state, parts.memory)
        table = self.partition.intercepts
        self._watched = WatchedAccesses(table, parts.errands, offer.maximum_vtl, parts.watch_ports)

    def attach(self, callers: Sequence[Caller]) -> None:
        """callers: VTL0's, by VP. Before the VPs start."""
        parts = self._parts
        self.schedulers = [
            VpScheduler(
                processor,
                self.partition.vps[processor.index],
                SharedState(dr6_shared=self._offer.dr6_shared, has_xcr0=parts.has_xcr0),
                VtlVcpu(
                    VTL0,
                    caller.vcpu,
                    processor.handlers,
                    processor.emulator,
                    self._timer(processor, caller.vcpu),
                    self._ports(processor, VTL0, caller.vcpu, processor.handlers),
                ),
                self,
                self._waits,
            )
            for processor, caller in zip(parts.processors, callers, strict=True)
        ]
        self.intercepts.attach(self.schedulers)
        for caller in callers:
            self._adopt(caller)
            self._limit(parts.processors[caller.vp].emulator, caller.vp, VTL0)
            caller.processor.before_stop = partial(self.recall, caller.vp)

    def _adopt(self, caller: Caller) -> None:
        vp, vtl = caller.vp, caller.vtl
        caller.on_refused_parameter = partial(self.intercepts.hypercall_parameter, vp, vtl)
        self._watched.adopt(caller, partial(self.intercepts.msr, vp, vtl))
        caller.on_switch = self.schedulers[caller.vp].switch
        caller.write_processor_msr = partial(self._write_shared_msr, caller.vp)

    def _emulator(self, vp: int, vtl: int, vcpu: Vcpu) -> Emulator:
        emulator = Emulator(vcpu, self._parts.memory(vtl))
        self._limit(emulator, vp, vtl)
        return emulator

    def _limit(self, emulator: Emulator | None, vp: int, vtl: int) -> None:
        """Bind emulated instructions by what higher VTLs allow."""
        protections = self.partition.protections
        if emulator is not None and protections is not None:
            tell = partial(report, protections, self.intercepts, vp, vtl)
            emulator.obey(self._parts.memory(vtl), tell)

    def _ports(
        self, processor: VirtualProcessor, vtl: int, vcpu: Vcpu, handlers: dict[int, Handler]
    ) -> VtlPorts:
        tell = partial(self.intercepts.port, processor.index, vtl)
        state = self._parts.state.vtl(vtl)
        assert state is not None  # `connect` has made it
        is_hypercall_page = state.hypercall_page.is_at
        ports = VtlPorts(processor.bus, vcpu, handlers, self._parts.memory(vtl), tell, is_hypercall_page)
        ports.want(self.partition.intercepts.ports(vtl))
        return ports

    def _timer(self, processor: VirtualProcessor, vcpu: Vcpu) -> ApicTimer:
        parts = self._parts
        return ApicTimer(
            vcpu,
            parts.clock,
            processor.kick,
            bus_cycle_ns=parts.bus_cycle_ns,
            read_tsc=parts.read_tsc,
            tsc_khz=parts.tsc_khz,
        )

    def reset(self) -> bool:
        """Only VTL0 is left. All VPs are frozen. True: guest memory is to be zeroed."""
        plan = self.partition.reset()
        for scheduler in self.schedulers:
            scheduler.drop_all()
            scheduler.vtls[VTL0].ports.want(None)
        self._startup.reset()
        self._waits.reset()
        self.intercepts.reset()
        for msrs in self.shared_msrs:
            msrs.reset()
        for auto_eois in self._auto_eois:
            for auto_eoi in auto_eois.values():
                auto_eoi.reset()
            auto_eois.clear()
        vms, self._vms = self._vms, {}
        self._vcpus.clear()
        for vm in vms.values():
            vm.close()
        self._watched.reset(self._parts.vm)
        return plan.zero_memory

    def close(self) -> None:
        """Close the VMs of VTLs above 0. No VP runs any more. Idempotent."""
        self._waits.close()
        vms, self._vms = self._vms, {}
        for vm in vms.values():
            vm.close()

    def vm(self, vtl: int) -> Vm | None:
        """The KVM VM of a VTL above 0, None while no VP has it."""
        found = self._vms.get(vtl)
        return None if found is None else found.vm

    def attend(self, vp: int) -> None:
        """On the VP's thread, on its way into the guest: see to it that the right VTL runs."""
        for auto_eoi in self._auto_eois[vp].values():
            auto_eoi.look()
        self._startup.attend(vp)
        self.schedulers[vp].attend()

    def recall(self, vp: int) -> None:
        """On the VP's thread, before anything but its scheduler uses the vCPU of a VTL that does not run.

        Errors: `KvmError`.
        """
        if vp < len(self.schedulers):
            self.schedulers[vp].recall()

    def _write_shared_msr(self, vp: int, msr: int, value: int) -> bool:
        self.recall(vp)
        return self.shared_msrs[vp].write(msr, value)

    # ---- vmm.vsm.outside.VsmServices -----------------------------------------------------------------

    def add_vtl(self, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        """See there. The partition's lock is held.

        What the context does not name is as KVM makes a vCPU, local APIC included, and as `HvState` makes a VTL. At
        each later entry the VTL goes on with what its vCPU has; nothing loads the context again.

        Implements: VSM-033, VSM-052, VSM-069
        """
        parts = self._parts
        processor = parts.processors[vp]
        if not self._startup.ready_for_vtl(vp):
            return AGAIN
        try:
            vcpu = self._vcpu_for(vp, vtl)
            try:
                starts.load(vcpu, context)
            except KvmError:  # KVM checks what the processor model would check
                self._startup.abandon(vp)
                return HvStatus.INVALID_REGISTER_VALUE
            _enable_apic(vcpu)
            vcpu.set_mp_state(k.KVM_MP_STATE_RUNNABLE)
            self._startup.close(vp, vtl, vcpu)
            caller = self._connected(vp, vtl, vcpu)
        except OSError as error:  # the host has no room for a VM, a vCPU, or for what the VTL may not do
            self._startup.abandon(vp)
            self._tell_refused(vp, vtl, error)
            return HvStatus.INSUFFICIENT_MEMORY
        self._adopt(caller)
        self.schedulers[vp].add(
            VtlVcpu(
                vtl,
                vcpu,
                caller.handlers,
                self._emulator(vp, vtl, vcpu),
                self._timer(processor, vcpu),
                self._ports(processor, vtl, vcpu, caller.handlers),
            )
        )
        return HvStatus.SUCCESS

    def _vcpu_for(self, vp: int, vtl: int) -> Vcpu:
        """The vCPU that `vtl` of a VP gets, in the VTL's VM. What has been made of the two by an earlier try is used.

        Errors: `OSError`.
        """
        parts = self._parts
        with self._lock:
            vm = self._vms.get(vtl)
            if vm is None:
                vm = self._vms[vtl] = parts.make_vm(vtl)
            if not self._watched.filter_msrs(vm.vm, vtl):
                raise OSError(errno.ENOSPC, f"KVM's MSR filter has too few ranges for the MSRs of VTL{vtl}")
            vcpu = self._vcpus.get((vp, vtl))
            if vcpu is None:
                vcpu = self._vcpus[vp, vtl] = parts.add_vcpu(vm, vp)
        self.shared_msrs[vp].bring(vcpu)
        return vcpu

    def _connected(self, vp: int, vtl: int, vcpu: Vcpu) -> Caller:
        """The Hyper-V state and hypercalls of `vtl` on a VP, or nothing of them. Errors: `KvmError`."""
        parts = self._parts
        try:
            return parts.connect(parts.processors[vp], vtl, vcpu)
        except KvmError:
            parts.state.drop_vtl(vp, vtl)
            raise

    def _tell_refused(self, vp: int, vtl: int, error: OSError) -> None:
        """Once for each VTL of a VP: its guest may try again for ever."""
        if (vp, vtl) not in self._refused:
            self._refused.add((vp, vtl))
            _log.warning("VTL%d of VP %d cannot be enabled: %s", vtl, vp, error)

    def start_vtl(self, caller_vp: int, vp: int, vtl: int, context: HV_INITIAL_VP_CONTEXT) -> int:
        """See there. Several VPs may start one at once: on its thread they come one after the other.

        Implements: VP-003
        """
        vcpu = self.schedulers[vp].vtls[vtl].vcpu

        def begin() -> HvStatus:
            if vtl == VTL0:
                status = _begin_vtl0(vcpu, context)
            elif self._startup.has_begun(vp):
                status = HvStatus.INVALID_VP_STATE
            else:
                status = _begin_anew(vcpu, context)
            if status == HvStatus.SUCCESS:
                self._startup.begun(vp)
            return status

        status = self._parts.errands.ask(caller_vp, vp, begin)
        return AGAIN if status is None else int(status)

    def assist_page(self, vp: int, vtl: int) -> AssistPage:
        """See there."""
        return self._state(vp, vtl).vp_assist

    def synthetic_msrs(self, vp: int, vtl: int) -> SyntheticMsrs:
        """See there."""
        return self._state(vp, vtl).msrs

    def _state(self, vp: int, vtl: int) -> HvVpState:
        found = self._parts.state.vp(vp, vtl)
        assert found is not None  # `connect` has made it
        return found

    def code_page_offsets(self, vtl: int, bits_64: bool) -> int:
        """See there."""
        return page_code.vsm_code_page_offsets(bits_64)

    def constant_register(self, register: int) -> int | None:
        """See there."""
        return self._parts.constants.get(register)

    def visit(self, caller_vp: int, vp: int, work: Callable[[VpRegisters], Reply]) -> Reply | None:
        """See there."""
        scheduler, processor = self.schedulers[vp], self._parts.processors[vp]

        def on_its_thread() -> Reply:
            reply = work(OwnRegisters(scheduler.vtls, processor.vcpu, scheduler.shared, self.shared_msrs[vp]))
            if scheduler.vp.active:  # it may have been VINA that changed
                self._waits.runs(vp, scheduler.vp.active)
                processor.kick()
            return reply

        return self._parts.errands.ask(caller_vp, vp, on_its_thread)

    def wake(self, vp: int) -> None:
        """See there."""
        self._parts.processors[vp].kick()

    def ports_can_be_seen(self, first: int, last: int) -> bool:
        """See there."""
        return not any(self._parts.hides_port(port) for port in range(first, last + 1))

    def ports_changed(self, caller_vp: int) -> bool:
        """See there."""
        return self._watched.ports_changed(caller_vp, self.schedulers)

    def msrs_changed(self) -> HvStatus:
        """See there."""
        return self._watched.msrs_changed(
            {VTL0: self._parts.vm, **{vtl: vm.vm for vtl, vm in self._vms.items()}}
        )

    # ---- vmm.backend.hyperv.services.HigherVtls ------------------------------------------------------

    def vp_mask(self, vtl: int) -> int:
        """See there."""
        return self.partition.vp_mask(vtl)

    def request_interrupt(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> bool:
        """A fixed, edge-triggered interrupt for a VTL above 0. False: no local APIC takes it."""
        vm = self.vm(vtl)
        if vm is None or not signal(vm, self._addresses[vp], vector):
            return False
        if auto_eoi:
            self._auto_eois[vp][vtl].requested(vector)
        self._parts.processors[vp].kick()
        return True

    def message_interrupt(self, vtl: int, address: int, data: int) -> None:
        """See there. KVM does not tell who has taken it: all VPs that have the VTL look."""
        vm = self.vm(vtl)
        if vm is not None and signal(vm, address, data):
            for vp in members(self.vp_mask(vtl)):
                self._parts.processors[vp].kick()

    def local_apic(self, vp: int, vtl: int) -> LocalApic:
        """See there."""
        parts = self._parts
        apic = KvmLocalApic(self._vms[vtl].vm, self._vcpus[vp, vtl], parts.apic_ids)
        self._auto_eois[vp] = {**self._auto_eois[vp], vtl: AutoEoi(parts.processors[vp], apic, parts.clock)}
        return apic

    # ---- vmm.backend.hyperv.address_spaces.VtlVcpus ---------------------------------------------------

    def vcpu(self, vp: int, vtl: int) -> Vcpu:
        """The vCPU of a VTL that the VP has."""
        return self.schedulers[vp].vtls[vtl].vcpu

    def inhibit_flushes(self, caller: int, caller_vtl: int, vp: int, vtl: int) -> bool:
        """Take the TLB lock of a lower VTL of the caller's own VP, until the caller's VTL returns (VSM-141).

        False for another VP: it may never return from the caller's VTL, and nothing would free the lock.
        """
        if vp != caller:
            return False
        self.partition.tlb_locks.take(vp, caller_vtl, vtl)
        return True

    # ---- scheduler.Around ----------------------------------------------------------------------------

    def lower_interrupt(self, vp: int) -> None:
        """VTL0's local APIC has got an interrupt."""
        state = self.partition.vps[vp]
        active = state.active
        if active and state.vtls[active].vina_enabled:
            self._parts.processors[vp].kick()

    def raise_vina(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        """See there. The VP is outside the guest and runs `vtl` next."""
        vm = self.vm(vtl)
        if vm is not None and signal(vm, self._addresses[vp], vector) and auto_eoi:
            self._auto_eois[vp][vtl].requested(vector)

    def store_return_registers(self, vp: int, vtl: int, rax: int, rcx: int) -> None:
        """See there."""
        self._state(vp, vtl).vp_assist.set_return_registers(rax, rcx)

    def runs(self, vp: int, vtl: int) -> None:
        """See there."""
        self._waits.runs(vp, vtl)


def _enable_apic(vcpu: Vcpu) -> None:
    """By software: released secure kernels do not write SPIV.

    Implements: VSM-034, WIN-004
    """
    lapic = vcpu.get_lapic()
    lapic.regs[_SPIV + 1] |= _SPIV_ENABLED >> 8
    vcpu.set_lapic(lapic)


def _begin_vtl0(vcpu: Vcpu, context: HV_INITIAL_VP_CONTEXT) -> HvStatus:
    startup_signals.drop(vcpu)  # KVM acts on them when it is asked for the MP state
    return starts.begin(vcpu, context)


def _begin_anew(vcpu: Vcpu, context: HV_INITIAL_VP_CONTEXT) -> HvStatus:
    try:
        starts.load(vcpu, context)
    except KvmError:
        return HvStatus.INVALID_REGISTER_VALUE
    return HvStatus.SUCCESS
