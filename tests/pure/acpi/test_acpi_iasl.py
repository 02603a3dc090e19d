# SPDX-License-Identifier: Apache-2.0
"""ACPICA's own judgement: its disassembler reads each table, its compiler makes the same bytes of that."""

import shutil
import subprocess
from pathlib import Path

import pytest

from vmm.machine.acpi import AcpiConfig, AcpiImage, ComPort, build_tables

TIMEOUT_S = 60

BOARDS = {
    "smallest": AcpiConfig(apic_ids=(0,), com_ports=(), i8042=False, s3=False),
    "usual": AcpiConfig(apic_ids=(0, 1, 2, 3)),
    "everything": AcpiConfig(
        apic_ids=tuple(range(300)),
        com_ports=(ComPort(0x3F8, 4), ComPort(0x2F8, 3)),
        pci_hole64=(1 << 40, 1 << 40),
    ),
}
# What the compiler puts in of its own: the checksum that follows from it, and its name and version.
CHECKSUM = slice(9, 10)
CREATOR = slice(28, 36)


@pytest.fixture(scope="module")
def iasl() -> str:
    path = shutil.which("iasl")
    if path is None:
        pytest.fail("iasl, ACPICA's compiler, is missing: install the Debian package acpica-tools")
    return path


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def tables_of(image: AcpiImage) -> dict[str, bytes]:
    """Tables by signature; iasl does not read an RSDP, which is no table."""
    return {blob[:4].decode(): blob for _, blob in image.blobs if not blob.startswith(b"RSD PTR ")}


@pytest.mark.parametrize("board", BOARDS)
def test_tables_survive_disassembly_and_compilation(board: str, iasl: str, tmp_path: Path) -> None:
    tables = tables_of(build_tables(BOARDS[board]))
    assert set(tables) == {"FACS", "DSDT", "FACP", "APIC", "RSDT", "XSDT"}

    for signature, table in tables.items():
        original = tmp_path / f"{signature}.aml"
        original.write_bytes(table)

        disassembly = run(iasl, "-p", str(tmp_path / signature), "-d", str(original))
        # -oa: no optimization, so that the compiler's AML is comparable; -we: a warning is an error.
        compilation = run(
            iasl, "-we", "-oa", "-p", str(tmp_path / f"{signature}-again"), str(tmp_path / f"{signature}.dsl")
        )

        assert "Warning" not in disassembly and "Error" not in disassembly, disassembly
        assert "0 Errors, 0 Warnings, 0 Remarks" in compilation, compilation
        again = bytearray((tmp_path / f"{signature}-again.aml").read_bytes())
        if signature != "FACS":
            again[CHECKSUM], again[CREATOR] = table[CHECKSUM], table[CREATOR]
        assert again == table, signature
