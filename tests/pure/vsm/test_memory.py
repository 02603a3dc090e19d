# SPDX-License-Identifier: Apache-2.0
"""Guest memory with a VTL's rights, and what devices find there."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import pytest

from tests.pure.vsm.protected import Told
from vmm.hv.status import HvStatus
from vmm.hvmsr.crash import CrashRegisters, CrashReport
from vmm.hypercall.outside import AccessInterceptedError
from vmm.machine.devices.fw_cfg import FwCfg
from vmm.outside import Buffer, GuestMemoryError
from vmm.vsm.device_memory import DeviceMemory
from vmm.vsm.memory import PAGES_KEPT, Block, VtlMemory, report
from vmm.vsm.outside import MemoryAccess
from vmm.vsm.protections import MemoryProtections
from vmm.vsm.rights import READ, WRITE

PAGE = 4096
PAGES = 80
R, RW, RX, RWX = 0x1, 0x3, 0x5, 0x7
HIDDEN, READ_ONLY, DATA, CODE = 2, 3, 4, 5
"""Pages of VTL0 without rights, with R, RW and RX; all others have all."""


class Ram:
    """Pages 0 to 79; each byte is the number of its page."""

    def __init__(self) -> None:
        self.bytes = bytearray(b"".join(bytes((page,)) * PAGE for page in range(PAGES)))

    def _at(self, gpa: int, size: int) -> slice:
        if gpa + size > len(self.bytes):
            raise GuestMemoryError(f"{gpa:#x}: no RAM")
        return slice(gpa, gpa + size)

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(self.bytes[self._at(gpa, size)])

    def write(self, gpa: int, data: Buffer) -> None:
        self.bytes[self._at(gpa, len(data))] = data

    def compare_exchange(self, gpa: int, expected: bytes, new: bytes) -> bytes:
        found = self.read(gpa, len(expected))
        if found == expected:
            self.write(gpa, new)
        return found

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        self.bytes[self._at(gpa, size)] = bytes((value,)) * size

    def ranges(self) -> list[tuple[int, int]]:
        return [(0, PAGES * PAGE)]


class Scene:
    def __init__(self) -> None:
        self.ram = Ram()
        self.rights = MemoryProtections(self.ram.ranges(), Told())
        for page, flags in ((HIDDEN, 0), (READ_ONLY, R), (DATA, RW), (CODE, RX)):
            self.protect(flags, page)

    def protect(self, flags: int, *pages: int) -> None:
        assert self.rights.modify(1, 0, flags, pages) == (HvStatus.SUCCESS, len(pages))

    def memory(self, vtl: int = 0, direct: bool = True) -> VtlMemory:
        """direct: with the first 64 pages at hand."""
        block = Block(0, 64 * PAGE, memoryview(self.ram.bytes)[: 64 * PAGE])
        return VtlMemory(self.ram, self.rights, vtl, *[block] * direct)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.tlfs("HC-005", "HC-022", "VSM-077", "VSM-083")
@pytest.mark.parametrize("direct", [True, False])
def test_each_access_needs_its_right(scene: Scene, direct: bool) -> None:
    memory = scene.memory(direct=direct)
    accesses: dict[str, Callable[[int], object]] = {
        "read": lambda gpa: memory.read(gpa, 8),
        "write": lambda gpa: memory.write(gpa, bytes(8)),
        "fetch": lambda gpa: memory.fetch(gpa, 8),
        "write all": lambda gpa: memory.write_all([(20 * PAGE, bytes((20,)) * 8), (gpa, bytes(8))]),
        "require": lambda gpa: memory.require_writable(gpa, 8),
        "fill": lambda gpa: memory.fill(gpa, 8),
        "exchange": lambda gpa: memory.compare_exchange(gpa, bytes(16), bytes(16)),
    }
    writes = {"write", "write all", "require", "fill", "exchange"}
    before = bytes(scene.ram.bytes)

    def refused(page: int) -> set[str]:
        found = set()
        for name, access in accesses.items():
            for _ in range(2):  # the second one knows the page
                try:
                    access(page * PAGE + 16)
                except AccessInterceptedError as error:
                    assert error.gpa == page * PAGE + 16
                    assert error.write == (name in writes)
                    found.add(name)
        return found

    assert refused(HIDDEN) == {"read", "fetch", *writes}
    assert refused(READ_ONLY) == {"fetch", *writes}
    assert refused(CODE) == writes
    assert scene.ram.bytes == before
    assert refused(DATA) == {"fetch"}
    assert refused(20) == set()


@pytest.mark.tlfs("VSM-079")
def test_the_owner_of_a_protection_has_all_rights(scene: Scene) -> None:
    memory = scene.memory(vtl=1)

    assert memory.read(HIDDEN * PAGE, 1) == bytes((HIDDEN,))
    memory.write(READ_ONLY * PAGE, b"\xff")
    assert scene.ram.bytes[READ_ONLY * PAGE] == 0xFF


@pytest.mark.parametrize("gpa", [70 * PAGE, 63 * PAGE + 4090])
def test_memory_outside_of_the_block_at_hand(scene: Scene, gpa: int) -> None:
    memory = scene.memory()

    memory.write(gpa, b"0123456789")

    assert memory.read(gpa, 10) == b"0123456789"
    memory.require_writable(gpa, 10)
    scene.protect(R, 70, 64)
    with pytest.raises(AccessInterceptedError):
        memory.write(gpa, b"0123456789")


def test_an_access_over_two_pages_needs_both_and_changes_nothing_else(scene: Scene) -> None:
    memory = scene.memory()
    at = READ_ONLY * PAGE - 2 * PAGE - 4  # the last bytes of page 0 and the first of page 1
    memory.write(at, bytes(8))
    scene.protect(R, 1)

    with pytest.raises(AccessInterceptedError, match="0x1000") as refused:
        memory.write(at, b"\xff" * 8)

    assert refused.value.gpa == PAGE
    assert memory.read(at, 8) == bytes(8)


@pytest.mark.parametrize("direct", [True, False])
def test_where_there_is_no_ram(scene: Scene, direct: bool) -> None:
    memory, at = scene.memory(direct=direct), PAGES * PAGE - 4

    for access in (
        lambda: memory.read(at, 8),
        lambda: memory.write(at, bytes(8)),
        lambda: memory.fetch(at, 8),
        lambda: memory.require_writable(at, 8),
        lambda: memory.fill(at, 8),
        lambda: memory.read(1 << 63, 8),
    ):
        with pytest.raises(GuestMemoryError):
            access()
    assert not memory.busy


@pytest.mark.tlfs("VSM-081")
def test_what_was_known_is_forgotten_when_rights_change(scene: Scene) -> None:
    memory = scene.memory()
    memory.read(20 * PAGE, 8)
    memory.write(20 * PAGE, bytes(8))

    scene.protect(0, 20)
    with pytest.raises(AccessInterceptedError):
        memory.read(20 * PAGE, 8)
    with pytest.raises(AccessInterceptedError):
        memory.write(20 * PAGE, bytes(8))
    scene.protect(RWX, 20)
    memory.read(20 * PAGE, 8)

    scene.rights.reset()
    memory.read(HIDDEN * PAGE, 8)


def test_known_pages_are_bounded(scene: Scene) -> None:
    memory = scene.memory()

    for page in range(10, PAGES):
        memory.read(page * PAGE, 1)

    assert len(memory._readable) <= PAGES_KEPT < PAGES - 10


@pytest.mark.tlfs("VSM-081")
def test_a_change_waits_for_an_access_that_has_begun(scene: Scene) -> None:
    """Behind the return, VTL1 may put a secret there, which an access checked before must not see."""
    begun, go_on, changed = threading.Event(), threading.Event(), threading.Event()
    changed_meanwhile: list[bool] = []

    class Slow(Ram):
        def read(self, gpa: int, size: int) -> bytes:
            begun.set()
            go_on.wait(60)
            changed_meanwhile.append(changed.is_set())
            return super().read(gpa, size)

    memory = VtlMemory(Slow(), scene.rights, 0)
    reader = threading.Thread(target=memory.read, args=(20 * PAGE, 8))

    def protect() -> None:
        scene.protect(0, 20)
        changed.set()

    owner = threading.Thread(target=protect)
    reader.start()
    assert begun.wait(60)

    owner.start()
    while scene.rights.rights(0, 20):  # the table has changed, the call has not returned
        pass
    assert not changed.wait(0.05)
    go_on.set()

    reader.join(60)
    owner.join(60)
    assert changed_meanwhile == [False] and changed.is_set()


def test_an_accessor_that_is_gone_is_not_waited_for(scene: Scene) -> None:
    memory = scene.memory()
    memory.busy = True
    del memory

    scene.protect(0, 20)


# ---- reports ---------------------------------------------------------------------------------------------


class Intercepts:
    def __init__(self) -> None:
        self.told: list[tuple[int, int, int, MemoryAccess]] = []

    def memory(self, vp: int, vtl: int, owner: int, access: MemoryAccess) -> None:
        self.told.append((vp, vtl, owner, access))


def test_a_refused_access_is_told_to_who_refuses_it_now(scene: Scene) -> None:
    intercepts, access = Intercepts(), MemoryAccess(HIDDEN * PAGE + 8, READ)

    report(scene.rights, intercepts, 3, 0, access)
    scene.protect(R, HIDDEN)
    report(scene.rights, intercepts, 3, 0, access)

    assert intercepts.told == [(3, 0, 1, access)]
    report(scene.rights, intercepts, 3, 0, access._replace(wanted=WRITE))
    assert len(intercepts.told) == 2


# ---- devices ---------------------------------------------------------------------------------------------

ERROR, DMA_READ, DMA_SELECT = 1, 2, 8
DESCRIPTOR = 30 * PAGE


def transfer(scene: Scene, memory: DeviceMemory, control: int, length: int, gpa: int) -> int:
    """A DMA transfer of fw_cfg; its control word behind it."""
    device = FwCfg(memory, 1 << 20, 1, 1)
    scene.ram.write(DESCRIPTOR, struct.pack(">IIQ", control, length, gpa))
    device.transfer(DESCRIPTOR)
    return int.from_bytes(scene.ram.read(DESCRIPTOR, 4), "big")


@pytest.fixture
def dma(scene: Scene) -> DeviceMemory:
    """What devices see when VTL1 has protected memory."""
    memory = DeviceMemory(scene.ram)
    memory.obey(scene.memory())
    return memory


@pytest.mark.tlfs("VSM-084")
@pytest.mark.parametrize("page", [HIDDEN, READ_ONLY, CODE])
@pytest.mark.parametrize("length", [4, 64])
def test_dma_into_a_page_that_vtl0_may_not_write_is_the_device_s_error(
    scene: Scene, dma: DeviceMemory, page: int, length: int
) -> None:
    before = scene.ram.read(page * PAGE, PAGE)

    assert transfer(scene, dma, DMA_SELECT | DMA_READ, length, page * PAGE) == ERROR
    assert scene.ram.read(page * PAGE, PAGE) == before


@pytest.mark.tlfs("VSM-084")
def test_dma_to_memory_that_vtl0_may_write(scene: Scene, dma: DeviceMemory) -> None:
    assert transfer(scene, dma, DMA_SELECT | DMA_READ, 8, DATA * PAGE) == 0
    assert scene.ram.read(DATA * PAGE, 8) == b"QEMU" + bytes(4)


@pytest.mark.tlfs("VSM-084")
def test_a_long_transfer_stops_at_a_protected_page(scene: Scene, dma: DeviceMemory) -> None:
    assert transfer(scene, dma, DMA_SELECT | DMA_READ, 3 * PAGE, PAGE) == ERROR
    assert scene.ram.read(HIDDEN * PAGE, PAGE) == bytes((HIDDEN,)) * PAGE


@pytest.mark.tlfs("VSM-084")
@pytest.mark.parametrize("page", [HIDDEN, READ_ONLY])
def test_a_descriptor_that_vtl0_may_not_access_is_left_alone(
    scene: Scene, dma: DeviceMemory, page: int
) -> None:
    descriptor = struct.pack(">IIQ", DMA_SELECT | DMA_READ, 4, 20 * PAGE)
    scene.ram.write(page * PAGE, descriptor)

    FwCfg(dma, 1 << 20, 1, 1).transfer(page * PAGE)

    assert scene.ram.read(page * PAGE, len(descriptor)) == descriptor


def test_before_there_are_vtls_devices_see_all_ram(scene: Scene) -> None:
    assert transfer(scene, DeviceMemory(scene.ram), DMA_SELECT | DMA_READ, 4, HIDDEN * PAGE) == 0


@pytest.mark.tlfs("VSM-083", "MISC-002")
@pytest.mark.parametrize("vtl", [0, 1])
def test_a_crash_report_shows_no_text_that_vtl0_may_not_read(
    scene: Scene, dma: DeviceMemory, vtl: int
) -> None:
    """The parameters are all VTLs', so VTL0 may have written them when VTL1 reports."""
    reports: list[CrashReport] = []
    crash = CrashRegisters(dma, reports.append)
    crash.write_parameter(3, HIDDEN * PAGE)
    crash.write_parameter(4, 16)

    crash.write_control(0, vtl, 3 << 62)

    assert reports[0].message is None
    assert reports[0].message_error is not None and "VTL0" in reports[0].message_error


class TimePage:
    """VTL1's, in the place of a page of RAM; each byte is 0xEE."""

    def read(self, offset: int, size: int) -> bytes:
        assert offset + size <= PAGE
        return b"\xee" * size


SHOWN = 20


@pytest.fixture
def below(scene: Scene) -> Scene:
    """VTL0 sees a page of VTL1's at page 20, and at three that it has fewer rights to."""
    seen = dict.fromkeys((SHOWN, HIDDEN, READ_ONLY, DATA), TimePage())
    scene.rights.from_above = [seen, *scene.rights.from_above[1:]]
    return scene


@pytest.mark.tlfs("VSM-068", "HC-021")
@pytest.mark.parametrize("direct", [True, False])
def test_a_higher_vtl_s_overlay_is_what_is_read(below: Scene, direct: bool) -> None:
    memory = below.memory(direct=direct)

    assert memory.read(SHOWN * PAGE + 8, 4) == memory.fetch(SHOWN * PAGE + 8, 4) == b"\xee" * 4
    assert memory.read(SHOWN * PAGE - 2, 4) == b"\x13\x13\xee\xee"
    assert memory.read(SHOWN * PAGE + PAGE - 2, 4) == b"\xee\xee\x15\x15"
    around = memory.read(SHOWN * PAGE - 1, PAGE + 2)
    assert around == b"\x13" + b"\xee" * PAGE + b"\x15"
    assert below.memory(vtl=1).read(SHOWN * PAGE, 2) == b"\x14\x14", "not by the VTL whose table has none"


@pytest.mark.tlfs("VSM-068", "VSM-084")
@pytest.mark.parametrize("direct", [True, False])
def test_a_higher_vtl_s_overlay_is_not_written_nor_the_ram_below(below: Scene, direct: bool) -> None:
    memory = below.memory(direct=direct)
    before = bytes(below.ram.bytes)
    at = SHOWN * PAGE
    writes: list[Callable[[], object]] = [
        lambda: memory.write(at, b"x"),
        lambda: memory.write(at - 1, b"xx"),
        lambda: memory.require_writable(at + 8, 8),
        lambda: memory.write_all([(at - PAGE, b"x"), (at, b"x")]),
        lambda: memory.fill(at - PAGE, 3 * PAGE),
    ]

    for write in writes:
        with pytest.raises(GuestMemoryError, match="0x14 is a higher VTL's overlay"):
            write()

    assert bytes(below.ram.bytes) == before
    memory.write(at - 1, b"x")


@pytest.mark.tlfs("VSM-068", "VSM-080")
def test_rights_come_first(below: Scene) -> None:
    memory = below.memory()

    for access in (
        lambda: memory.read(HIDDEN * PAGE, 1),
        lambda: memory.write(READ_ONLY * PAGE, b"x"),
        lambda: memory.require_writable(READ_ONLY * PAGE, 1),
        lambda: memory.fetch(DATA * PAGE, 1),
    ):
        with pytest.raises(AccessInterceptedError):
            access()
    assert memory.read(READ_ONLY * PAGE, 1) == memory.read(DATA * PAGE, 1) == b"\xee"
    with pytest.raises(GuestMemoryError):
        memory.write(DATA * PAGE, b"x")
