# SPDX-License-Identifier: Apache-2.0
"""The board: which devices there are, at which ports and interrupts, and how they hang together.

| ports / address | device | interrupt |
|---|---|---|
| 0x60, 0x64, 0x92 | keyboard controller, fast A20 and reset | 1, 12 |
| 0x70, 0x71 | RTC and CMOS | 8 |
| 0x80, 0x84, 0xed | POST codes, delay ports | |
| 0xb2, 0x600, 0xafe0 | ACPI power management | 9 |
| 0xe9 | debug console (where there are no test devices: they take the port) | |
| 0x3f8 | 16550A serial port | 4 |
| 0x510, 0x514 | fw_cfg | |
| 0xcf8, 0xcfc | PCI configuration | |
| 0xcf9 | reset control | |
| 0xe0, 0xe4, 0xe8, 0x2000, 0xf4, 0xff000000 | kvm-unit-tests' test devices | the lines under test |
| 0xec, 0x3000 | the Hyper-V interface's hypercall page, hyperv-testdev: with that interface | |
| 0x20, 0xa0, 0x40, 0x61, 0x4d0, 0xfec00000, 0xfee00000 | 8259s, PIT, IOAPIC, local APICs: KVM's or `split_irqchip` | |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvmapi import Vm
from vmm.backend.ioeventfds import KvmIoEventFds
from vmm.backend.partition import GsiLine
from vmm.backend.vp import VirtualProcessor
from vmm.bus import MmioBus, PortBus
from vmm.machine import memory_map
from vmm.machine.acpi import AcpiConfig, build_tables
from vmm.machine.clock import GuestClock
from vmm.machine.config import MachineConfig
from vmm.machine.devices import acpi_pm, debug_exit, debug_port, fw_cfg, i8042, reset_port, rtc, serial
from vmm.machine.devices.pc_testdev import IRQ_COUNT, PcTestdev
from vmm.machine.devices.pci_testdev import PciTestdev
from vmm.machine.pci import bridges
from vmm.machine.pci.bus import PciBus
from vmm.machine.pci.routing import LINK_IRQS
from vmm.machine.ram import GuestRam
from vmm.outside import Buffer, Device, GuestMemory, InterruptLine, MachineControl, Region

if TYPE_CHECKING:
    from vmm.machine.split_irqchip import SplitIrqchip
    from vmm.synic.connections import Connections, FindSynic

PCI_TESTDEV_SLOT = 2

Sink = Callable[[bytes], None]


def _nobody(line: str) -> None:
    """Nobody wants to know."""


def _nothing() -> None:
    """Ends that never wait have nothing to give up."""


@dataclass(frozen=True)
class BoardEnds:
    """Where output goes: the first serial port's and the debug console's, and lines for the user. None may raise.

    give_up: no write may wait for its reader any longer.
    """

    serial: Sink
    debug: Sink
    notice: Callable[[str], None] = _nobody
    give_up: Callable[[], object] = _nothing


@dataclass(frozen=True)
class Surroundings:
    """What the board is built into.

    apic_ids: of the processors, by number. device_memory: RAM as devices with DMA may use it. drop_page: takes the host
    page at a GPA out of the VM's mapping.
    """

    vm: Vm
    apic_ids: list[int]
    ram: GuestRam
    device_memory: GuestMemory
    clock: GuestClock
    control: MachineControl
    ports: PortBus
    mmio: MmioBus
    ioeventfds: KvmIoEventFds
    drop_page: Callable[[int], None]


class Board:
    """All devices of a machine, on its buses. `reset` puts them into their power-on state."""

    def __init__(self, config: MachineConfig, around: Surroundings, ends: BoardEnds) -> None:
        self._around = around
        self._devices: list[Device] = []
        self._split: SplitIrqchip | None = None
        if config.irqchip == "split":
            from vmm.machine.split_irqchip import SplitIrqchip  # three chips that most machines have in KVM

            self._split = SplitIrqchip(around.vm, around.clock, around.ports, around.mmio, pit=config.pit)
        tables = AcpiConfig(
            apic_ids=tuple(around.apic_ids),
            pci_hole=memory_map.pci_hole(around.ram),
            isa_bridge_slot=bridges.ISA_BRIDGE_SLOT,
        )
        self._tables = build_tables(tables)
        self.rsdp_gpa, self.facs_gpa = self._tables.rsdp_gpa, self._tables.facs_gpa
        self._plug_consoles(ends, debug_console=not config.testdev)
        self._plug_power_and_time()
        self._plug_keyboard_and_resets()
        self._plug_firmware_interfaces(config)
        lines = {irq: self._line(irq) for irq in LINK_IRQS}
        self._pci = PciBus(around.ports, around.mmio, lines, memory_map.pci_hole(around.ram))
        self._pci.add_function(bridges.HOST_BRIDGE_SLOT, bridges.host_bridge())
        self._pci.add_function(bridges.ISA_BRIDGE_SLOT, bridges.isa_bridge())
        self._devices.append(self._pci)
        if config.testdev:
            self._plug_test_devices()

    def _plug_consoles(self, ends: BoardEnds, *, debug_console: bool) -> None:
        clock = self._around.clock
        self.serial = serial.Serial("COM1", self._line(serial.SERIAL_IRQS[0]), clock, ends.serial)
        self._on_ports(self.serial, serial.SERIAL_PORTS[0], serial.SERIAL_PORT_COUNT)
        self._debug_console = debug_port.DebugConsole(clock, ends.debug)
        if debug_console:
            self._on_ports(self._debug_console, debug_port.DEBUG_CONSOLE_PORT)
        self.post_codes = debug_port.PostCodePort()
        self._on_ports(self.post_codes, debug_port.POST_CODE_PORT)
        for port in debug_port.DELAY_PORTS:
            self._on_ports(debug_port.DelayPort(), port)

    def _plug_power_and_time(self) -> None:
        around = self._around
        self.pm = acpi_pm.AcpiPm(self._line(acpi_pm.SCI_IRQ), around.clock, around.control)
        self._on_ports(self.pm, acpi_pm.PM_BASE, acpi_pm.PM_PORT_COUNT)
        self._on_ports(acpi_pm.Gpe0(self.pm), acpi_pm.GPE0, acpi_pm.GPE0_LEN)
        self._on_ports(acpi_pm.SmiCommand(self.pm), acpi_pm.SMI_CMD, acpi_pm.SMI_CMD_LEN)
        low = max(gpa + size for gpa, size in around.ram.ranges() if gpa < 1 << 32)
        high = sum(size for gpa, size in around.ram.ranges() if gpa >= 1 << 32)
        clock = rtc.Rtc(self._line(rtc.RTC_IRQ), around.clock, low, high, self.pm.rtc_wake)
        self._on_ports(clock, rtc.RTC_PORT, rtc.RTC_PORT_COUNT)

    def _plug_keyboard_and_resets(self) -> None:
        control = self._around.control
        keyboard = i8042.I8042(self._line(i8042.KEYBOARD_IRQ), control)
        self._on_ports(keyboard, i8042.KEYBOARD_DATA_PORT)
        self._on_ports(i8042.I8042Command(keyboard), i8042.KEYBOARD_COMMAND_PORT)
        self._on_ports(i8042.SystemControlPort(keyboard, control), i8042.SYSTEM_CONTROL_PORT)
        self._on_ports(reset_port.ResetPort(control), reset_port.RESET_PORT)

    def _plug_firmware_interfaces(self, config: MachineConfig) -> None:
        device = fw_cfg.FwCfg(self._around.device_memory, config.memory_bytes, config.cpus, config.cpus)
        self._on_ports(device, fw_cfg.SELECTOR_PORT, fw_cfg.SELECTOR_PORT_COUNT)
        self._on_ports(fw_cfg.FwCfgDma(device), fw_cfg.DMA_PORT, fw_cfg.DMA_PORT_COUNT)

    def _plug_test_devices(self) -> None:
        device = debug_exit.DebugExit(self._around.control)
        self._on_ports(device, debug_exit.DEBUG_EXIT_PORT, debug_exit.DEBUG_EXIT_PORT_COUNT)
        testdev = PcTestdev([self._line(gsi) for gsi in range(IRQ_COUNT)], self._around.drop_page)
        testdev.attach(self._around.ports, self._around.mmio)
        self._devices.append(testdev)
        pci_testdev = PciTestdev(self._around.ioeventfds)
        self._pci.add_function(PCI_TESTDEV_SLOT, pci_testdev.function)
        self._devices.append(pci_testdev)

    def plug_hyperv_testdev(self, find_synic: FindSynic, connections: Connections) -> None:
        """kvm-unit-tests' device for the SynIC. Once, before the processors start."""
        from vmm.machine.devices import hyperv_testdev
        from vmm.synic.test_routes import TestRoutes

        device = hyperv_testdev.HypervTestdev(TestRoutes(find_synic, connections))
        self._on_ports(device, hyperv_testdev.PORT, hyperv_testdev.PORT_COUNT)

    def _line(self, gsi: int) -> InterruptLine:
        if self._split is not None:
            return self._split.line(gsi)
        return GsiLine(self._around.vm, gsi)

    def _on_ports(self, device: PortDevice, base: int, count: int = 1) -> None:
        self._devices.append(device)
        self._around.ports.add(base, count, device, device.name)

    # ---- life ----------------------------------------------------------------------------------------

    def connect_processors(self, vps: Sequence[VirtualProcessor]) -> None:
        """Wire the VMM's interrupt controllers, if it has any, to the processors. Once, before these start."""
        if self._split is not None:
            self._split.connect(vps)

    def reset_interrupt_controllers(self) -> None:
        """The VMM's own ones, if it has any, as firmware leaves them. No VP may run."""
        if self._split is not None:
            self._split.reset()

    def reset(self) -> None:
        """All devices as after power-on, the ACPI tables written anew. No VP may run."""
        for device in self._devices:
            device.reset()
        for gpa, data in self._tables.blobs:
            self._around.ram.write(gpa, data)

    def flush(self) -> None:
        """Hand on all output that devices still hold."""
        self.serial.flush()
        self._debug_console.flush()

    def close(self) -> None:
        """Nothing may call the outside any more."""
        self.flush()

    def serial_input(self, data: Buffer) -> int:
        """Bytes arrive at the first serial port; how many it took."""
        return self.serial.receive(data)

    def connect_serial_room(self, room: Callable[[], None]) -> None:
        """Call `room` when the first serial port takes input again after it refused some."""
        self.serial.room_again = room


class PortDevice(Device, Region, Protocol):
    """A device that is itself the region it decodes."""
