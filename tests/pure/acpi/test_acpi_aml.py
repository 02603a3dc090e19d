# SPDX-License-Identifier: Apache-2.0
"""The AML encoder against encodings worked out by hand from ACPI 6.3 sections 6.4 and 20.2."""

import pytest

from vmm.machine.acpi import aml, resources


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0xFFFF, "0bffff"),
        (0x10000, "0c00000100"),
        (0xFFFFFFFF, "0cffffffff"),
        (1 << 32, "0e0000000001000000"),
        ((1 << 64) - 1, "0effffffffffffffff"),
    ],
)
def test_integer_uses_the_shortest_encoding(value: int, encoded: str) -> None:
    assert aml.integer(value) == bytes.fromhex(encoded)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_integer_outside_64_bits_is_refused(value: int) -> None:
    with pytest.raises(aml.AmlError, match="not in"):
        aml.integer(value)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("COM1", b"COM1"),
        ("RTC", b"RTC_"),
        ("\\", b"\\\x00"),
        ("\\_SB", b"\\_SB_"),
        ("^^LNKA", b"^^LNKA"),
        ("\\_SB.PCI0", b"\\\x2e_SB_PCI0"),
        ("_SB.PCI0.ISA", b"\x2f\x03_SB_PCI0ISA_"),
    ],
)
def test_path(text: str, encoded: bytes) -> None:
    assert aml.path(text) == encoded


@pytest.mark.parametrize("text", ["com1", "1COM", "TOOLONG", "A..B", "^\\A", "\\\\A", "\\^A"])
def test_path_that_asl_would_refuse(text: str) -> None:
    with pytest.raises(aml.AmlError, match="name"):
        aml.path(text)


def test_path_has_at_most_255_segments() -> None:
    with pytest.raises(aml.AmlError, match="256 segments"):
        aml.path(".".join(["ABCD"] * 256))


def test_string_is_nul_terminated() -> None:
    assert aml.string("ACPI0007") == b"\x0dACPI0007\0"


@pytest.mark.parametrize("text", ["ü", "a\0b"])
def test_string_outside_ascii_is_refused(text: str) -> None:
    with pytest.raises(aml.AmlError, match="ASCII"):
        aml.string(text)


def test_eisa_id_of_the_specifications_example() -> None:
    # 19.3.4: EISAID ("PNP0C09") is 0x090cd041 in a little-endian dword.
    assert aml.eisa_id("PNP0C09") == bytes.fromhex("0c 41d00c09")


def test_eisa_id_with_lower_case_is_refused() -> None:
    with pytest.raises(aml.AmlError, match="EISA"):
        aml.eisa_id("pnp0c09")


@pytest.mark.parametrize(
    ("data_size", "lead"),
    [
        # The length counts itself, the buffer's own size integer (2, 3 or 5 bytes) and the data.
        (60, "3f"),  # 1 + 2 + 60 = 63, the most that six bits hold
        (61, "4104"),  # 2 + 2 + 61 = 65 = 0x41: low nibble in the lead byte, then bits 11:4
        (4090, "4fff"),  # 2 + 3 + 4090 = 4095 = 0xfff
        (4091, "810001"),  # 3 + 3 + 4091 = 4097 = 0x1001
        (1 << 20, "c9000001"),  # 4 + 5 + 0x100000 = 0x100009
    ],
)
def test_package_length(data_size: int, lead: str) -> None:
    encoded = aml.buffer(bytes(data_size))

    assert encoded[1 : 1 + len(lead) // 2] == bytes.fromhex(lead)


def test_device_nests_names() -> None:
    encoded = aml.device("COM1", aml.name("_UID", aml.integer(1)))

    # ExtOp DeviceOp, length 11 = itself + "COM1" + NameOp "_UID" One
    assert encoded == b"\x5b\x82\x0bCOM1\x08_UID\x01"


def test_scope_and_method_and_package() -> None:
    encoded = aml.scope("\\_SB", aml.method("_SRS", 1, serialized=True), aml.package(aml.path("LNKA")))

    assert encoded == b"\x10\x14\\_SB_" + b"\x14\x06_SRS\x09" + b"\x12\x06\x01LNKA"


def test_package_of_256_elements_is_refused() -> None:
    with pytest.raises(aml.AmlError, match="256 elements"):
        aml.package(*[aml.integer(0)] * 256)


def test_method_with_eight_arguments_is_refused() -> None:
    with pytest.raises(aml.AmlError, match="8 arguments"):
        aml.method("M", 8)


def test_resource_template_of_a_serial_port() -> None:
    encoded = resources.template(resources.io(0x3F8, 8), resources.irq(4))

    descriptors = "47 01 f803 f803 01 08" + "22 1000" + "79 00"
    assert encoded == b"\x11\x10\x0a\x0d" + bytes.fromhex(descriptors)


def test_memory_window_is_a_fixed_producer_range() -> None:
    encoded = resources.memory_window(0xC0000000, 0x3EC00000, resources.MEMORY_READ_WRITE)

    # tag, length 23, memory, min/max fixed, read-write; granularity, min, max, translation, length
    expected = "87 1700 00 0c 01 00000000 000000c0 ffffbffe 00000000 0000c03e"
    assert encoded == bytes.fromhex(expected)


def test_eisa_id_of_a_small_number_is_a_short_integer() -> None:
    # PNP0000 is 0x0000d041, and integers take their shortest form.
    assert aml.eisa_id("PNP0000") == bytes.fromhex("0b 41d0")
