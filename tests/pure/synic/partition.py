# SPDX-License-Identifier: Apache-2.0
"""A partition without a machine: RAM, time and a record of what was asked for."""

from __future__ import annotations

from typing import Final

from tests.pure.devices.fakes import FakeClock, FakeMemory
from vmm.hv.messages import HV_MESSAGE
from vmm.hvmsr.crash import CrashReport
from vmm.overlay.copying import CopyingBackend
from vmm.overlay.pages import OverlayMap

PAGE: Final = 4096
RAM_PAGES: Final = 32
SLOT: Final = 256  # bytes of a message slot, and of a source's event flags


class FakeTsc:
    """A TSC that counts with the fake clock, from a value that is not zero."""

    def __init__(self, clock: FakeClock, hz: int = 2_500_000_000, start: int = 123_456_789_012) -> None:
        self._clock = clock
        self.hz = hz
        self.start = start

    def read(self) -> int:
        return (self.start + self._clock.now_ns() * self.hz // 1_000_000_000) & (1 << 64) - 1


class FakeApic:
    def __init__(self) -> None:
        self.in_service: int | None = None
        self.icr = 0
        self.tpr = 0

    def end_of_interrupt(self) -> int | None:
        vector, self.in_service = self.in_service, None
        return vector

    def read_icr(self) -> int:
        return self.icr

    def write_icr(self, value: int) -> bool:
        self.icr = value
        return value & 0xFF >= 16

    def read_tpr(self) -> int:
        return self.tpr

    def write_tpr(self, value: int) -> None:
        self.tpr = value

    def put_tpr(self, value: int) -> None:
        self.tpr = value


class FakeServices:
    """`vmm.hvmsr.outside.PartitionServices`: everything is written down."""

    def __init__(self) -> None:
        self.interrupts: list[tuple[int, int, int, bool]] = []
        self.apics: dict[tuple[int, int], FakeApic] = {}
        self.crashes: list[CrashReport] = []
        self.idles: list[tuple[int, int]] = []
        self.resets = 0
        self.code = b"\x0f\x01\xc1\xc3"
        self.runtimes: dict[int, int] = {}

    def request_interrupt(self, vp: int, vtl: int, vector: int, auto_eoi: bool) -> None:
        self.interrupts.append((vp, vtl, vector, auto_eoi))

    def taken(self) -> list[tuple[int, int, int, bool]]:
        """The interrupts since the last call."""
        taken, self.interrupts = self.interrupts, []
        return taken

    def local_apic(self, vp: int, vtl: int) -> FakeApic:
        return self.apics.setdefault((vp, vtl), FakeApic())

    def hypercall_page(self, vtl: int) -> bytes:
        return self.code

    def vp_runtime_100ns(self, vp: int) -> int:
        return self.runtimes.get(vp, 0)

    def guest_idle(self, vp: int, vtl: int) -> None:
        self.idles.append((vp, vtl))

    def reset_partition(self) -> None:
        self.resets += 1

    def guest_crashed(self, report: CrashReport) -> None:
        self.crashes.append(report)


class FakePartition:
    """RAM of 32 pages at 0, overlays copied into it, a clock that a test moves."""

    def __init__(self) -> None:
        self.memory = FakeMemory(RAM_PAGES * PAGE)
        self.clock = FakeClock()
        self.overlays = OverlayMap(CopyingBackend(self.memory))
        self.services = FakeServices()

    def message(self, page: int, sint: int) -> HV_MESSAGE:
        """What the guest finds in a slot of its message page, which it put at page number `page`."""
        return HV_MESSAGE.unpack(self.memory.read(page * PAGE + sint * SLOT, SLOT))

    def empty_slot(self, page: int, sint: int) -> None:
        """The guest is done with a message: type 0."""
        self.memory.write(page * PAGE + sint * SLOT, bytes(4))

    def flags(self, page: int, sint: int) -> set[int]:
        """The event flags of a source that the guest finds set."""
        word = int.from_bytes(self.memory.read(page * PAGE + sint * SLOT, SLOT), "little")
        return {flag for flag in range(SLOT * 8) if word >> flag & 1}
