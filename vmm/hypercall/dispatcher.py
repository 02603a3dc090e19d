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
from vmm.hypercall.convention import BITS_64, ILLEGAL, Outcome, control_word, set_result
from vmm.hypercall.header import RefusedError
from vmm.hypercall.outside import AccessInterceptedError, CallerRegisters
from vmm.hypercall.prepared import HandledCall, Prepared, prepare
from vmm.outside import GuestMemoryError

_log = logging.getLogger(__name__)

INTERNAL_ERRORS_LOGGED: Final = 16
"""Internal errors written to the log with their trace; a guest that repeats one must not fill the disk."""
PREPARED_KEPT: Final = 1024
"""Control words whose preparation is kept, around a kilobyte each. A guest uses some dozens; one that cycles through
more pays for preparing them again."""

_COMPLETED: Final = Outcome.COMPLETED
_INVALID_OPCODE: Final = Outcome.INVALID_OPCODE
_OUTCOMES: Final = {int(outcome): outcome for outcome in Outcome}
_ACCESS_DENIED: Final = int(HvStatus.ACCESS_DENIED)
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
        if mode == BITS_64:
            control = registers.rcx
        elif mode == ILLEGAL:
            return _INVALID_OPCODE
        else:
            control = control_word(registers, mode)
        if not context.hypercalls_enabled:
            return _INVALID_OPCODE

        prepared = self._prepared.get(control)
        if (
            prepared is not None
            and context.privileges & prepared.privileges == prepared.privileges
            and context.vtl >= prepared.min_caller_vtl
        ):
            result = self._run(prepared, context, registers, mode, control)
        else:
            result = self._first_time(context, registers, mode, control)

        if result < 0:
            return _OUTCOMES[result]
        if mode == BITS_64:
            registers.rax = result
        else:
            set_result(registers, mode, result)
        return _COMPLETED

    def _run(
        self, prepared: Prepared, context: C, registers: CallerRegisters, mode: int, control: int
    ) -> int:
        """The prepared call, and what its exceptions mean to the caller.

        Implements: HC-005
        """
        try:
            return prepared.run(context, registers, mode)
        except RefusedError as refused:
            status = refused.status
        except GuestMemoryError:
            status = int(HvStatus.INVALID_ALIGNMENT)
        except AccessInterceptedError as intercepted:
            context.intercept_memory_access(intercepted.gpa, intercepted.write)
            return int(Outcome.INTERCEPT)
        except Exception as error:
            self._count_internal_error(prepared.call.name, error)
            if prepared.call.kind is CallKind.VTL_SWITCH:
                return int(_INVALID_OPCODE)
            status = int(HvStatus.OPERATION_FAILED)
        # What earlier slices of a rep call have done stays done.
        return result_value(status, control >> REP_START_SHIFT & REP_MASK)

    def _first_time(self, context: C, registers: CallerRegisters, mode: int, control: int) -> int:
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
        return self._run(prepared, context, registers, mode, control)

    def _count_internal_error(self, name: str, error: Exception) -> None:
        self.internal_errors += 1
        if self.internal_errors <= INTERNAL_ERRORS_LOGGED:
            _log.error("internal error in %s, the guest gets OPERATION_FAILED", name, exc_info=error)
        if self._on_internal_error is not None:
            self._on_internal_error(name, error)
