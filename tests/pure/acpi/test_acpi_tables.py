# SPDX-License-Identifier: Apache-2.0
"""The tables as a guest finds them: from the RSDP's signature down, by the offsets of ACPI 6.3."""

import struct
from typing import Any

import pytest

from vmm.machine.acpi import AcpiConfig, AcpiConfigError, AcpiImage, ComPort, build_tables
from vmm.machine.devices import acpi_pm

ENABLED = 1


class Guest:
    """Low memory as a guest sees it, with the walk every guest does."""

    def __init__(self, image: AcpiImage) -> None:
        self.memory = bytearray(1 << 20)
        for gpa, blob in image.blobs:
            self.memory[gpa : gpa + len(blob)] = blob

    def u32(self, gpa: int) -> int:
        return int.from_bytes(self.memory[gpa : gpa + 4], "little")

    def u64(self, gpa: int) -> int:
        return int.from_bytes(self.memory[gpa : gpa + 8], "little")

    def rsdp(self) -> int:
        found = [gpa for gpa in range(0xE0000, 0x100000, 16) if self.memory[gpa:].startswith(b"RSD PTR ")]
        assert len(found) == 1
        return found[0]

    def table(self, gpa: int) -> bytes:
        return bytes(self.memory[gpa : gpa + self.u32(gpa + 4)])

    def tables(self) -> dict[bytes, bytes]:
        """Every table by signature; those of the XSDT, and what FADT points at."""
        xsdt = self.table(self.u64(self.rsdp() + 24))
        pointers = [entry[0] for entry in struct.iter_unpack("<Q", xsdt[36:])]
        found = {table[:4]: table for table in map(self.table, pointers)}
        fadt = found[b"FACP"]
        for pointer in struct.unpack_from("<QQ", fadt, 132):
            found[bytes(self.memory[pointer : pointer + 4])] = self.table(pointer)
        return found | {b"XSDT": xsdt}


def make_guest(**options: Any) -> Guest:
    """options: fields of `AcpiConfig`."""
    return Guest(build_tables(AcpiConfig(apic_ids=(0, 1), **options)))


def madt_entries(madt: bytes) -> list[bytes]:
    entries, offset = [], 44
    while offset < len(madt):
        entries.append(madt[offset : offset + madt[offset + 1]])
        offset += madt[offset + 1]
    assert offset == len(madt)
    return entries


def test_rsdp_has_both_checksums_and_both_roots() -> None:
    guest = make_guest()
    gpa = guest.rsdp()
    rsdp = guest.memory[gpa : gpa + 36]

    assert sum(rsdp[:20]) % 256 == 0
    assert sum(rsdp) % 256 == 0
    assert (rsdp[15], guest.u32(gpa + 20)) == (2, 36)
    assert guest.table(guest.u32(gpa + 16)).startswith(b"RSDT")


def test_rsdt_and_xsdt_list_the_same_tables() -> None:
    guest = make_guest()
    gpa = guest.rsdp()
    rsdt = guest.table(guest.u32(gpa + 16))
    xsdt = guest.table(guest.u64(gpa + 24))

    assert list(struct.iter_unpack("<I", rsdt[36:])) == list(struct.iter_unpack("<Q", xsdt[36:]))


def test_all_tables_are_there_and_sum_to_zero() -> None:
    tables = make_guest().tables()

    assert set(tables) == {b"XSDT", b"FACP", b"APIC", b"FACS", b"DSDT"}
    # The FACS has no checksum: its owner, the guest, writes into it.
    assert [name for name, table in tables.items() if name != b"FACS" and sum(table) % 256] == []


def test_facs_is_64_byte_aligned_and_version_2() -> None:
    image = build_tables(AcpiConfig(apic_ids=(0,)))
    facs = Guest(image).table(image.facs_gpa)

    assert image.facs_gpa % 64 == 0
    assert (len(facs), facs[32]) == (64, 2)
    assert facs[8:32] == bytes(24)  # no waking vector, lock free


def test_fadt_gives_facs_and_dsdt_in_both_widths() -> None:
    guest = make_guest()
    fadt = guest.tables()[b"FACP"]

    assert struct.unpack_from("<II", fadt, 36) == struct.unpack_from("<QQ", fadt, 132)


def test_fadt_revision_and_length() -> None:
    fadt = make_guest().tables()[b"FACP"]

    assert (len(fadt), fadt[8], fadt[131]) == (276, 6, 3)


@pytest.mark.parametrize(
    ("port_offset", "length_offset", "x_offset", "port", "length", "access"),
    [
        (56, 88, 148, acpi_pm.PM1A_EVT, 4, 2),
        (64, 89, 172, acpi_pm.PM1A_CNT, 2, 2),
        (76, 91, 208, acpi_pm.PM_TMR, 4, 3),
        (80, 92, 220, acpi_pm.GPE0, 4, 1),
    ],
    ids=["PM1a_EVT", "PM1a_CNT", "PM_TMR", "GPE0"],
)
def test_fadt_register_blocks(
    port_offset: int, length_offset: int, x_offset: int, port: int, length: int, access: int
) -> None:
    """access: the size of an access, 1 a byte, 2 a word, 3 a dword."""
    fadt = make_guest().tables()[b"FACP"]

    assert struct.unpack_from("<I", fadt, port_offset) == (port,)
    assert fadt[length_offset] == length
    assert struct.unpack_from("<BBBBQ", fadt, x_offset) == (1, 8 * length, 0, access, port)


def test_fadt_sci_smi_and_reset_register() -> None:
    fadt = make_guest().tables()[b"FACP"]

    assert struct.unpack_from("<HIBB", fadt, 46) == (9, 0xB2, 0xF1, 0xF0)
    assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0xCF9, 6)
    flags = struct.unpack_from("<I", fadt, 112)[0]
    assert flags >> 10 & 1  # RESET_REG_SUP
    assert not flags >> 20 & 1  # not HW_REDUCED_ACPI
    assert flags >> 4 & 0b111 == 0  # power button, sleep button and RTC wake status are in PM1
    assert flags >> 8 & 1 == (acpi_pm.PM_TIMER_BITS > 24)  # TMR_VAL_EXT


def test_fadt_has_c1_only_and_tells_of_the_century() -> None:
    fadt = make_guest().tables()[b"FACP"]

    level_2, level_3 = struct.unpack_from("<HH", fadt, 96)
    assert level_2 > 100 and level_3 > 1000  # microseconds: these say that there is none
    assert fadt[108] == 0x32  # the byte of the CMOS
    assert struct.unpack_from("<I", fadt, 112)[0] & 0b1111 == 0b0101  # WBINVD, C1 on all processors


@pytest.mark.parametrize(("i8042", "boot_flags"), [(True, 0b111), (False, 0b101)])
def test_fadt_boot_flags_tell_of_the_keyboard_controller(i8042: bool, boot_flags: int) -> None:
    fadt = make_guest(i8042=i8042).tables()[b"FACP"]

    assert struct.unpack_from("<H", fadt, 109) == (boot_flags,)


def test_madt_of_two_processors() -> None:
    madt = make_guest(ioapic_id=2).tables()[b"APIC"]

    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    assert madt_entries(madt) == [
        struct.pack("<BBBBI", 0, 8, 0, 0, ENABLED),
        struct.pack("<BBBBI", 0, 8, 1, 1, ENABLED),
        struct.pack("<BBBBII", 1, 12, 2, 0, 0xFEC00000, 0),
        struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0),
        *(struct.pack("<BBBBIH", 2, 10, 0, irq, irq, 0x0D) for irq in (5, 9, 10, 11)),
        struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1),
    ]


def test_madt_uses_x2apic_entries_from_id_255_on() -> None:
    guest = Guest(build_tables(AcpiConfig(apic_ids=(0, 254, 255, 4096))))

    entries = madt_entries(guest.tables()[b"APIC"])
    assert entries[:4] == [
        struct.pack("<BBBBI", 0, 8, 0, 0, ENABLED),
        struct.pack("<BBBBI", 0, 8, 1, 254, ENABLED),
        struct.pack("<BBHIII", 9, 16, 0, 255, ENABLED, 2),
        struct.pack("<BBHIII", 9, 16, 0, 4096, ENABLED, 3),
    ]
    assert struct.pack("<BBHIB3x", 10, 12, 0, 0xFFFFFFFF, 1) in entries


def test_dsdt_follows_the_s3_option() -> None:
    with_s3, without_s3 = (make_guest(s3=s3).tables()[b"DSDT"] for s3 in (True, False))

    # Name (\_S3, Package (4) {1, 1, 0, 0})
    s3_object = b"\x08\\_S3_\x12\x06\x04\x01\x01\x00\x00"
    assert s3_object in with_s3
    assert b"_S3_" not in without_s3
    assert b"\x08\\_S5_\x12\x06\x04\x00\x00\x00\x00" in without_s3


def test_dsdt_lists_the_com_ports_given() -> None:
    dsdt = make_guest(com_ports=(ComPort(0x3F8, 4), ComPort(0x2F8, 3))).tables()[b"DSDT"]

    assert (b"COM1" in dsdt, b"COM2" in dsdt, b"COM3" in dsdt) == (True, True, False)


def test_1024_processors_fit_into_the_bios_area() -> None:
    image = build_tables(AcpiConfig(apic_ids=tuple(range(1024))))

    assert image.end <= 0x100000
    madt = Guest(image).tables()[b"APIC"]
    # 255 LAPIC entries, the rest x2APIC, one I/O APIC, 5 overrides, 2 NMI entries
    assert len(madt_entries(madt)) == 1024 + 1 + 5 + 2


def test_blobs_are_sorted_apart_and_inside_the_area() -> None:
    image = build_tables(AcpiConfig(apic_ids=tuple(range(8)), area=(0xF0000, 0x10000)))

    edges = [0xF0000]
    for gpa, blob in image.blobs:
        edges += [gpa, gpa + len(blob)]
    edges += [image.end, 0x100000]
    assert edges == sorted(edges)


def test_tables_at_the_top_of_low_ram_leave_the_rsdp_where_guests_look() -> None:
    area = (0x7FE0000, 0x20000)

    image = build_tables(AcpiConfig(apic_ids=(0,), area=area, rsdp_gpa=0xF0000))

    assert image.rsdp_gpa == 0xF0000
    assert area[0] <= image.facs_gpa < image.end <= sum(area)


def test_an_area_that_is_too_small_names_the_table_and_the_remedy() -> None:
    with pytest.raises(AcpiConfigError, match=r"MADT needs \d+ bytes .* larger range"):
        build_tables(AcpiConfig(apic_ids=tuple(range(256)), area=(0xE0000, 0x2C00)))


def test_an_rsdp_in_the_middle_of_the_area_is_refused() -> None:
    with pytest.raises(AcpiConfigError, match="leave rsdp_gpa out"):
        build_tables(AcpiConfig(apic_ids=(0,), rsdp_gpa=0xF0000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"apic_ids": ()}, "0 processors"),
        ({"apic_ids": (1, 0)}, "ascending"),
        ({"apic_ids": (0, 0)}, "ascending"),
        ({"apic_ids": (0, 0xFFFFFFFF)}, "APIC ids"),
        ({"apic_ids": (0,), "pci_hole": (0xC0000000, 0)}, "PCI hole"),
        ({"apic_ids": (0,), "pci_hole64": (0xC0000000, 0x40000000)}, "64-bit PCI hole"),
        ({"apic_ids": (0,), "area": (0x7FE0000, 0x20000)}, "rsdp_gpa"),
        ({"apic_ids": (0,), "area": (0xE0008, 0x1000)}, "multiples of 16"),
        ({"apic_ids": (0,), "area": (0x7FE0000, 0x20000), "rsdp_gpa": 0xDFFF0}, "RSDP at 0xdfff0"),
        ({"apic_ids": (0,), "area": (0x7FE0000, 0x20000), "rsdp_gpa": 0xFFFE0}, "RSDP at 0xfffe0"),
        ({"apic_ids": (0,), "area": (0xE0000, 0)}, "ACPI area"),
    ],
)
def test_config_that_describes_no_board(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AcpiConfigError, match=message):
        AcpiConfig(**options)
