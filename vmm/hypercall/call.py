# SPDX-License-Identifier: Apache-2.0
"""What a row of the call table says, and what a handler gets and gives."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from vmm.hv.bits import BitField
from vmm.hv.call_codes import HypercallCode
from vmm.hv.layout import Layout
from vmm.hv.status import HvStatus
from vmm.hypercall.elements import Elements
from vmm.hypercall.outside import HypercallContext

C = TypeVar("C", bound=HypercallContext)
C_contra = TypeVar("C_contra", bound=HypercallContext, contravariant=True)
H = TypeVar("H")
E = TypeVar("E")

REPS_PER_SLICE: Final = 64
"""Elements handed to a handler in one go. A hypercall is to give the processor back within 50 us (TLFS 3.3); an
element costs a handler around a microsecond, a continuation one more exit of about 10 us."""


class CallKind(enum.Enum):
    """Hypercall classes (TLFS 3.2), and the two calls with a form of their own (TLFS 15.6, 15.7)."""

    SIMPLE = "simple"
    REP = "rep"
    VTL_SWITCH = "VTL switch"


class VtlForm(enum.Enum):
    """How a header names the VTL that a call is about."""

    INPUT_VTL = "HV_INPUT_VTL"
    """A byte: the caller's VTL unless UseTargetVtl is set; its bits 7:5 must be zero (REG-003)."""
    PLAIN = "VTL number"
    """A byte with the number alone."""
    IN_FLAGS = "HV_INPUT_VTL in bits 63:56"
    """As `INPUT_VTL`, in the top byte of a 64-bit field."""


@dataclass(frozen=True, slots=True)
class TargetVtl:
    """The VTL field of a header, and whether it may name a VTL above the caller.

    The dispatcher checks it (a bad form is INVALID_PARAMETER, a VTL that is too high ACCESS_DENIED) and hands the
    header to the handler with the field resolved: UseTargetVtl set, TargetVtl the VTL that is meant.
    """

    field: str
    form: VtlForm = VtlForm.INPUT_VTL
    above_caller: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One hypercall as the TLFS describes it. Sizes in bytes follow from the layouts."""

    code: HypercallCode
    section: str
    """Where it is described."""
    kind: CallKind = CallKind.SIMPLE
    header: type[Layout] | None = None
    """The fixed part of the input."""
    variable_header: bool = False
    """Whether the header may go on by the 8-byte units that the control word counts."""
    element: Elements | None = None
    """An input element of a rep call."""
    output: Elements | None = None
    """The output of a simple call (one), or of each rep."""
    requires: tuple[BitField[bool], ...] = ()
    """Bits of HV_PARTITION_PRIVILEGE_MASK, all of them needed; else ACCESS_DENIED."""
    min_caller_vtl: int = 0
    """The lowest VTL that may call; else ACCESS_DENIED (#UD for a VTL switch)."""
    target_vtl: TargetVtl | None = None
    refuse_reserved: bool = False
    """Whether RsvdZ bytes of the header that are not zero are INVALID_PARAMETER (HC-017). Off where released guests
    leave them uninitialised."""
    announces: tuple[BitField[bool], ...] = ()
    """CPUID bits that tell a guest of it. A bit is set when all calls that name it have handlers."""
    control_mask: int = 0
    """VTL switch: the bits that its control value may have set."""
    items: tuple[str, ...] = ()
    """Items of the requirement checklist about this call. What they say of its form is carried out by this row, what
    they say of its effect by its handler."""
    notes: str = ""
    reps_per_slice: int = field(default=REPS_PER_SLICE)

    @property
    def name(self) -> str:
        """The TLFS name."""
        return self.code.name

    @property
    def privileges(self) -> int:
        """`requires` as a mask."""
        return sum(needed.mask for needed in self.requires)

    @property
    def header_size(self) -> int:
        """Bytes of the fixed header."""
        return self.header.SIZE if self.header is not None else 0

    @property
    def element_size(self) -> int:
        """Bytes of an input element."""
        return self.element.size if self.element is not None else 0

    @property
    def output_size(self) -> int:
        """Bytes of the output, of one rep's where the call is a rep call."""
        return self.output.size if self.output is not None else 0


class CallInput(NamedTuple, Generic[H, E]):
    """What a handler gets: a copy, so the guest cannot change it any more."""

    header: H
    """A value of the row's layout; None for a call without a header."""
    elements: tuple[E, ...] = ()
    """Rep elements from the first unfinished one on: at least one, at most `Call.reps_per_slice`."""
    variable: tuple[int, ...] = ()
    """The variable header as 64-bit numbers, perhaps none."""


AGAIN: Final = -1
"""In place of a status: the call is not finished. The caller stays at its trap instruction, interrupts are delivered,
and the call is made again, from the first element that is not done."""

Reply = tuple[int, int, Any]
"""`(status, reps done, output)`.

status
    an `HvStatus`, or `AGAIN`.
reps done
    of a rep call: how many of `CallInput.elements` are finished: all of them with SUCCESS, those before the
    bad one with an error. 0 for a simple call.
output
    one value for a simple call with output, ignored unless SUCCESS; a sequence of as many values as reps are done for a
    rep call with output; None for the others.
"""

DONE: Final[Reply] = (int(HvStatus.SUCCESS), 0, None)
"""Success of a simple call without output."""


def failed(status: HvStatus, reps_done: int = 0, output: Sequence[Any] = ()) -> Reply:
    """The reply of a call that ends with an error; of a rep call with what it finished."""
    return status, reps_done, output


Handler = Callable[[C_contra, CallInput[Any, Any]], Reply]
"""Carries out a call for the context that the backend gave to `dispatch`. It never touches the guest's buffers or
registers, and answers everything a guest can ask with a status; an exception is counted as an internal error.

One with output is asked again where a higher VTL has taken the output page away since it was found writable: to be done
twice must have no further effect."""

VtlSwitchHandler = Callable[[C_contra, int], bool]
"""Carries out HvCallVtlCall or HvCallVtlReturn: gets the context and the control value, its reserved bits being zero,
and sets the switch up. False when there is no VTL to go to (#UD)."""


class Features(NamedTuple):
    """What of the calling convention this partition is offered, as CPUID announces it."""

    xmm_input: bool = True
    """Leaf 0x40000003 EDX bit 4."""
    xmm_output: bool = True
    """Leaf 0x40000003 EDX bit 15."""
    nested: bool = False
    """Whether control word bit 31 may be set, that is, whether the caller runs under a hypervisor of its own (leaf
    0x40000004 EAX bit 12). It is a reserved bit otherwise, as in Linux' KVM."""
