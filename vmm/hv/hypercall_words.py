# SPDX-License-Identifier: Apache-2.0
"""The words a hypercall begins and ends with (TLFS 3.7, 3.8), and the byte that names a VTL (TLFS 15.15.1)."""

from __future__ import annotations

from vmm.hv.bits import Bits, bit, bits, reserved, rsvdz
from vmm.hv.call_codes import HypercallCode
from vmm.hv.status import HvStatus


class HV_HYPERCALL_INPUT(Bits):
    """The control word: RCX, or EDX:EAX of a 32-bit caller.

    Bit positions of the markdown, hvdef and Linux; v6.0b has the variable header at 25:17 and IsNested at 26 (DIS-19).
    """

    CallCode = bits(0, 16, HypercallCode)
    IsFast = bit(16)
    VariableHeaderSize = bits(17, 10)
    """In units of 8 bytes."""
    RsvdZ1 = rsvdz(27, 4)
    IsNested = bit(31)
    RepCount = bits(32, 12)
    RsvdZ2 = rsvdz(44, 4)
    RepStartIndex = bits(48, 12)
    RsvdZ3 = rsvdz(60, 4)


class HV_HYPERCALL_RESULT(Bits):
    """The result: RAX, or EDX:EAX of a 32-bit caller. Guests ignore the reserved bits; zero is written (DIS-20)."""

    Status = bits(0, 16, HvStatus)
    Rsvd = reserved(16, 16)
    RepsCompleted = bits(32, 12)
    """Absolute: the start index is included (HC-010)."""
    Rsvd2 = reserved(44, 20)


class HV_INPUT_VTL(Bits, size=1):
    """Which VTL a hypercall is about: the caller's, unless UseTargetVtl is set (TLFS 15.15.1)."""

    TargetVtl = bits(0, 4)
    UseTargetVtl = bit(4)
    ReservedZ = rsvdz(5, 3)
