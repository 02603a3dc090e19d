# SPDX-License-Identifier: Apache-2.0
"""`HypervInterface`: the Hyper-V interface of one machine, from its parts.

Life: made with the VPs made and not started; `reset` before RAM is loaded anew; `pause` and `resume` beside the
machine's clock, VPs stopped; `close` when no VP runs any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from kvmapi import MsrRange, Vcpu, Vm
from kvmapi import run as run_page
from kvmapi.uapi import kvm as k
from vmm.backend.hyperv import page_code
from vmm.backend.hyperv.address_spaces import VpAddressSpaces
from vmm.backend.hyperv.caller import Caller
from vmm.backend.hyperv.errands import Errands
from vmm.backend.hyperv.guest_tsc import guest_tsc
from vmm.backend.hyperv.mapped_overlays import MappedOverlays, OverlayView
from vmm.backend.hyperv.memory import HostMemory, VtlMemories
from vmm.backend.hyperv.offer import Offer
from vmm.backend.hyperv.refused_writes import RefusedWrites
from vmm.backend.hyperv.services import KvmServices
from vmm.backend.hyperv.starts import VpStarts
from vmm.backend.hyperv.tlbs import VpTlbs
from vmm.backend.hyperv.vp_registers import RegisterCalls, constants
from vmm.backend.native import NativeCode
from vmm.backend.partition import VtlVm
from vmm.backend.protection.host import HostProtection
from vmm.backend.protection.view import RamPages
from vmm.backend.vp import VirtualProcessor
from vmm.backend.vsm import shared_msrs
from vmm.backend.vsm.startup_signals import StartupSignals
from vmm.backend.vsm.vtls import Parts, Vtls
from vmm.bus import PortBus
from vmm.hv.call_codes import HypercallCode
from vmm.hv.constants import HV_NUM_VTLS_ARCHITECTURAL
from vmm.hvcalls.handlers import handlers
from vmm.hvcalls.register_values import Widths
from vmm.hvcalls.start import StartCalls
from vmm.hvcalls.translate import TranslateCalls
from vmm.hvmsr.state import HvState
from vmm.hypercall.dispatcher import Dispatcher
from vmm.outside import Clock, MachineControl
from vmm.overlay.copying import CopyingBackend
from vmm.overlay.pages import OverlayBackend
from vmm.vsm import calls as vsm_calls
from vmm.vsm.device_memory import DeviceMemory
from vmm.vsm.memory import VtlMemory
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import WRITE

VTL0: Final = 0
SYNTHETIC_MSRS: Final = MsrRange(0x4000_0000, 0x200)
"""What KVM leaves to the VMM: all that the TLFS gives MSRs in (4.2) and room behind them; those that nobody owns
fault. KVM's own MSRs lie elsewhere."""


PAGES_PER_VTL: Final = 2
"""Overlay pages: hypercall page, reference TSC page."""
PAGES_PER_VP: Final = 3
"""Of a VTL: SIMP, SIEFP, VP assist page."""


@dataclass(frozen=True)
class HigherVms:
    """How VTLs above 0 are made.

    make_vm: a KVM VM for a VTL, over the same memory, with local APICs only; and its view, as `Machine.view`.
    add_vcpu: the vCPU of a VP in it. Both: `OSError` where the host has no room. has_xcr0: whether KVM tells and takes
    XCR0. signals: what keeps INIT and SIPI from VPs that have such VTLs. wait_in_kernel: whether KVM waits for events
    of VTLs that do not run.
    """

    make_vm: Callable[[int], tuple[VtlVm, RamPages | None]]
    add_vcpu: Callable[[VtlVm, int], Vcpu]
    has_xcr0: bool
    signals: StartupSignals
    wait_in_kernel: bool = False


@dataclass(frozen=True)
class Machine:
    """What the interface is built into. apic_ids: by VP index. notice: a line for the user.

    view: where VTL0's VM has guest RAM; None where single pages of it cannot be replaced. higher: None where there is
    only VTL0. protection: how rights of VTLs to memory are enforced, None where they are not. device_memory: what
    devices read and write; None where there are none with DMA. hides_port: whether KVM decodes a
    port itself. watch_ports: told which accesses of VTL0 to ports are to leave the guest, before anybody relies on it.
    """

    vm: Vm
    processors: Sequence[VirtualProcessor]
    apic_ids: Sequence[int]
    memory: HostMemory
    clock: Clock
    control: MachineControl
    ports: PortBus
    notice: Callable[[str], None]
    view: RamPages | None = None
    higher: HigherVms | None = None
    protection: HostProtection | None = None
    device_memory: DeviceMemory | None = None
    hides_port: Callable[[int], bool] = lambda port: False
    watch_ports: Callable[[bytes | None], None] = lambda accesses: None


class HypervInterface:
    """See the module. Errors when made: `KvmError`, `BusConflictError`."""

    def __init__(self, machine: Machine, offer: Offer) -> None:
        self._machine = machine
        self._offer = offer
        vcpus = [processor.vcpu for processor in machine.processors]
        self._native: NativeCode | None = None
        with contextlib.suppress(OSError):  # no executable memory here: no TSC page, no atomic OR
            self._native = NativeCode()
        native = self._native
        tsc = guest_tsc(vcpus, offer.msrs.tsc_hz, native.rdtsc) if native and offer.msrs.tsc_hz else None
        self._tsc = tsc
        self.services = KvmServices(
            machine.vm,
            machine.processors,
            machine.apic_ids,
            machine.clock,
            machine.control,
            machine.notice,
        )
        self.services.page = offer.transport.page
        self._protections: MemoryProtections | None = None
        if offer.vsm is not None and machine.protection is not None:
            self._protections = MemoryProtections(machine.memory.ranges(), machine.protection.enforcement)
            machine.protection.adopt(VTL0, machine.vm, machine.view, ())
        maximum_vtl = VTL0 if offer.vsm is None else offer.vsm.maximum_vtl
        self.memories = VtlMemories(machine.memory, self._protections, maximum_vtl)
        self._overlays = self._mapped_overlays(native)
        overlays: OverlayBackend = self._overlays or CopyingBackend(machine.memory, self._fetch_or(native))
        self.state = HvState(
            offer.msrs, self.services, machine.device_memory or machine.memory, machine.clock, overlays, tsc
        )
        if self._protections is not None:
            self._protections.from_above = self.state.overlays.from_above
            if machine.device_memory is not None:
                machine.device_memory.obey(VtlMemory(machine.memory, self._protections, VTL0))
        self._tlbs = VpTlbs(machine.processors)
        self._errands = Errands(machine.processors, self._tlbs)
        for processor in machine.processors:
            self.state.enable_vtl(processor.index, VTL0)
        self.vtls: Vtls | None = None
        if offer.vsm is not None and machine.higher is not None:
            self.vtls = Vtls(self._parts(machine.higher), offer.vsm, self._protections)
            self.vtls.intercepts.protections = self._protections
        self.dispatcher: Dispatcher[Caller] = Dispatcher(
            self._handlers(offer), features=offer.wanted.convention
        )
        self.callers = [self._connect(processor) for processor in machine.processors]
        if self.vtls is not None:
            self.vtls.attach(self.callers)
            self.services.vtls = self.vtls
            self._tlbs.held = self.vtls.partition.tlb_locks.blocks
        if not offer.transport.exits:
            machine.ports.reserve(page_code.PORT, 1, "hypercall page")
        keep_msrs(machine.vm, () if self.vtls is None else shared_msrs.ranges())

    def _mapped_overlays(self, native: NativeCode | None) -> MappedOverlays | None:
        view = self._machine.view
        if view is None:
            return None
        pages = HV_NUM_VTLS_ARCHITECTURAL * (PAGES_PER_VTL + PAGES_PER_VP * len(self._machine.processors))
        return MappedOverlays(
            {VTL0: self._covering(VTL0, view)}, pages, native.fetch_or if native is not None else None
        )

    def _covering(self, vtl: int, view: OverlayView) -> OverlayView:
        """`view`, in which a page of an overlay is not bound by the rights of what it hides."""
        protection = self._machine.protection
        return view if protection is None else protection.covering(vtl, view)

    def _fetch_or(self, native: NativeCode | None) -> Callable[[int, int], int] | None:
        if native is None:
            return None
        fetch_or, host_address = native.fetch_or, self._machine.memory.host_address
        return lambda gpa, mask: fetch_or(host_address(gpa, 1), mask)

    def _handlers(self, offer: Offer) -> dict[int, Callable[..., object]]:
        by_leaf = self._by_leaf()
        machine, state, errands = self._machine, self.state, self._errands
        vps, widths = machine.processors, Widths(physical=offer.msrs.gpa_bits)
        registers = RegisterCalls(state, by_leaf, vps, errands, widths)
        starts = StartCalls(VpStarts(vps, errands, state), widths)
        translations = TranslateCalls(
            VpAddressSpaces(self.vtls or OnlyVtl0(vps), errands, self.memories.of, state)
        )
        known: dict[int, Callable[..., object]] = {
            **handlers(state.connections, state.find_synic, self.services, self._tlbs),
            HypercallCode.HvCallGetVpRegisters: registers.get,
            HypercallCode.HvCallSetVpRegisters: registers.set,
            HypercallCode.HvCallStartVirtualProcessor: starts.start_virtual_processor,
            HypercallCode.HvCallTranslateVirtualAddress: translations.translate,
            HypercallCode.HvCallTranslateVirtualAddressEx: translations.translate_ex,
            HypercallCode.HvCallSwitchVirtualAddressSpace: registers.switch_address_space,
        }
        if self.vtls is not None:
            known |= vsm_calls.handlers(self.vtls.partition)
        return {int(code): known[code] for code in offer.wanted.codes}

    def _connect(self, processor: VirtualProcessor) -> Caller:
        caller = self._caller(processor, VTL0, processor.vcpu)
        looks = [
            self.services.auto_eois[processor.index].look,
            self.services.idle_sleeps[processor.index].look,
        ]
        if self.vtls is not None:  # last: it decides what runs
            looks.append(partial(self.vtls.attend, processor.index))
        processor.after_kick = AfterKick(
            processor.index, self._tlbs, self._errands, looks, processor.after_kick
        )
        return caller

    def _caller(self, processor: VirtualProcessor, vtl: int, vcpu: Vcpu) -> Caller:
        """The Hyper-V state of a VTL on a VP, and its exits."""
        state = self.state.enable_vtl(processor.index, vtl)
        shared = self.state.vtl(vtl)
        assert shared is not None  # enable_vtl has made it
        caller = Caller(
            processor,
            vtl,
            int(self._offer.msrs.privileges),
            shared.hypercall_page,
            state.msrs,
            self.memories.parameters(vtl),
            self.dispatcher,
            self._offer.transport,
            vcpu,
            self._errands.meanwhile[processor.index],
        )
        caller.attach()
        protection = self._machine.protection
        if protection is None or protection.over_overlays:
            self._refuse_overlay_writes(caller, processor, vtl, vcpu)
        if protection is not None and self._protections is not None and self.vtls is not None:
            protection.attach(processor, vcpu, vtl, caller.handlers, self._protections, self.vtls.intercepts)
        if protection is not None and not protection.over_overlays:
            self._refuse_overlay_writes(caller, processor, vtl, vcpu)
        return caller

    def _refuse_overlay_writes(
        self, caller: Caller, processor: VirtualProcessor, vtl: int, vcpu: Vcpu
    ) -> None:
        protection = self._machine.protection
        looked_before = protection is None or protection.over_overlays
        allowed = None if looked_before else partial(self._may_write, vtl)
        memory = self.memories.of(vtl) if protection is None else None
        if self._overlays is not None:
            RefusedWrites(processor, vcpu, caller.handlers, vtl, self._overlays, allowed, memory).attach()

    def _may_write(self, vtl: int, gpn: int) -> bool:
        return self._protections is None or bool(self._protections.rights(vtl, gpn) & WRITE)

    def _parts(self, higher: HigherVms) -> Parts:
        machine, tsc = self._machine, self._tsc

        def make_vm(vtl: int) -> VtlVm:
            vm, view = higher.make_vm(vtl)
            try:
                keep_msrs(vm.vm, shared_msrs.ranges())
                if self._protections is not None and machine.protection is not None:
                    with self._protections.lock:  # rights do not change between the look and the VM's knowing
                        machine.protection.adopt(vtl, vm.vm, view, self._protections.restricted(vtl))
            except OSError:
                vm.close()
                raise
            if self._overlays is not None and view is not None:
                self._overlays.views[vtl] = self._covering(vtl, view)
                self.state.overlays.view_added(vtl)
            return vm

        def add_vcpu(vm: VtlVm, vp: int) -> Vcpu:
            """Its reference time is the partition's, its reference TSC page its own.

            Implements: VSM-067, IMP-004
            """
            vcpu = higher.add_vcpu(vm, vp)
            if tsc is not None:
                vcpu.set_tsc_offset(tsc.offset)  # all VTLs read the same TSC
            return vcpu

        return Parts(
            vm=machine.vm,
            processors=machine.processors,
            apic_ids=machine.apic_ids,
            memory=self.memories.of,
            clock=machine.clock,
            state=self.state,
            errands=self._errands,
            constants=constants(self._offer.msrs, self._by_leaf()),
            make_vm=make_vm,
            add_vcpu=add_vcpu,
            connect=self._caller,
            hides_port=machine.hides_port,
            watch_ports=machine.watch_ports,
            read_tsc=None if tsc is None else tsc.read,
            tsc_khz=self._offer.msrs.tsc_hz // 1000,
            has_xcr0=higher.has_xcr0,
            signals=higher.signals,
            wait_in_kernel=higher.wait_in_kernel,
            bus_cycle_ns=1_000_000_000 // self._offer.msrs.apic_hz,
        )

    def _by_leaf(self) -> dict[int, int]:
        return {
            leaf: eax | ebx << 32 | ecx << 64 | edx << 96 for leaf, eax, ebx, ecx, edx in self._offer.leaves
        }

    def reset(self) -> None:
        """The state after power-on. All VPs are frozen; guest RAM is written."""
        if self._protections is not None and self._machine.protection is not None:
            self._protections.reset()
            self._machine.protection.drop_higher()
        zero = self.vtls is not None and self.vtls.reset()
        self.state.reset()
        if self._overlays is not None:
            self._overlays.drop_higher()
        if zero:  # behind overlays, which may put back what they hid
            for gpa, size in self._machine.memory.ranges():
                self._machine.memory.fill(gpa, size)
        self._tlbs.reset()
        for caller in self.callers:
            caller.reset()
        for auto_eoi in self.services.auto_eois:
            auto_eoi.reset()
        for sleep in self.services.idle_sleeps:
            sleep.reset()
        for processor in self._machine.processors:
            processor.vcpu.run.u64[run_page.DIRTY_REGS // 8] = 0

    def wake(self) -> None:
        """S3 has ended: VTL0's vCPUs are as after a reset. All VPs are frozen."""
        if self.vtls is not None:
            self.vtls.partition.wake()

    def pause(self) -> None:
        """Reference time stands still. VPs have stopped."""
        self.state.reference.pause()

    def resume(self) -> None:
        """Reference time goes on. VPs do not run yet."""
        self.state.reference.resume()

    def close(self) -> None:
        """Free what is not Python's. No VP runs, the clock's timers are over. Idempotent."""
        if self.vtls is not None:
            self.vtls.close()
        self.memories.close()
        if self._overlays is not None:
            self._overlays.close()
        if self._native is not None:
            self._native.close()


def keep_msrs(vm: Vm, others: Iterable[MsrRange] = ()) -> None:
    """Have the MSRs of the Hyper-V interface exit to the VMM, and others. Errors: `KvmError`."""
    vm.enable_cap(k.KVM_CAP_X86_USER_SPACE_MSR, k.KVM_MSR_EXIT_REASON_FILTER)
    vm.set_msr_filter([SYNTHETIC_MSRS, *others])


class OnlyVtl0:
    """The vCPUs of a machine without further VTLs (`vmm.backend.hyperv.address_spaces.VtlVcpus`)."""

    def __init__(self, processors: Sequence[VirtualProcessor]) -> None:
        self._processors = processors

    def vcpu(self, vp: int, vtl: int) -> Vcpu:
        """VTL0's."""
        return self._processors[vp].vcpu

    def inhibit_flushes(self, caller: int, caller_vtl: int, vp: int, vtl: int) -> bool:
        """False: there is no lower VTL whose flushes could be held."""
        return False


class AfterKick:
    """What a VP does on its way into the guest again, before what others do there."""

    def __init__(
        self,
        vp: int,
        tlbs: VpTlbs,
        errands: Errands,
        looks: Sequence[Callable[[], None]],
        then: Callable[[], None],
    ) -> None:
        self._vp = vp
        self._flush = tlbs.after_kick
        self._do_errands = errands.after_kick
        self._looks = looks
        self._then = then

    def __call__(self) -> None:
        self._do_errands(self._vp)
        self._flush(self._vp)
        for look in self._looks:
            look()
        self._then()
