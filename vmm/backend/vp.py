# SPDX-License-Identifier: Apache-2.0
"""A virtual processor: one thread that runs one vCPU at a time and hands its exits to the board.

A VP has a vCPU for each of its VTLs, each in that VTL's KVM VM; which one runs is the thread's own to change
(`run_vtl`). The hot loop is `KVM_RUN` -> decode -> handle -> `KVM_RUN`: one ioctl per exit, payload read through
prebuilt views, dispatch by dicts of bound methods, no allocation on the common path (plain ints in the loop, names at
the edges).
"""

from __future__ import annotations

import errno
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from kvmapi import Vcpu
from kvmapi.run import PAGE_SIZE
from kvmapi.uapi import kvm as k
from kvmapi.uapi.x86_board import KVM_PIO_PAGE_OFFSET
from vmm.backend import host_thread, kick, vp_report
from vmm.backend.outcome import STATUS_BAD_INPUT, Outcome, OutcomeKind
from vmm.bus import NO_OUT, MmioBus, PortBus

if TYPE_CHECKING:
    from kvmapi import Exit
    from vmm.backend.emulation.emulator import Emulator

# struct kvm_run: io at 32 is (direction u8, size u8, port u16, count u32, data_offset u64)
_IO = Struct("<BBHIQ").unpack_from
# mmio at 32 is (phys_addr u64, data u8[8], len u32, is_write u8)
_MMIO = Struct("<QQIB").unpack_from
_EXIT_PAYLOAD = 32
_EXIT_REASON_U32 = 2  # exit_reason is at byte 8
_MMIO_DATA_U64 = 5  # mmio.data is at byte 40
_IO_ACCESS_U64 = 4  # io.direction, size, port and count are bytes 32 to 39
_IO_DATA_U32 = KVM_PIO_PAGE_OFFSET * PAGE_SIZE // 4  # where KVM has the data of every IN and OUT
_EXIT_U64 = slice(1, 5)  # bytes 8 to 39: exit_reason, interrupt flags, CR8, APIC base, and the I/O access
_NO_EXIT = (1 << 64) - 1  # as the first of them: no exit has this reason
_IMMEDIATE_EXIT = 1
BEFORE_ENTRY = -(1 << 16)
"""Key of a VTL's handlers for what is called once before that VTL runs on, behind `after_kick`; it removes itself."""
AFTER_KICK = -(1 << 16) - 1
"""The same for what is called each time before that VTL runs on, behind `after_kick` and unless `held`."""

T_co = TypeVar("T_co", covariant=True)

REFUSED_ACCESS: Final = -errno.EFAULT
"""The key of `VirtualProcessor.handlers` for a `KVM_RUN` that fails with EFAULT: the host refuses an access."""

Handler = Callable[[], None]
EndRun = Callable[[Outcome], None]
InEntry = tuple[Callable[[int, int], int], int, int, int]
"""`(read, offset, size, mask)` of an IN."""
OutEntry = tuple[Callable[[int, int, int], None], int, int, int]
"""`(write, offset, size, mask)` of an OUT."""


class Lookup(Protocol[T_co]):
    """A dict, as far as the loop uses it."""

    def get(self, access: int, /) -> T_co | None:
        """What `access` (`vmm.bus.access`) leads to; None: `handlers[KVM_EXIT_IO]` has it."""


class Ports(Protocol):
    """Where INs and OUTs of one item lead."""

    @property
    def ins(self) -> Lookup[InEntry]:
        """Looked at anew after each kick."""

    @property
    def outs(self) -> Lookup[OutEntry]:
        """The same."""


class VirtualProcessor:
    """VP `index` and its thread. Made stopped and frozen; `start` makes the thread, `thaw` lets it run.

    A frozen VP's thread is outside `KVM_RUN` with nothing pending, so any thread may then use its vCPUs' ioctls.
    `vcpu`, `handlers`, `emulator` and `ports` are those of the VTL that runs, at first VTL0's.
    """

    def __init__(self, index: int, vcpu: Vcpu, ports: PortBus, mmio: MmioBus, end_run: EndRun) -> None:
        """end_run: told once of what makes the run end; it must freeze all VPs and return at once."""
        self.index = index
        self.vcpu = vcpu
        self._all_vcpus: tuple[Vcpu, ...] = (vcpu,)  # replaced whole, under `_state`
        self.bus = ports
        self.ports: Ports = ports
        # What KVM said of the last OUT that a region took. The same again needs no look-up, for which an int would be
        # made: the threads of several VPs make theirs in the same cache lines.
        self._last_out = memoryview(bytearray(32)).cast("Q")
        ports.on_remove(self._forget_last_out)
        self._mmio = mmio
        self._end_run = end_run
        self._thread = threading.Thread(target=self._main, name=f"vp-{index}", daemon=True)
        self.host_cpu: int | None = None  # what the thread is bound to; None: the host's scheduler decides
        self._state = threading.Condition()
        self._freeze_wanted = True
        self._kept_out = False  # as if frozen, for the time of another VP's single instruction
        self._frozen = False
        self._stop_wanted = False
        self._ended = False  # the thread is past its last line, or will never be started
        # Called on the VP's thread after each `kick`, before the guest goes on.
        self.after_kick: Handler = self._nothing
        # Called on the VP's thread when it has left the guest for others, before they may use its vCPUs.
        self.before_stop: Handler = self._nothing
        # Set by `after_kick`: the VP must not enter the guest until it has been kicked again.
        self.held = False
        # Finishes instructions that KVM cannot; without it they end the run.
        self.emulator: Emulator | None = None
        self.handlers = self.common_handlers()

    def common_handlers(self) -> dict[int, Handler]:
        """What each VTL's exits lead to, by exit reason: a dict of the caller's own, which knows every reason.

        A negative key is for a `KVM_RUN` that fails with that error number; `vmm.bus.access` for one to a port that no
        region has.
        """
        handlers: dict[int, Handler] = defaultdict(lambda: self._unexpected)
        handlers |= {
            k.KVM_EXIT_IO: self._other_io,
            k.KVM_EXIT_MMIO: self._mmio_exit,
            k.KVM_EXIT_IRQ_WINDOW_OPEN: self._nothing,
            k.KVM_EXIT_INTR: self._nothing,
            k.KVM_EXIT_SHUTDOWN: self._triple_fault,
            k.KVM_EXIT_FAIL_ENTRY: self._entry_failure,
            k.KVM_EXIT_INTERNAL_ERROR: self._internal_error,
        }
        return handlers

    # ---- called from other threads -------------------------------------------------------------------

    def start(self) -> None:
        """Make the thread (once). It freezes at once unless `thaw` came first."""
        self._thread.start()

    def freeze(self) -> None:
        """Ask the thread to leave the guest and stay out. Returns at once; `wait_frozen` waits."""
        with self._state:
            self._freeze_wanted = True
            self._interrupt()

    def wait_frozen(self) -> None:
        """Wait until the thread is out of `KVM_RUN` (or has ended)."""
        if self._thread is threading.current_thread():
            raise RuntimeError("a VP thread cannot wait for itself to freeze")
        with self._state:
            while not self._state.wait_for(
                lambda: self._frozen or self._ended or self._thread.ident is None, kick.AGAIN_S
            ):
                self._interrupt()

    def thaw(self) -> None:
        """Let the guest run (on)."""
        with self._state:
            self._freeze_wanted = False
            self._frozen = self._ended
            self._state.notify_all()

    def keep_out(self) -> None:
        """Have the thread leave the guest and stay out until `let_in`, as `freeze` does. Returns at once.

        For one other VP's thread at a time (`vmm.backend.protection.alone`). The two do not know of each other: a VP
        runs when it is neither frozen nor kept out.
        """
        with self._state:
            self._kept_out = True
            self._interrupt()

    def let_in(self) -> None:
        """End `keep_out`."""
        with self._state:
            self._kept_out = False
            self._state.notify_all()

    def stop(self) -> None:
        """End the thread and wait for it. Idempotent. The vCPU stays open for its owner to close."""
        with self._state:
            self._stop_wanted = True
            self._state.notify_all()
            self._interrupt()
            if self._thread.ident is None:
                self._ended = True
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(kick.AGAIN_S)
            while self._thread.is_alive():
                self.kick()
                self._thread.join(kick.AGAIN_S)

    def kick(self) -> None:
        """Have the thread leave the guest, call `after_kick` and go on. Returns at once; not for the thread itself."""
        with self._state:
            self._interrupt()

    def run_time_ns(self) -> int:
        """Processor time of the VP's thread, in the guest and for it; 0 before `start` and after the end."""
        with self._state:
            if self._thread.ident is None or self._ended:
                return 0
            return time.clock_gettime_ns(time.pthread_getcpuclockid(self._thread.ident))

    def add_vcpu(self, vcpu: Vcpu) -> None:
        """One more VTL's vCPU, which the thread may run from now on."""
        with self._state:
            vcpu.run.u8[_IMMEDIATE_EXIT] = self.vcpu.run.u8[_IMMEDIATE_EXIT]
            self._all_vcpus = (*self._all_vcpus, vcpu)

    def remove_vcpu(self, vcpu: Vcpu) -> None:
        """A vCPU that is not the running one is about to be closed."""
        with self._state:
            self._all_vcpus = tuple(other for other in self._all_vcpus if other is not vcpu)

    def ask_to_stay_out(self, vcpu: Vcpu, wanted: bool) -> None:
        """Have whoever runs `vcpu` next come back at once; not wanted: only if the VP has been kicked."""
        with self._state:
            vcpu.run.u8[_IMMEDIATE_EXIT] = wanted or self.vcpu.run.u8[_IMMEDIATE_EXIT]

    @property
    def all_vcpus(self) -> tuple[Vcpu, ...]:
        """Those of all its VTLs."""
        return self._all_vcpus

    def is_current_thread(self) -> bool:
        """Whether the caller runs on this VP's thread."""
        return self._thread is threading.current_thread()

    def _interrupt(self) -> None:
        """Bring the thread out of `KVM_RUN`. `_state` is held: the thread cannot end between the look and the
        signal, which would hit freed memory then (Python's threads are detached).
        """
        if self._ended:
            return
        # The flags first: a thread that is about to enter sees one, whatever it runs; one inside gets the signal.
        for vcpu in self._all_vcpus:
            vcpu.run.u8[_IMMEDIATE_EXIT] = 1
        self._state.notify_all()
        kick.kick(self._thread)

    # ---- the VP thread -------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            host_thread.tell_name()
            if self.host_cpu is not None:
                host_thread.pin(self.host_cpu)
            if self._attend():
                while self._run_vcpu(self.vcpu):
                    pass
        except Exception as error:  # whatever it is, the guest must not go on unseen
            self._end(OutcomeKind.ERROR, f"VP {self.index}: {type(error).__name__}: {error}", error)
        finally:
            with self._state:
                self._frozen = self._ended = True
                self._state.notify_all()

    def run_vtl(
        self, vcpu: Vcpu, handlers: dict[int, Handler], emulator: Emulator | None, ports: Ports | None = None
    ) -> None:
        """Run another VTL's vCPU from here on. On the VP's own thread, or while it is frozen. ports: None: the bus."""
        self.vcpu, self.handlers, self.emulator, self.ports = vcpu, handlers, emulator, ports or self.bus
        if BEFORE_ENTRY in handlers:
            vcpu.run.u8[_IMMEDIATE_EXIT] = 1  # so that it is asked

    def _run_vcpu(self, vcpu: Vcpu) -> bool:
        """Run `vcpu` until another one, or another way to its ports, is to be taken (True) or the thread is to end.

        Only handlers, and what `_attend` calls, choose another one; regions of the port bus do not.
        """
        ins, outs = self.bus.ins, self.bus.outs
        if self.ports.outs is not outs:
            return self._run_watched(vcpu)
        call, fd, request = vcpu.run_call
        u32, u64 = vcpu.run.u32, vcpu.run.u64
        handlers = self.handlers
        # Names of the loop's own are the fastest to read.
        exit_io, at_reason, at_access, at_data = k.KVM_EXIT_IO, _EXIT_REASON_U32, _IO_ACCESS_U64, _IO_DATA_U32
        exit_, last_out = u64[_EXIT_U64], self._last_out
        self._forget_last_out()
        write, offset, size, mask = NO_OUT  # those of `last_out`
        while True:
            try:
                call(fd, request)
            except OSError as error:
                if not self._run_failed(error.errno or 0):
                    return False
                if vcpu is not self.vcpu or self.ports.outs is not outs:
                    return True
                continue
            if exit_ == last_out:
                write(offset, size, u32[at_data] & mask)
            elif u32[at_reason] != exit_io:
                handlers[u32[at_reason]]()
                if vcpu is not self.vcpu:
                    return True
            elif in_ := ins.get(access := u64[at_access]):
                read, from_, bytes_, ones = in_
                u32[at_data] = read(from_, bytes_) & ones
            elif handler := handlers.get(access):
                handler()
                if vcpu is not self.vcpu:
                    return True
            else:
                last_out[:] = exit_  # before the look: ports that are removed behind it make this forget
                if out := outs.get(access):
                    write, offset, size, mask = out
                    write(offset, size, u32[at_data] & mask)
                else:
                    self._forget_last_out()
                    self._other_io()

    def _run_watched(self, vcpu: Vcpu) -> bool:
        """As `_run_vcpu`, for a VTL whose ports a higher one watches: each access is looked up in `ports`, and may end
        in another VTL."""
        call, fd, request = vcpu.run_call
        u32, u64 = vcpu.run.u32, vcpu.run.u64
        handlers, ports = self.handlers, self.ports
        while vcpu is self.vcpu and ports.outs is not self.bus.outs:
            try:
                call(fd, request)
            except OSError as error:
                if not self._run_failed(error.errno or 0):
                    return False
                continue
            if (reason := u32[_EXIT_REASON_U32]) != k.KVM_EXIT_IO:
                handlers[reason]()
                continue
            access = u64[_IO_ACCESS_U64]
            if out := ports.outs.get(access):
                write, offset, size, mask = out
                write(offset, size, u32[_IO_DATA_U32] & mask)
            elif in_ := ports.ins.get(access):
                read, offset, size, mask = in_
                u32[_IO_DATA_U32] = read(offset, size) & mask
            else:
                (handlers.get(access) or handlers[k.KVM_EXIT_IO])()
        return True

    def _forget_last_out(self) -> None:
        self._last_out[0] = _NO_EXIT

    def _run_failed(self, error: int) -> bool:
        """`KVM_RUN` returned an error number. True: go on."""
        if error in (errno.EINTR, errno.EAGAIN):  # EAGAIN: the vCPU waits for INIT/SIPI, or left that wait
            return self._attend()
        if (handler := self.handlers.get(-error)) is not None:
            handler()
            return True
        self.run_failed(error)
        return self._attend()

    def run_failed(self, error: int, why: str = "") -> None:
        """End the run: `KVM_RUN` returned an error number that nobody has an answer for. On the VP's thread."""
        known = f"VP {self.index}: KVM_RUN failed with {errno.errorcode.get(error, error)}"
        self._end(
            OutcomeKind.INTERNAL_ERROR,
            f"{known}: {why}" if why else known,
            report=vp_report.describe(self.vcpu),
        )

    def _attend(self) -> bool:
        """Do what other threads asked for: stay out while frozen or held. False: the thread is to end."""
        while True:
            self.before_stop()
            for vcpu in self._all_vcpus:  # before looking: a request after the look sets them again
                vcpu.run.u8[_IMMEDIATE_EXIT] = 0
            with self._state:
                while (self._freeze_wanted or self._kept_out) and not self._stop_wanted:
                    if not self._frozen:
                        self._frozen = True
                        self._state.notify_all()
                    self._state.wait()
                self._frozen = False
                if self._stop_wanted:
                    return False
            self.after_kick()
            if AFTER_KICK in self.handlers and not self.held:
                self.handlers[AFTER_KICK]()
            if BEFORE_ENTRY in self.handlers:
                self.handlers[BEFORE_ENTRY]()
            if not self.held:
                return True
            with self._state:
                self._state.wait_for(lambda: self.vcpu.run.u8[_IMMEDIATE_EXIT])

    def _end(
        self, kind: OutcomeKind, detail: str, cause: BaseException | None = None, report: str = ""
    ) -> None:
        """Report the end of the run. `end_run` freezes this VP too: its next `KVM_RUN` does not enter."""
        if cause is not None:
            report = vp_report.describe_failure(self.vcpu, cause)
        self._end_run(Outcome(kind, STATUS_BAD_INPUT, detail, report))

    # ---- exits ---------------------------------------------------------------------------------------

    def handle_exit(self, reason: int) -> None:
        """Handle an exit of the running vCPU that came from a KVM_RUN outside the loop. On the VP's thread."""
        handler = None
        if reason == k.KVM_EXIT_IO:  # not past those who watch ports, nor past the hypercall port
            access = self.vcpu.run.u64[_IO_ACCESS_U64]
            if self.ports.outs.get(access) is None:
                handler = self.handlers.get(access)
        (handler or self.handlers[reason])()

    def _other_io(self) -> None:
        """INS/OUTS of `count` items of `size` bytes at byte `at` of the kvm_run mapping, and ports of nobody."""
        u8 = self.vcpu.run.u8
        direction, size, port, count, at = _IO(u8, _EXIT_PAYLOAD)
        for position in range(at, at + size * count, size):
            if direction == k.KVM_EXIT_IO_OUT:
                self.bus.write(port, size, int.from_bytes(u8[position : position + size], "little"))
            else:
                value = self.bus.read(port, size) & ((1 << 8 * size) - 1)
                u8[position : position + size] = value.to_bytes(size, "little")

    def _mmio_exit(self) -> None:
        gpa, data, size, is_write = _MMIO(self.vcpu.run.u8, _EXIT_PAYLOAD)
        entry = self._mmio.find(gpa)
        if is_write:
            if entry is not None:
                entry[2].write(gpa - entry[0], size, data & ((1 << 8 * size) - 1))
        else:
            value = entry[2].read(gpa - entry[0], size) if entry is not None else ~0
            self.vcpu.run.u64[_MMIO_DATA_U64] = value & 0xFFFFFFFFFFFFFFFF

    def _nothing(self) -> None:
        """An exit that asks for nothing."""

    def _triple_fault(self) -> None:
        self._end(
            OutcomeKind.TRIPLE_FAULT,
            f"VP {self.index}: triple fault: an exception could not be delivered, nor the double fault after it",
            report=vp_report.describe_triple_fault(self.vcpu),
        )

    def _entry_failure(self) -> None:
        exit_ = self._decoded()
        self._end(
            OutcomeKind.ENTRY_FAILURE, f"VP {self.index}: {exit_}", report=vp_report.describe(self.vcpu)
        )

    def _internal_error(self) -> None:
        exit_ = self._decoded()
        emulation = self.vcpu.run.u32[_EXIT_PAYLOAD // 4] == k.KVM_INTERNAL_ERROR_EMULATION
        detail = f"VP {self.index}: {exit_}"
        from kvmapi.exit_types import InternalErrorExit

        if emulation and self.emulator is not None and isinstance(exit_, InternalErrorExit):
            refusal = self.emulator.carry_out(exit_.instruction, exit_.flags)
            if refusal is None:
                return
            detail = f"{detail}; {refusal}"
        kind = OutcomeKind.EMULATION_FAILURE if emulation else OutcomeKind.INTERNAL_ERROR
        self._end(kind, detail, report=vp_report.describe(self.vcpu))

    def _decoded(self) -> Exit:
        from kvmapi import decode  # a class per exit reason: most guests need none of them

        return decode(self.vcpu.run)

    def _unexpected(self) -> None:
        exit_ = self._decoded()
        self._end(
            OutcomeKind.INTERNAL_ERROR,
            f"VP {self.index}: an exit that this machine has no answer for: {exit_}",
            report=vp_report.describe(self.vcpu),
        )
