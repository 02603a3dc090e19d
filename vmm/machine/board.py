# SPDX-License-Identifier: Apache-2.0
"""The board: which devices there are, at which ports and interrupts, and how they hang together.

| ports / address | device | interrupt |
|---|---|---|
| 0x60, 0x64, 0x92 | keyboard controller, fast A20 and reset | 1, 12 |
| 0x70, 0x71 | RTC and CMOS | 8 |
| 0x80, 0x84, 0xed | POST codes, delay ports | |
| 0xb2, 0x600, 0xafe0 | ACPI power management | 9 |
| 0xe9 | debug console | |
| 0x3f8 | 16550A serial port | 4 |
| 0x510, 0x514 | fw_cfg | |
| 0xcf8, 0xcfc | PCI configuration | |
| 0xcf9 | reset control | |
| 0xe0, 0xe4, 0xe8, 0x2000, 0xf4, 0xff000000 | kvm-unit-tests' test devices | the lines under test |
| 0x20, 0xa0, 0x40, 0x61, 0x4d0, 0xfec00000, 0xfee00000 | 8259s, PIT, IOAPIC, local APICs: in the kernel | |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kvmapi import Vm
from vmm.backend.partition import GsiLine
from vmm.bus import MmioBus, PortBus
from vmm.machine import memory_map
from vmm.machine.acpi import AcpiConfig, build_tables
from vmm.machine.clock import GuestClock
from vmm.machine.config import MachineConfig
from vmm.machine.devices import debug_exit, debug_port, fw_cfg, serial
from vmm.machine.ram import GuestRam
from vmm.outside import Buffer, Device, MachineControl, Region

Sink = Callable[[bytes], None]


@dataclass(frozen=True)
class BoardEnds:
    """Where output goes: the first serial port's and the debug console's. Neither may raise."""

    serial: Sink
    debug: Sink


@dataclass(frozen=True)
class Surroundings:
    """What the board is built into. apic_ids: of the processors, by number."""

    vm: Vm
    apic_ids: list[int]
    ram: GuestRam
    clock: GuestClock
    control: MachineControl
    ports: PortBus
    mmio: MmioBus


class Board:
    """All devices of a machine, on its buses. `reset` puts them into their power-on state."""

    def __init__(self, config: MachineConfig, around: Surroundings, ends: BoardEnds) -> None:
        self._around = around
        self._devices: list[Device] = []
        tables = AcpiConfig(
            apic_ids=tuple(around.apic_ids), pci_hole=memory_map.pci_hole(around.ram), isa_bridge_slot=1
        )
        self._tables = build_tables(tables)
        self.rsdp_gpa, self.facs_gpa = self._tables.rsdp_gpa, self._tables.facs_gpa
        self._plug_consoles(ends)
        self._plug_firmware_interfaces(config)
        if config.testdev:
            self._plug_test_devices()

    def _plug_consoles(self, ends: BoardEnds) -> None:
        clock = self._around.clock
        self.serial = serial.Serial("COM1", self._line(serial.SERIAL_IRQS[0]), clock, ends.serial)
        self._on_ports(self.serial, serial.SERIAL_PORTS[0], serial.SERIAL_PORT_COUNT)
        self._debug_console = debug_port.DebugConsole(clock, ends.debug)
        self._on_ports(self._debug_console, debug_port.DEBUG_CONSOLE_PORT)
        self.post_codes = debug_port.PostCodePort()
        self._on_ports(self.post_codes, debug_port.POST_CODE_PORT)
        for port in debug_port.DELAY_PORTS:
            self._on_ports(debug_port.DelayPort(), port)

    def _plug_firmware_interfaces(self, config: MachineConfig) -> None:
        device = fw_cfg.FwCfg(self._around.ram, config.memory_bytes, config.cpus, config.cpus)
        self._on_ports(device, fw_cfg.SELECTOR_PORT, fw_cfg.SELECTOR_PORT_COUNT)
        self._on_ports(fw_cfg.FwCfgDma(device), fw_cfg.DMA_PORT, fw_cfg.DMA_PORT_COUNT)

    def _plug_test_devices(self) -> None:
        device = debug_exit.DebugExit(self._around.control)
        self._on_ports(device, debug_exit.DEBUG_EXIT_PORT, debug_exit.DEBUG_EXIT_PORT_COUNT)

    def _line(self, gsi: int) -> GsiLine:
        return GsiLine(self._around.vm, gsi)

    def _on_ports(self, device: PortDevice, base: int, count: int = 1) -> None:
        self._devices.append(device)
        self._around.ports.add(base, count, device, device.name)

    # ---- life ----------------------------------------------------------------------------------------

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
