# SPDX-License-Identifier: Apache-2.0
"""What a guest's file says about the way it reports, for guests that end without a summary (`verdict`)."""

from __future__ import annotations

import mmap
from functools import cached_property
from pathlib import Path

SUMMARY_TEXT = b"SUMMARY: "
FAILURE_TEXT = b"FAIL"
REPORT_FUNCTION = "report"  # report(), report_pass(), report_summary() ... of kvm-unit-tests' lib/report.c


class GuestImage:
    """A guest's file. It is read when something is asked, which most verdicts do not.

    A file that cannot be read contains nothing: running it says why.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def can_summarise(self) -> bool:
        """Whether it contains the text of a SUMMARY line, or global functions called `report` or `report_...`.

        The linker may have dropped the summary itself, if the guest never asks for one. A guest's own report
        function is a static one. Symbols that cannot be read count as report functions: nothing proves that
        there are none.
        """
        return self._contains(SUMMARY_TEXT) or self._has_report_functions()

    @cached_property
    def can_fail(self) -> bool:
        """Whether it contains the text of a failure."""
        return self._contains(FAILURE_TEXT)

    def _contains(self, text: bytes) -> bool:
        try:
            with (
                self._path.open("rb") as stream,
                mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as content,
            ):
                return content.find(text) >= 0
        except (OSError, ValueError):  # ValueError: mmap of an empty file
            return False

    def _has_report_functions(self) -> bool:
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection

        try:
            with self._path.open("rb") as stream:
                if stream.read(4) != b"\x7fELF":
                    return False
                tables = (s for s in ELFFile(stream).iter_sections() if isinstance(s, SymbolTableSection))
                return any(
                    symbol["st_info"]["bind"] == "STB_GLOBAL"
                    and symbol.name.partition("_")[0] == REPORT_FUNCTION
                    for table in tables
                    for symbol in table.iter_symbols()
                )
        except OSError:
            return False
        except Exception:  # pyelftools meets a damaged table with whatever its parsing runs into
            return True
