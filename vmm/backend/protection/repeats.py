# SPDX-License-Identifier: Apache-2.0
"""How often an instruction has stopped in a row for no known reason: rights that change give a few such exits, a host
that does not do what it was told gives them for ever."""

from __future__ import annotations


class Repeats:
    """Those of one VTL of one VP, on the VP's thread."""

    def __init__(self) -> None:
        self._count = 0
        self._last = b""

    def count(self, registers: bytes) -> int:
        """One more exit; how many there were, one after the other, with all registers the same."""
        if registers != self._last:
            self._last, self._count = registers, 0
        self._count += 1
        return self._count

    def end(self) -> None:
        """There was a reason, or the instruction was carried out."""
        self._count = 0
