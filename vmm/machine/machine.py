# SPDX-License-Identifier: Apache-2.0
"""The machine: made from a `MachineConfig`, run to its end, closed.

Life cycle: made (guest loaded, VPs frozen) -> `run` (once) -> closed. One thread, the one in `run`, does what
changes the whole machine (reset, suspend, end); devices and VPs only post events.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import queue
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvmapi import Kvm, Vcpu
from kvmapi.uapi import kvm as k
from kvmapi.vsm_support import VsmSupport
from vmm.backend import vcpu_state, vp_report
from vmm.backend.emulation.emulator import Emulator
from vmm.backend.ioeventfds import KvmIoEventFds
from vmm.backend.outcome import STATUS_BAD_INPUT, STATUS_TIME_LIMIT, Outcome, OutcomeKind
from vmm.backend.partition import Slot, VmOptions, VtlVm, ports_in_kernel, prepare_host, put_chips, take_chips
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.hypercall.outside import UnprotectedMemory
from vmm.machine import boot_state, chip_setup, entry_registers, vcpu_setup
from vmm.machine.acpi.fadt import FACS_WAKING_VECTOR_OFFSET
from vmm.machine.board import Board, BoardEnds, Surroundings
from vmm.machine.boot import BootRequest, Image, load, open_image
from vmm.machine.clock import GuestClock
from vmm.machine.config import ConfigError, MachineConfig
from vmm.machine.events import Control, End, Event, Reset, Suspend, Wake
from vmm.machine.memory_map import e820_map
from vmm.machine.ram import PAGE_SIZE, GuestRam, RamError, RamMapping, RamView
from vmm.outside import GuestMemoryError
from vmm.vsm.device_memory import DeviceMemory

if TYPE_CHECKING:
    from vmm.backend.hyperv.interface import HypervInterface
    from vmm.backend.hyperv.offer import Offer
    from vmm.backend.protection.host import HostProtection
    from vmm.backend.stats.counts import MachineCounts
    from vmm.backend.system_calls import SystemCalls
    from vmm.machine.vcpu_setup import CpuPlan

# A signal that arrives just before the control thread goes to sleep, or on another thread, does not wake it: Python
# runs the handler when that thread next wakes. So it looks up this often.
LOOK_UP_S = 0.1
LAST_OUTPUT_S = 1.0  # how long the end of a run waits for whoever reads the guest's output
VTL0 = 0
VPS_TOLD = 8  # of how many a report says what they wait for when a time limit ends the run


@dataclass(frozen=True)
class GuestFiles:
    """The kernel and initrd, read whole: a reset loads them again."""

    kernel: Image
    initrd: Image | None


class Machine:
    """One machine and its guest. A context manager; make it on the main thread.

    Errors when made: `ConfigError`, `RamError`, `BootError`, `CpuModelError`, `KvmError`; nothing is left behind.
    """

    def __init__(
        self, config: MachineConfig, ends: BoardEnds, kvm: Kvm, counts: MachineCounts | None = None
    ) -> None:
        """ends: where serial output goes. kvm: stays the caller's to close. counts: what the VPs do is added there."""
        self.config = config
        self._counts = counts
        self.control = Control()
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self._resources.close)
            self._build(kvm, ends)
            undo.pop_all()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _build(self, kvm: Kvm, ends: BoardEnds) -> None:
        config, own = self.config, self._resources
        self._ends = ends
        prepare_host()
        self._files = GuestFiles(
            open_image(str(config.kernel)),
            open_image(str(config.initrd)) if config.initrd else None,
        )
        cpus = vcpu_setup.plan(config, kvm)
        self.warnings = cpus.warnings
        self.ram = own.enter_context(GuestRam(config.memory_bytes, huge_pages=config.huge_pages))
        self._options = VmOptions(
            split_irqchip=config.irqchip == "split",
            pit=config.pit,
            cpu_pm=config.cpu_pm,
            wide_apic_ids=cpus.wide_apic_ids,
        )
        slots = self._slots = [Slot(block.gpa, block.size, block.offset) for block in self.ram.blocks]
        if kvm.check_extension(k.KVM_CAP_READONLY_MEM):
            # A processor starts at the top of 4 GiB after INIT, where a PC shows its firmware a second time.
            slots.append(Slot(boot_state.ROM_ALIAS_GPA, PAGE_SIZE, boot_state.ROM_GPA, readonly=True))
        self._vtl0_mapping = self.ram.map_for_kvm()
        self._higher_mappings: dict[int, RamMapping] = {}  # by VTL
        self._vtl0 = own.enter_context(VtlVm(kvm, 0, self._vtl0_mapping, slots, self._options))
        self.hyperv: HypervInterface | None = None
        own.callback(self._close_hyperv)  # when neither VPs nor timers use it any more
        self.clock = GuestClock(self._timer_failed)
        own.callback(self.clock.close)
        self.ports, self.mmio = PortBus(), MmioBus()
        ioeventfds = self._ioeventfds = KvmIoEventFds(self._vtl0.vm)
        own.callback(ioeventfds.close)
        self._device_memory = DeviceMemory(self.ram)
        around = Surroundings(
            vm=self._vtl0.vm,
            apic_ids=cpus.apic_ids,
            ram=self.ram,
            device_memory=self._device_memory,
            clock=self.clock,
            control=self.control,
            ports=self.ports,
            mmio=self.mmio,
            ioeventfds=ioeventfds,
            drop_page=self._drop_page,
        )
        self.board = Board(config, around, ends)
        own.callback(self.board.close)
        msr_indices = kvm.msr_index_list()
        for index, (apic_id, cpuid) in enumerate(zip(cpus.apic_ids, cpus.cpuid, strict=True)):
            vcpu = self._vtl0.add_vcpu(apic_id, cpuid, cpus.msrs, cpus.tsc_khz, cpus.mcg_cap)
            vp = VirtualProcessor(index, vcpu, self.ports, self.mmio, self.control.end)
            vp.emulator = Emulator(vcpu, UnprotectedMemory(self.ram))
            vp.host_cpu = config.pin[index] if config.pin else None
            if self._counts is not None:
                self._counts.watch(index, VTL0, vcpu)
            self.control.vps.append(vp)
            own.callback(vp.stop)
        self._system_calls = self._watched_system_calls(kvm) if cpus.hyperv is None else []
        self.board.connect_processors(self.vps)
        if cpus.hyperv is not None:
            self.hyperv = self._hyperv_interface(kvm, cpus, cpus.hyperv, ends)
            if self._counts is not None and self.hyperv.vtls is not None:
                for scheduler, counts in zip(self.hyperv.vtls.schedulers, self._counts.vps, strict=True):
                    scheduler.counts = counts
                self._counts.expect_intercepts(self.hyperv.vtls.intercepts.causes)
        vcpu_setup.after_creation(self._vtl0.vcpus)
        self._at_reset = [vcpu_state.take(vcpu, msr_indices) for vcpu in self._vtl0.vcpus]
        chip_setup.as_firmware_leaves(self._vtl0.vm, self._options)
        self._chips_at_reset = take_chips(self._vtl0.vm, self._options)
        self._start_guest()

    def _watched_system_calls(self, kvm: Kvm) -> list[SystemCalls]:
        """Of each VP, on a KVM that may leave them in ring 3: without VT-x and SVM."""
        from vmm.backend.host_profile import kvm_modules

        if kvm_modules().hardware or not kvm.check_extension(k.KVM_CAP_X86_MSR_FILTER):
            return []
        from vmm.backend import ring3, system_calls

        needed = functools.cache(lambda: not ring3.system_call_reaches_ring_0(kvm))
        system_calls.watch(self._vtl0.vm)
        return [system_calls.SystemCalls(vp, UnprotectedMemory(self.ram), needed) for vp in self.vps]

    def _hyperv_interface(self, kvm: Kvm, cpus: CpuPlan, offer: Offer, ends: BoardEnds) -> HypervInterface:
        from vmm.backend.hyperv import interface  # most machines have none
        from vmm.backend.vsm import startup_signals

        around = interface.Machine(
            vm=self._vtl0.vm,
            processors=self.vps,
            apic_ids=cpus.apic_ids,
            memory=self.ram,
            clock=self.clock,
            control=self.control,
            ports=self.ports,
            notice=ends.notice,
            view=self._view(self._vtl0_mapping),
            hides_port=ports_in_kernel(self._options).__contains__,
            watch_ports=self._ioeventfds.watch,
            protection=self._protection(cpus),
            device_memory=self._device_memory,
            higher=interface.HigherVms(
                make_vm=lambda vtl: self._higher_vm(kvm, vtl),
                add_vcpu=lambda vm, vp: self._add_vcpu(vm, cpus, vp),
                has_xcr0=self.boot_processor.get_xcrs().nr_xcrs > 0,
                signals=startup_signals.choose(cpus.vsm),
                wait_in_kernel=self._wait_in_kernel(cpus.vsm),
            ),
        )
        made = interface.HypervInterface(around, offer)
        if self.config.testdev:
            self.board.plug_hyperv_testdev(made.state.find_synic, made.state.connections)
        return made

    def _protection(self, cpus: CpuPlan) -> HostProtection | None:
        """What enforces the rights of VTLs to memory; None where there are no VTLs, or nothing that could."""
        if not cpus.has_vtls:
            return None
        from kvmapi.uapi.vsm import KVM_X86_VSM_FAULT_INSN
        from vmm.backend.host_profile import kvm_modules
        from vmm.backend.protection.choose import ProtectionError, Way, choose
        from vmm.backend.protection.faults import Alias
        from vmm.backend.protection.host import AttributeProtection
        from vmm.backend.protection.mapping_host import MappingProtection

        try:
            way = choose(self.config.protection, cpus.vsm, huge_pages=self.config.huge_pages)
        except ProtectionError as error:
            raise ConfigError(str(error)) from error
        if way is None:
            return None
        aliases = [
            Alias(slot.gpa, slot.size, self.ram.gpa_of(slot.offset))
            for slot in self._slots
            if slot.gpa != self.ram.gpa_of(slot.offset)
        ]
        if way is Way.ATTRIBUTES:
            tells = bool(cpus.vsm.features & KVM_X86_VSM_FAULT_INSN)
            return AttributeProtection(aliases, self.ram.gpa_of, tells_instruction=tells)
        blocks = [(block.gpa, block.size, block.offset) for block in self.ram.blocks]
        hardware = kvm_modules().hardware
        return MappingProtection(self.ram, blocks, aliases, self.vps, self.clock, hardware=hardware)

    def _wait_in_kernel(self, support: VsmSupport) -> bool:
        from vmm.backend.vsm import waits

        possible = waits.in_kernel(support)
        if self.config.vtl_wait == "kernel" and not possible:
            raise ConfigError(
                "vtl-wait=kernel: expected a KVM with our series (inactive_vtl, any_thread), found none: leave it "
                "out, a tick does on every KVM"
            )
        return possible and self.config.vtl_wait != "tick"

    def _view(self, mapping: RamMapping) -> RamView | None:
        # One page of a huge one cannot be replaced.
        return None if self.config.huge_pages else RamView(self.ram, mapping)

    def _higher_vm(self, kvm: Kvm, vtl: int) -> tuple[VtlVm, RamView | None]:
        """The KVM VM of a VTL above 0. Device interrupts are VTL0's, so it has local APICs alone.

        Its mapping stays for the VM that the VTL has after a reset, which leaves it as it was: nothing may grow with
        each reset of a guest. Errors: `OSError`, `RamError` too being one here: it is the guest's to hear of.
        """
        mapping = self._higher_mappings.get(vtl)
        if mapping is None:
            try:
                mapping = self._higher_mappings[vtl] = self.ram.map_for_kvm()
            except RamError as error:
                raise OSError(errno.ENOMEM, str(error)) from error
        options = replace(self._options, split_irqchip=True, pit=False)
        return VtlVm(kvm, vtl, mapping, self._slots, options), self._view(mapping)

    def _add_vcpu(self, vm: VtlVm, cpus: CpuPlan, vp: int) -> Vcpu:
        vcpu = vm.add_vcpu(cpus.apic_ids[vp], cpus.cpuid[vp], cpus.msrs, cpus.tsc_khz, cpus.mcg_cap)
        if self._counts is not None:
            self._counts.watch(vp, vm.vtl, vcpu)
        return vcpu

    def _close_hyperv(self) -> None:
        if self.hyperv is not None:
            self.hyperv.close()

    @property
    def vps(self) -> list[VirtualProcessor]:
        """The virtual processors, by VP index."""
        return self.control.vps

    @property
    def boot_processor(self) -> Vcpu:
        """VP 0's vCPU in VTL0, which is not always the one that the VP runs."""
        return self._vtl0.vcpus[0]

    def close(self) -> None:
        """End the VP threads and give everything back. Idempotent."""
        self._resources.close()

    # ---- run -----------------------------------------------------------------------------------------

    def run(self, time_limit: float | None = None) -> Outcome:
        """Let the guest run until it ends; how it ended. Call it once.

        time_limit: seconds of host time after which the run ends with `OutcomeKind.TIME_LIMIT`.
        """
        deadline = None if time_limit is None else time.monotonic() + time_limit
        if self._counts is not None:
            self._counts.begin()
        for vp in self.vps:
            vp.start()
        self._thaw()
        result: Outcome | None = None
        while result is None:
            left = LOOK_UP_S if deadline is None else deadline - time.monotonic()
            try:
                event = self.control.events.get(timeout=max(min(left, LOOK_UP_S), 0))
            except queue.Empty:
                if left > LOOK_UP_S or deadline is None:
                    continue
                detail = f"the guest still ran after {time_limit:g} s"
                event = End(Outcome(OutcomeKind.TIME_LIMIT, STATUS_TIME_LIMIT, detail))
            if isinstance(event, End):
                return self._finish(event.outcome)
            self._freeze()
            result = self._handle(event)
        return self._finish(result)

    def _finish(self, result: Outcome) -> Outcome:
        """Stop the VPs and hand on their last output. Its reader has a moment; then nobody waits for it."""
        patience = threading.Timer(LAST_OUTPUT_S, self._ends.give_up)
        patience.daemon = True
        patience.start()
        self._freeze()
        self.board.flush()
        patience.cancel()
        if result.kind is OutcomeKind.TIME_LIMIT:  # it may hang: what does each VP wait for?
            told = [vp_report.describe_waiting(vp.index, vp.all_vcpus, vp.vcpu) for vp in self.vps[:VPS_TOLD]]
            result = replace(result, report="\n".join(told))
        return result

    def _handle(self, event: Event) -> Outcome | None:
        """Do what `event` asks for, with all VPs frozen. The outcome when it ends the run."""
        match event:
            case End():
                return event.outcome  # `run` takes these itself; said here so that no event is forgotten
            case Reset():
                if not self.config.reboot:
                    return Outcome(OutcomeKind.RESET, 0, "the guest reset the machine")
                self._start_guest()
                self._thaw()
            case Suspend():
                self._suspended = True
                self._thaw()  # devices and the clock go on: one of them is to wake it
            case Wake():
                if self._suspended:
                    self._wake()
                self._thaw()
        return None

    def _freeze(self) -> None:
        for vp in self.vps:
            vp.freeze()
        for vp in self.vps:
            vp.wait_frozen()
        self.clock.pause()  # no timer's callback runs either from here on
        if self.hyperv is not None:
            self.hyperv.pause()

    def _thaw(self) -> None:
        self.clock.resume()
        if self.hyperv is not None:
            self.hyperv.resume()
        if not self._suspended:
            for vp in self.vps:
                vp.thaw()

    def _timer_failed(self, error: BaseException) -> None:
        detail = f"a device's timer failed: {type(error).__name__}: {error}"
        self.control.end(Outcome(OutcomeKind.ERROR, STATUS_BAD_INPUT, detail))

    def _drop_page(self, gpa: int) -> None:
        """Take the host page at `gpa` out of VTL0's mapping; what is not RAM is ignored."""
        with contextlib.suppress(GuestMemoryError):
            self._vtl0_mapping.drop_page(self.ram.offset_of(gpa, 1))

    # ---- start, reset, wake --------------------------------------------------------------------------

    def _start_guest(self) -> None:
        """Everything as after power-on, the guest's image loaded, the boot processor at its entry."""
        self._suspended = False
        self._reset_processors()
        if self.hyperv is not None:
            if self._counts is not None:
                self._counts.settle(above=VTL0)
            self.hyperv.reset()
        self.board.reset()
        boot_state.write(self.ram)
        request = BootRequest(
            kernel=self._files.kernel,
            initrd=self._files.initrd,
            cmdline=self.config.cmdline,
            name=str(self.config.kernel),
            raw_address=self.config.raw_address,
        )
        entry = load(request, self.ram, e820_map(self.ram), self.board.rsdp_gpa)
        entry_registers.put(self.boot_processor, entry)

    def _reset_processors(self) -> None:
        """Those of VTL0, whatever VTL each VP runs: a higher VTL's must never begin where VTL0 says."""
        for calls in self._system_calls:
            calls.reset()
        put_chips(self._vtl0.vm, self._chips_at_reset)
        self.board.reset_interrupt_controllers()
        for vcpu, state in zip(self._vtl0.vcpus, self._at_reset, strict=True):
            vcpu_state.put(vcpu, state)

    def _wake(self) -> None:
        """Leave S3: VTL0's processors as after a reset, the boot processor at the FACS' waking vector."""
        self._suspended = False
        vector = int.from_bytes(self.ram.read(self.board.facs_gpa + FACS_WAKING_VECTOR_OFFSET, 4), "little")
        self._reset_processors()
        entry_registers.put_real_mode(self.boot_processor, vector & 0xFFFFF)
        for vcpu in self._vtl0.vcpus:
            vcpu_state.forget_exit(vcpu)
        if self.hyperv is not None:
            self.hyperv.wake()
