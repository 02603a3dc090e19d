# SPDX-License-Identifier: Apache-2.0
r"""DSDT: processors, the PCI host bridge, interrupt links, ISA devices and sleep states of the board, in AML.

\_S3, \_S5
\_SB.Cnnn         processors
\_SB.LNKA..LNKD   PCI interrupt links, hard-wired
\_SB.PCI0         host bridge (_CRS, _PRT)
\_SB.PCI0.ISA     ISA bridge with what sits behind it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vmm.machine.acpi import aml, resources
from vmm.machine.acpi.config import AcpiConfig, ComPort
from vmm.machine.acpi.header import table
from vmm.machine.devices import acpi_pm
from vmm.machine.pci.routing import LINK_IRQS, PINS, SLOTS, link_of

DSDT_REVISION: Final = 2  # from 2 on AML integers have 64 bits

_PROCESSOR: Final = "ACPI0007"
_PRESENT_ENABLED_FUNCTIONING: Final = 0x0B  # _STA of a link: not shown in a user interface
_ANY_FUNCTION: Final = 0xFFFF
_LINK_NAMES: Final = ("LNKA", "LNKB", "LNKC", "LNKD")

_CONFIG_PORTS: Final = (0xCF8, 8)  # decoded by the bridge itself, not passed down
_VGA_MEMORY: Final = (0xA0000, 0x20000)


@dataclass(frozen=True, slots=True)
class IsaDevice:
    """A device the guest finds by its PNP id: ports as `(base, count)`, ISA interrupt or None."""

    name: str
    pnp_id: str
    ports: tuple[tuple[int, int], ...]
    irq: int | None = None
    uid: int = 0


_FIXED_ISA_DEVICES: Final = (
    IsaDevice("PIC", "PNP0000", ((0x20, 2), (0xA0, 2), (0x4D0, 2)), 2),
    IsaDevice("TIMR", "PNP0100", ((0x40, 4),), 0),
    IsaDevice("RTC", "PNP0B00", ((0x70, 2),), 8),
    IsaDevice("SPKR", "PNP0800", ((0x61, 1),)),
    IsaDevice(
        "SYSR",
        "PNP0C02",
        (
            (acpi_pm.PM1A_EVT, acpi_pm.PM1A_EVT_LEN),
            (acpi_pm.PM1A_CNT, acpi_pm.PM1A_CNT_LEN),
            (acpi_pm.PM_TMR, acpi_pm.PM_TMR_LEN),
            (acpi_pm.GPE0, acpi_pm.GPE0_LEN),
            (acpi_pm.SMI_CMD, acpi_pm.SMI_CMD_LEN),
        ),
    ),
)
_KEYBOARD_CONTROLLER: Final = IsaDevice("KBD", "PNP0303", ((0x60, 1), (0x64, 1)), 1)


def build_dsdt(config: AcpiConfig) -> bytes:
    """The DSDT of `config`."""
    system_bus = aml.scope(
        "\\_SB",
        *(_processor(uid) for uid in range(len(config.apic_ids))),
        *(_link(index) for index in range(len(LINK_IRQS))),
        _host_bridge(config),
    )
    return table(b"DSDT", DSDT_REVISION, _sleep_states(config) + system_bus)


def _sleep_states(config: AcpiConfig) -> bytes:
    """`\\_S3`, `\\_S5`: packages of SLP_TYPa, SLP_TYPb and two reserved elements (7.4.2)."""
    states = [("_S5", acpi_pm.SLEEP_TYPE_S5)]
    if config.s3:
        states.insert(0, ("_S3", acpi_pm.SLEEP_TYPE_S3))
    zero = aml.integer(0)
    return b"".join(
        aml.name(f"\\{name}", aml.package(aml.integer(kind), aml.integer(kind), zero, zero))
        for name, kind in states
    )


def _processor(uid: int) -> bytes:
    return aml.device(
        f"C{uid:03X}", aml.name("_HID", aml.string(_PROCESSOR)), aml.name("_UID", aml.integer(uid))
    )


def _link(index: int) -> bytes:
    """A PNP0C0F link that has one possible setting, so that `_SRS` and `_DIS` have nothing to do."""
    setting = resources.template(resources.interrupt_level_high_shared(LINK_IRQS[index]))
    return aml.device(
        _LINK_NAMES[index],
        aml.name("_HID", aml.eisa_id("PNP0C0F")),
        aml.name("_UID", aml.integer(index)),
        aml.name("_STA", aml.integer(_PRESENT_ENABLED_FUNCTIONING)),
        aml.name("_PRS", setting),
        aml.name("_CRS", setting),
        aml.method("_DIS", 0),
        aml.method("_SRS", 1),
    )


def _host_bridge(config: AcpiConfig) -> bytes:
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_BBN", aml.integer(0)),
        aml.name("_CRS", _host_bridge_resources(config)),
        aml.name("_PRT", _routing()),
        _isa_bridge(config),
    )


def _host_bridge_resources(config: AcpiConfig) -> bytes:
    config_first, config_end = _CONFIG_PORTS[0], sum(_CONFIG_PORTS)
    windows = [
        resources.bus_numbers(0, 0),
        resources.io(*_CONFIG_PORTS),
        resources.io_window(0, config_first),
        resources.io_window(config_end, 0x10000 - config_end),
        resources.memory_window(*_VGA_MEMORY, resources.MEMORY_READ_WRITE | resources.MEMORY_CACHEABLE),
        resources.memory_window(*config.pci_hole, resources.MEMORY_READ_WRITE),
    ]
    if config.pci_hole64 is not None:
        windows.append(
            resources.memory_window64(
                *config.pci_hole64, resources.MEMORY_READ_WRITE | resources.MEMORY_CACHEABLE
            )
        )
    return resources.template(*windows)


def _routing() -> bytes:
    """`_PRT`: for every pin of every slot the link it is wired to (6.2.13)."""
    return aml.package(
        *(
            aml.package(
                aml.integer(slot << 16 | _ANY_FUNCTION),
                aml.integer(pin),
                aml.path(_LINK_NAMES[link_of(slot, pin)]),
                aml.integer(0),
            )
            for slot in range(SLOTS)
            for pin in range(len(PINS))
        )
    )


def _isa_bridge(config: AcpiConfig) -> bytes:
    devices = list(_FIXED_ISA_DEVICES)
    if config.i8042:
        devices.append(_KEYBOARD_CONTROLLER)
    devices += [_com_port(number, port) for number, port in enumerate(config.com_ports, 1)]
    return aml.device(
        "ISA",
        aml.name("_ADR", aml.integer(config.isa_bridge_slot << 16)),
        *(_isa_device(device) for device in devices),
    )


def _com_port(number: int, port: ComPort) -> IsaDevice:
    return IsaDevice(f"COM{number}", "PNP0501", ((port.io_base, 8),), port.irq, uid=number)


def _isa_device(device: IsaDevice) -> bytes:
    descriptors = [resources.io(base, count) for base, count in device.ports]
    if device.irq is not None:
        descriptors.append(resources.irq(device.irq))
    return aml.device(
        device.name,
        aml.name("_HID", aml.eisa_id(device.pnp_id)),
        aml.name("_UID", aml.integer(device.uid)),
        aml.name("_CRS", resources.template(*descriptors)),
    )
