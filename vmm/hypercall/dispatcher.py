# SPDX-License-Identifier: Apache-2.0
"""From a trapped hypercall to its handler and back to the caller's registers.

Order of the checks: processor mode, interface enabled, code known, privilege and caller's VTL, then what
`vmm.hypercall.prepared` lists.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic

from vmm.hv.call_codes import HypercallCode
from vmm.hv.constants import HV_EXT_CALL_FIRST
from vmm.hv.status import HvStatus
from vmm.hypercall.call import C, CallKind, Features
from vmm.hypercall.calls import CALLS_BY_CODE, EXTENDED_HYPERCALLS
from vmm.hypercall.control import CODE_MASK, REP_MASK, REP_START_SHIFT, result_value
from vmm.hypercall.convention import ILLEGAL, Outcome, operands, set_result
from vmm.hypercall.header import RefusedError
from vmm.hypercall.outside import AccessInterceptedError, CallerRegisters
from vmm.hypercall.prepared import HandledCall, Prepared, prepare
from vmm.outside import GuestMemoryError

_log = logging.getLogger(__name__)

INTERNAL_ERRORS_LOGGED: Final = 16
"""Internal errors written to the log with their trace; a guest that repeats one must not fill the disk."""
PREPARED_KEPT: Final = 512
"""Control words whose preparation is kept, around a kilobyte each and their parsed input. A guest uses some dozens;
one that cycles through more pays for preparing them again."""

_COMPLETED: Final = Outcome.COMPLETED
_INVALID_OPCODE: Final = Outcome.INVALID_OPCODE
_OUTCOMES: Final = {int(outcome): outcome for outcome in Outcome}
_ACCESS_DENIED: Final = int(HvStatus.ACCESS_DENIED)
_INVALID_ALIGNMENT: Final = int(HvStatus.INVALID_ALIGNMENT)
_INVALID_CODE: Final = int(HvStatus.INVALID_HYPERCALL_CODE)
_INVALID_INPUT: Final = int(HvStatus.INVALID_HYPERCALL_INPUT)


class Dispatcher(Generic[C]):
    """The hypercalls of a partition. Thread-safe: each virtual processor's thread may call `dispatch`."""

    def __init__(
        self,
        handlers: Mapping[int, Callable[..., Any]],
        *,
        features: Features | None = None,
        on_internal_error: Callable[[str, Exception], None] | None = None,
    ) -> None:
        """`handlers`: call code to `Handler` (`VtlSwitchHandler` for the two VTL switches).

        A row of the table without a handler answers as an unknown code and is not announced
        (`vmm.hypercall.announce`). `on_internal_error` is told the call's name and the exception, on the calling
        thread. `ValueError` for a code that the table does not have.
        """
        self.features = features or Features()
        self.internal_errors = 0
        """Exceptions and contract breaches of handlers so far; the guest got OPERATION_FAILED."""
        self._on_internal_error = on_internal_error
        self._handled: dict[int, HandledCall] = {}
        self._prepared: dict[int, Prepared] = {}
        for code, handler in handlers.items():
            call = CALLS_BY_CODE.get(code)
            if call is None:
                raise ValueError(
                    f"no row for call {HypercallCode.describe(code)}: add it to vmm.hypercall.calls"
                )
            self._handled[code] = HandledCall(call, handler, self.features)

    @property
    def codes(self) -> frozenset[int]:
        """The calls that have a handler."""
        return frozenset(self._handled)

    def dispatch(self, context: C, registers: CallerRegisters, mode: int) -> Outcome:
        """Carry out the hypercall that `context`'s processor, in `mode` (a `CallerMode`), has trapped with.

        Returns what to do with RIP; never raises for anything that a guest or a handler does.

        Implements: HC-002, HC-008, HC-014, HC-018, HC-022
        """
        if mode == ILLEGAL or not context.hypercalls_enabled:
            return _INVALID_OPCODE
        control, first, second = operands(registers, mode)
        result = self.answer(context, registers, mode, control, first, second)
        if result < 0:
            return _OUTCOMES[result]
        set_result(registers, mode, result)
        return _COMPLETED

    def answer(
        self, context: C, registers: CallerRegisters, mode: int, control: int, first: int, second: int
    ) -> int:
        """The part of `dispatch` behind the caller's mode and registers: the result value, or a negative `Outcome`.

        For a transport that has the operands (`convention.operands`) and stores the result value its own way. The
        mode is legal, the interface enabled. `registers` are looked at by few calls and hold the same operands; they
        get a continued call's control word and fast output.
        """
        prepared = self._prepared.get(control)
        if (
            prepared is None
            or context.privileges & prepared.privileges != prepared.privileges
            or context.vtl < prepared.min_caller_vtl
        ):
            return self._first_time(context, registers, mode, control, first, second)
        try:
            return prepared.run(context, registers, mode, first, second)
        except Exception as error:
            return self._failed(prepared, context, control, error)

    def _failed(self, prepared: Prepared, context: C, control: int, error: Exception) -> int:
        """What an exception of a prepared call means to its caller.

        Implements: HC-005
        """
        if isinstance(error, RefusedError):
            status = error.status
        elif isinstance(error, GuestMemoryError):
            status = _INVALID_ALIGNMENT
        elif isinstance(error, AccessInterceptedError):
            context.intercept_memory_access(error.gpa, error.write)
            return int(Outcome.INTERCEPT)
        else:
            self._count_internal_error(prepared.call.name, error)
            if prepared.call.kind is CallKind.VTL_SWITCH:
                return int(_INVALID_OPCODE)
            status = int(HvStatus.OPERATION_FAILED)
        # What earlier slices of a rep call have done stays done.
        return result_value(status, control >> REP_START_SHIFT & REP_MASK)

    def _first_time(
        self, context: C, registers: CallerRegisters, mode: int, control: int, first: int, second: int
    ) -> int:
        """A control word that was not met before, that is not valid, or that this caller may not use.

        Implements: HC-013, HC-018, HC-020
        """
        code = control & CODE_MASK
        handled = self._handled.get(code)
        if handled is None:
            # Extended codes tell nothing to a partition that may not use them.
            if code >= HV_EXT_CALL_FIRST and not context.privileges & EXTENDED_HYPERCALLS:
                return _ACCESS_DENIED
            return _INVALID_CODE
        call = handled.call
        if context.privileges & call.privileges != call.privileges or context.vtl < call.min_caller_vtl:
            return int(_INVALID_OPCODE) if call.kind is CallKind.VTL_SWITCH else _ACCESS_DENIED
        prepared = prepare(handled, self.features, control)
        if prepared is None:
            return _INVALID_INPUT
        if len(self._prepared) >= PREPARED_KEPT:
            self._prepared.clear()
        self._prepared[control] = prepared
        return self.answer(context, registers, mode, control, first, second)

    def _count_internal_error(self, name: str, error: Exception) -> None:
        self.internal_errors += 1
        if self.internal_errors <= INTERNAL_ERRORS_LOGGED:
            _log.error("internal error in %s, the guest gets OPERATION_FAILED", name, exc_info=error)
        if self._on_internal_error is not None:
            self._on_internal_error(name, error)
