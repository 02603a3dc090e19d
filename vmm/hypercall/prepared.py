# SPDX-License-Identifier: Apache-2.0
"""A control word with everything that follows from it alone, computed once and kept: the call it stands for.

Guests make the same few calls over and over, with the same control words and often the same parameters. `prepare`
checks a word and works out sizes, bounds and readers; `run` is left with the caller's operands, memory and handler.
It returns the result value, or a negative `Outcome`. What a short input block parses to is kept too: a reader is a
function of the block and the caller's VTL, and what it makes cannot be changed.

Order: control word, room in registers or page, input, header with its VTL, output page, handler, output. The TLFS
leaves the order open but prefers the answer that tells an unprivileged caller least (HC-018): rights come before all
of this, in `Dispatcher`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from vmm.hv.constants import HV_PAGE_SIZE
from vmm.hv.status import HvStatus
from vmm.hypercall.call import AGAIN, Call, CallInput, CallKind, Features, Handler, Reply, VtlSwitchHandler
from vmm.hypercall.control import (
    FAST,
    NESTED,
    REP_BITS,
    REP_COUNT_SHIFT,
    REP_MASK,
    REP_START_SHIFT,
    RESERVED,
    VARIABLE_HEADER_BITS,
    VARIABLE_HEADER_SHIFT,
    result_value,
    with_rep_start,
)
from vmm.hypercall.convention import (
    BITS_64,
    FAST_GENERAL_SIZE,
    FAST_SIZE,
    LOW_32,
    Outcome,
    chunks,
    set_control_word,
    write_fast_output,
)
from vmm.hypercall.elements import U64_ELEMENTS, Reader
from vmm.hypercall.header import HeaderReader, header_reader
from vmm.hypercall.outside import CallerRegisters, HypercallContext

SUCCESS: Final = int(HvStatus.SUCCESS)
INVALID_INPUT: Final = int(HvStatus.INVALID_HYPERCALL_INPUT)
INVALID_ALIGNMENT: Final = int(HvStatus.INVALID_ALIGNMENT)
INVALID_OPCODE: Final = int(Outcome.INVALID_OPCODE)
RETRY: Final = int(Outcome.RETRY)
VTL_SWITCH: Final = int(Outcome.VTL_SWITCH)

_IN_PAGE: Final = HV_PAGE_SIZE - 1
_UNALIGNED: Final = 7
_pack_pair: Final = struct.Struct("<QQ").pack
_new: Final = tuple.__new__

PARSED_BYTES: Final = 64
"""The longest input block whose values are kept: register numbers, sets of processors, connections."""
PARSED_KEPT: Final = 32
"""Input blocks kept for each control word, around 500 bytes each. A guest that cycles through more pays for parsing
them again."""


class HandlerError(Exception):
    """A handler raised, or its reply breaks its contract. The cause, if there is one, is chained."""


class HandledCall:
    """A row of the call table and its handler."""

    __slots__ = ("call", "forbidden", "handler", "read_header")

    def __init__(self, call: Call, handler: Handler[Any] | VtlSwitchHandler[Any], features: Features) -> None:
        if (call.kind is CallKind.REP) != (call.element is not None):
            raise ValueError(f"{call.name}: a rep call has an input element, and no other call has")
        self.call = call
        self.handler: Callable[..., Any] = handler
        self.read_header: HeaderReader = header_reader(call)
        self.forbidden = (
            RESERVED
            | (0 if features.nested else NESTED)
            | (0 if call.variable_header else VARIABLE_HEADER_BITS)
            | (0 if call.kind is CallKind.REP else REP_BITS)
        )


def prepare(
    handled: HandledCall, features: Features, control: int
) -> PreparedSimple | PreparedRep | PreparedVtlSwitch | None:
    """The call that a control word makes of a row, or None when the word is not valid for it.

    Implements: HC-001, HC-011, HC-012
    """
    call = handled.call
    if call.kind is CallKind.VTL_SWITCH:
        return PreparedVtlSwitch(handled)
    if control & handled.forbidden:
        return None
    qwords = (control & VARIABLE_HEADER_BITS) >> VARIABLE_HEADER_SHIFT
    fast = bool(control & FAST)
    if call.kind is CallKind.SIMPLE:
        return PreparedSimple(handled, features, fast, qwords)
    count = control >> REP_COUNT_SHIFT & REP_MASK
    start = control >> REP_START_SHIFT & REP_MASK
    if start >= count:
        return None
    return PreparedRep(handled, features, fast, qwords, control, start, count)


def _fast_refusal(features: Features, bits_64: bool, input_size: int, output_size: int) -> int:
    """What a fast call ends with that does not fit the registers its caller may use; 0 when it fits.

    Implements: HC-006, HC-007
    """
    if chunks(input_size) + output_size > FAST_SIZE:
        return INVALID_INPUT
    if output_size and not bits_64:
        return INVALID_INPUT
    if output_size and not features.xmm_output:
        return INVALID_OPCODE
    if input_size > FAST_GENERAL_SIZE and not features.xmm_input:
        return INVALID_OPCODE
    return 0


class _Prepared:
    """Where the parameters of simple and rep calls lie. Sizes in bytes.

    Implements: HC-003, HC-004
    """

    __slots__ = (
        "_fast",
        "_fast_output",
        "_fast_refusals",
        "_fetch",
        "_handler",
        "_header_size",
        "_input_room",
        "_input_size",
        "_misplaced",
        "_output_offset",
        "_output_page",
        "_output_room",
        "_output_size",
        "_pack",
        "_parsed",
        "_parsed_kept",
        "_read_elements",
        "_read_header",
        "_read_size",
        "_read_variable",
        "_reply_size",
        "_xmm_size",
        "call",
        "min_caller_vtl",
        "privileges",
    )

    def __init__(
        self,
        handled: HandledCall,
        features: Features,
        fast: bool,
        qwords: int,
        *,
        count: int = 0,
        start: int = 0,
        end: int = 0,
    ) -> None:
        """A rep call handles elements `start` to `end` of `count`; a simple call has none."""
        call = self.call = handled.call
        self.privileges = call.privileges
        self.min_caller_vtl = call.min_caller_vtl
        self._handler = handled.handler
        self._read_header = handled.read_header
        self._read_variable = U64_ELEMENTS.reader(call.header_size, qwords) if call.variable_header else None

        self._header_size = call.header_size + 8 * qwords
        self._input_size = self._header_size + call.element_size * count
        self._read_size = self._header_size + call.element_size * end
        reps = 1 if call.kind is CallKind.SIMPLE else count
        self._pack = call.output.pack if call.output is not None else None
        self._output_size = call.output_size * reps
        self._output_offset = call.output_size * start
        self._reply_size = call.output_size * (1 if call.kind is CallKind.SIMPLE else end - start)

        self._input_room = HV_PAGE_SIZE - self._input_size
        self._output_room = HV_PAGE_SIZE - self._output_size
        self._misplaced = result_value(INVALID_ALIGNMENT, start)
        self._fast = fast
        self._output_page = bool(self._output_size) and not fast
        self._xmm_size = max(0, self._input_size - FAST_GENERAL_SIZE)
        self._fast_output = chunks(self._input_size) + self._output_offset
        self._fast_refusals = tuple(
            _fast_refusal(features, bits_64, self._input_size, self._output_size) if fast else 0
            for bits_64 in (False, True)
        )
        self._read_elements: Reader | None = None
        self._parsed: dict[tuple[bytes, int], CallInput[Any, Any]] = {}
        self._parsed_kept = PARSED_KEPT if self._read_size <= PARSED_BYTES else 0
        self._fetch = self._from_registers if fast else self._from_memory

    def _from_registers(self, context: HypercallContext, mode: int, first: int, second: int) -> bytes | int:
        """Fast input, or what the call ends with because it, or the output, does not fit the caller's registers."""
        if refusal := self._fast_refusals[mode == BITS_64]:
            return refusal
        if self._xmm_size:
            return _pack_pair(first, second) + context.xmm.read(self._xmm_size)
        return _pack_pair(first, second)

    def _from_memory(self, context: HypercallContext, mode: int, first: int, second: int) -> bytes | int:
        """The input list, or what the call ends with because it, or the output list, is in the wrong place."""
        if self._input_size and (first & _UNALIGNED or first & _IN_PAGE > self._input_room):
            return self._misplaced
        if self._output_size and (second & _UNALIGNED or second & _IN_PAGE > self._output_room):
            return self._misplaced
        return context.memory.read(first, self._read_size) if self._read_size else b""

    def _parse(self, block: bytes, vtl: int) -> CallInput[Any, Any]:
        """The values in an input block of a caller in `vtl`. Raises `RefusedError`."""
        header = self._read_header(block, vtl)
        elements = () if self._read_elements is None else self._read_elements(block)
        variable = () if self._read_variable is None else self._read_variable(block)
        call: CallInput[Any, Any] = _new(CallInput, (header, elements, variable))
        if self._parsed_kept:
            if len(self._parsed) >= self._parsed_kept:
                self._parsed.clear()
            self._parsed[block, vtl] = call
        return call

    def _store(
        self, context: HypercallContext, registers: CallerRegisters, second: int, output: bytes
    ) -> None:
        """Put the output where the caller wants it: behind what earlier slices stored.

        `AccessInterceptedError` where the page was taken away while the handler ran. The call is then made again, and
        with it what the handler does (`Handler`): nothing else could be stored but an answer that is no longer true.
        """
        if self._fast:
            write_fast_output(registers, context.xmm, self._fast_output, output)
        else:
            context.memory.write(second + self._output_offset, output)


class PreparedSimple(_Prepared):
    """A call that does one thing. When it fails nothing is written.

    Implements: HC-008, HC-019
    """

    __slots__ = ()

    def __init__(self, handled: HandledCall, features: Features, fast: bool, qwords: int) -> None:
        super().__init__(handled, features, fast, qwords)

    def run(
        self, context: HypercallContext, registers: CallerRegisters, mode: int, first: int, second: int
    ) -> int:
        block = self._fetch(context, mode, first, second)
        if isinstance(block, int):
            return block
        call = self._parsed.get((block, context.vtl)) or self._parse(block, context.vtl)
        if self._output_page:
            context.memory.require_writable(second + self._output_offset, self._reply_size)
        try:
            status, _, value = self._handler(context, call)
            output = self._pack((value,)) if self._pack is not None and status == SUCCESS else b""
        except Exception as error:
            raise HandlerError(f"{self.call.name}: the handler raised") from error
        if output:
            self._store(context, registers, second, output)
        return RETRY if status == AGAIN else int(status)


class PreparedRep(_Prepared):
    """A call that does the same to each element of a list, a slice of it at a time.

    Implements: HC-008, HC-010, HC-015, HC-016, HC-019
    """

    __slots__ = ("_control", "_count", "_done", "_reps", "_start")

    def __init__(
        self,
        handled: HandledCall,
        features: Features,
        fast: bool,
        qwords: int,
        control: int,
        start: int,
        count: int,
    ) -> None:
        call = handled.call
        end = min(count, start + call.reps_per_slice)
        super().__init__(handled, features, fast, qwords, count=count, start=start, end=end)
        assert call.element is not None  # HandledCall checked it
        self._read_elements = call.element.reader(self._header_size + call.element_size * start, end - start)
        self._control = control
        self._start = start
        self._count = count
        self._reps = end - start
        self._done = result_value(SUCCESS, count) if end == count else None
        """The result when all that is asked for is done; None: a further slice follows."""

    def run(
        self, context: HypercallContext, registers: CallerRegisters, mode: int, first: int, second: int
    ) -> int:
        block = self._fetch(context, mode, first, second)
        if isinstance(block, int):
            return block
        call = self._parsed.get((block, context.vtl)) or self._parse(block, context.vtl)
        if self._output_page:
            context.memory.require_writable(second + self._output_offset, self._reply_size)
        try:
            status, done, values = self._handler(context, call)
            output = self._pack(values) if self._pack is not None and done else b""
        except Exception as error:
            raise HandlerError(f"{self.call.name}: the handler raised") from error
        complete = status == SUCCESS and done == self._reps and len(output) == self._reply_size
        if not complete:
            self._check((status, done, output))

        if output:
            self._store(context, registers, second, output)
        if complete and self._done is not None:
            return self._done
        completed = self._start + done
        if status in (AGAIN, SUCCESS):
            if done:
                set_control_word(registers, mode, with_rep_start(self._control, completed))
            return RETRY
        return result_value(int(status), completed)

    def _check(self, reply: Reply) -> None:
        """`HandlerError` when a handler's reply contradicts itself; the guest must never see such a one."""
        status, done, output = reply
        if not (done == self._reps if status == SUCCESS else 0 <= done < self._reps):
            raise HandlerError(f"{self.call.name}: status {status:#x} with {done} of {self._reps} reps done")
        if len(output) != done * self.call.output_size:
            raise HandlerError(f"{self.call.name}: {done} reps done, but {len(output)} bytes of output")


class PreparedVtlSwitch:
    """HvCallVtlCall and HvCallVtlReturn: no parameters in memory, no result, errors are #UD.

    A 64-bit caller has the code alone in RCX and the control value in RAX; a 32-bit one the code in EAX and the
    control value in ECX.

    Implements: VSM-041
    """

    __slots__ = ("_code", "_control_mask", "_handler", "call", "min_caller_vtl", "privileges")

    def __init__(self, handled: HandledCall) -> None:
        self.call = handled.call
        self.privileges = handled.call.privileges
        self.min_caller_vtl = handled.call.min_caller_vtl
        self._code = int(handled.call.code)
        self._control_mask = handled.call.control_mask
        self._handler = handled.handler

    def run(
        self, context: HypercallContext, registers: CallerRegisters, mode: int, first: int, second: int
    ) -> int:
        if mode == BITS_64:
            code, control = registers.rcx, registers.rax
        else:
            # EDX carries guest data here: only EAX is the code.
            code, control = registers.rax & LOW_32, registers.rcx & LOW_32
        if code != self._code or control & ~self._control_mask:
            return INVALID_OPCODE
        try:
            switched = self._handler(context, control)
        except Exception as error:
            raise HandlerError(f"{self.call.name}: the handler raised") from error
        return VTL_SWITCH if switched else INVALID_OPCODE


Prepared = PreparedSimple | PreparedRep | PreparedVtlSwitch
"""What `Dispatcher` keeps by control word."""
