# SPDX-License-Identifier: Apache-2.0
"""How carrying out an instruction can end early. None of these exceptions leaves `Emulator.carry_out`."""

from __future__ import annotations

from kvmapi.uapi.x86 import GP_VECTOR, PF_VECTOR, UD_VECTOR


class GuestFaultError(Exception):
    """The instruction raises an exception in the guest instead of taking effect.

    error_code: None for vectors that have none. cr2: the faulting linear address of a #PF.
    """

    def __init__(self, vector: int, error_code: int | None = None, cr2: int | None = None) -> None:
        super().__init__(f"vector {vector}, error code {error_code}, cr2 {cr2}")
        self.vector = vector
        self.error_code = error_code
        self.cr2 = cr2


class ProtectedError(Exception):
    """A higher VTL does not allow an access of the instruction, which has no effect then.

    gpa: the first byte that is refused. gva: the address that was accessed, or translated. page_walk: it is an access
    to a page table. Neither write nor fetch: a read.
    """

    def __init__(
        self, gpa: int, gva: int, *, write: bool = False, fetch: bool = False, page_walk: bool = False
    ) -> None:
        super().__init__(f"an access to {gpa:#x}, at {gva:#x}, is not allowed to the VTL")
        self.gpa = gpa
        self.gva = gva
        self.write = write
        self.fetch = fetch
        self.page_walk = page_walk


class DeclinedError(Exception):
    """Not an instruction or a case that this package carries out. The message says which."""


def undefined_opcode() -> GuestFaultError:
    """#UD."""
    return GuestFaultError(UD_VECTOR)


def general_protection(error_code: int = 0) -> GuestFaultError:
    """#GP(error_code)."""
    return GuestFaultError(GP_VECTOR, error_code)


def page_fault(linear_address: int, error_code: int) -> GuestFaultError:
    """#PF(error_code) at `linear_address`."""
    return GuestFaultError(PF_VECTOR, error_code, linear_address)
