# SPDX-License-Identifier: Apache-2.0
"""`decode` of every exit reason, from bytes laid out by hand as api.rst section 5 has them."""

from __future__ import annotations

from struct import pack, pack_into

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmapi import exit_types as exits
from kvmapi.exits import decode
from kvmapi.names import EXIT_NAMES

ONE_TO_SIX = (1, 2, 3, 4, 5, 6)
NOT_X86 = {13, 14, 15, 18, 19, 20, 21, 22, 23, 25, 28, 35, 36, 38}


def page(reason: int, union: bytes = b"", data: bytes = b"", flags: int = 0, cr8: int = 0) -> bytearray:
    """A vCPU mapping of three pages: reason at 8, flags at 14, cr8 at 16, exit union at 32, data at 4096."""
    view = bytearray(3 * 4096)
    pack_into("<I", view, 8, reason)
    pack_into("<HQ", view, 14, flags, cr8)
    view[32 : 32 + len(union)] = union
    view[4096 : 4096 + len(data)] = data
    return view


XMM = pack("<12Q", *range(0x10, 0x1C))

CASES = [
    (
        page(0, pack("<Q", 0x1F)),
        exits.UnknownExit,
        {"hardware_exit_reason": 0x1F},
        "UNKNOWN: hardware exit reason 0x1f",
    ),
    (
        page(1, pack("<II", 14, 2)),
        exits.ExceptionExit,
        {"exception": 14, "error_code": 2},
        "EXCEPTION: vector 14, error code 0x2",
    ),
    (
        page(2, pack("<BBHIQ", 1, 1, 0x3F8, 1, 4096), b"A"),
        exits.IoExit,
        {"is_out": True, "size": 1, "port": 0x3F8, "count": 1, "data": b"A"},
        "IO: out port 0x3f8, 1 byte: 41",
    ),
    (
        page(2, pack("<BBHIQ", 0, 4, 0xCFC, 2, 4096), bytes(range(8))),
        exits.IoExit,
        {"is_out": False, "size": 4, "port": 0xCFC, "count": 2, "data": bytes(range(8))},
        "IO: in port 0xcfc, 2 times 4 bytes",
    ),
    (
        page(2, pack("<BBHIQ", 1, 2, 0x1F0, 2, 4096), b"\x01\x02\x03\x04"),
        exits.IoExit,
        {"count": 2, "data": b"\x01\x02\x03\x04"},
        "IO: out port 0x1f0, 2 times 2 bytes: 0102 0304",
    ),
    (
        page(3, pack("<Q6QQQ", 12, *ONE_TO_SIX, 0, 1)),
        exits.HypercallExit,
        {"nr": 12, "args": ONE_TO_SIX, "call_flags": 1},
        "HYPERCALL: nr 12, args 0x1 0x2 0x3 0x4 0x5 0x6, flags 0x1",
    ),
    (
        page(4, pack("<IIQQQ", 1, 0, 0x1000, 0x4FF0, 0x400)),
        exits.DebugExit,
        {"exception": 1, "pc": 0x1000, "dr6": 0x4FF0, "dr7": 0x400},
        "DEBUG: vector 1 at rip 0x1000, dr6 0x4ff0, dr7 0x400",
    ),
    (page(5), exits.HltExit, {}, "HLT"),
    (
        page(6, pack("<Q8sIB", 0xFEE000B0, b"\x01\x02\x03\x04rest", 4, 1)),
        exits.MmioExit,
        {"gpa": 0xFEE000B0, "size": 4, "is_write": True, "data": b"\x01\x02\x03\x04"},
        "MMIO: write 4 bytes at gpa 0xfee000b0: 01020304",
    ),
    (
        page(6, pack("<Q8sIB", 0xD0000000, b"", 8, 0)),
        exits.MmioExit,
        {"is_write": False, "size": 8},
        "MMIO: read 8 bytes at gpa 0xd0000000",
    ),
    (page(7), exits.IrqWindowOpenExit, {}, "IRQ_WINDOW_OPEN"),
    (page(8), exits.ShutdownExit, {}, "SHUTDOWN: the guest triple-faulted"),
    (
        page(9, pack("<QI", 0x80000021, 1)),
        exits.FailEntryExit,
        {"hardware_entry_failure_reason": 0x80000021, "cpu": 1},
        "FAIL_ENTRY: hardware reason 0x80000021 on CPU 1",
    ),
    (page(10), exits.IntrExit, {}, "INTR"),
    (page(11, cr8=5), exits.SetTprExit, {"cr8": 5}, "SET_TPR: cr8 0x5"),
    (
        page(12, pack("<QI", 0x7000, 1)),
        exits.TprAccessExit,
        {"rip": 0x7000, "is_write": True},
        "TPR_ACCESS: write at rip 0x7000",
    ),
    (page(16), exits.NmiExit, {}, "NMI"),
    (
        page(17, pack("<IIQ", 3, 2, 0x30) + pack("<Q", 0x31)),
        exits.InternalErrorExit,
        {"suberror": 3, "data": (0x30, 0x31), "instruction": b""},
        "INTERNAL_ERROR: DELIVERY_EV, data 0x30 0x31",
    ),
    (
        page(17, pack("<IIQB15s", 1, 3, 1, 3, b"\x0f\x01\xd9\x90")),
        exits.InternalErrorExit,
        {"suberror": 1, "instruction": b"\x0f\x01\xd9"},
        "INTERNAL_ERROR: EMULATION, instruction bytes 0f 01 d9",
    ),
    (
        page(17, pack("<IIQB15s", 1, 0, 1, 3, b"\x0f\x01\xd9\x90")),
        exits.InternalErrorExit,
        {"suberror": 1, "data": (), "instruction": b""},  # ndata 0: what follows is stale
        "INTERNAL_ERROR: EMULATION, data none",
    ),
    (
        page(24, pack("<IIQ", 4, 0, 0x1234)),
        exits.SystemEventExit,
        {"event": 4, "data": ()},
        "SYSTEM_EVENT: WAKEUP",
    ),
    (
        page(24, pack("<IIQQ", 6, 2, 7, 8)),
        exits.SystemEventExit,
        {"event": 6, "data": (7, 8)},
        "SYSTEM_EVENT: SEV_TERM, data 0x7 0x8",
    ),
    (page(26, b"\x31"), exits.IoapicEoiExit, {"vector": 0x31}, "IOAPIC_EOI: vector 0x31"),
    (
        page(27, pack("<IIIIQQQ", 1, 0, 0x40000083, 0, 1, 0x2000, 0x3000)),
        exits.HypervSynicExit,
        {"msr": 0x40000083, "control": 1, "evt_page": 0x2000, "msg_page": 0x3000},
        "HYPERV: SynIC MSR 0x40000083, control 0x1, event page 0x2000, message page 0x3000",
    ),
    (
        page(27, pack("<IIQQQQ", 2, 0, 0x1_0011, 0, 0xA, 0xB) + XMM),
        exits.HypervHcallExit,
        {
            "code": 0x11,
            "input": 0x1_0011,
            "params": (0xA, 0xB),
            "xmm": tuple(0x10 + 2 * i | (0x11 + 2 * i) << 64 for i in range(6)),
        },
        "HYPERV: fast hypercall 0x0011, input 0x10011, params 0xa 0xb",
    ),
    (
        page(27, pack("<IIIIQQQQQ", 3, 0, 0x400000F1, 0, 1, 2, 3, 4, 5)),
        exits.HypervSyndbgExit,
        {"msr": 0x400000F1, "control": 1, "status": 2, "send_page": 3, "recv_page": 4, "pending_page": 5},
        "HYPERV: debugger MSR 0x400000f1, control 0x1, status 0x2",
    ),
    (page(27, pack("<II", 9, 0)), exits.OtherExit, {}, "HYPERV: bytes 0900000000000000"),
    (
        page(29, pack("<QIIQ", 0, 4, 0x40000001, 0)),
        exits.RdmsrExit,
        {"index": 0x40000001, "why": 4},
        "X86_RDMSR: MSR 0x40000001, filtered",
    ),
    (
        page(30, pack("<QIIQ", 0, 2, 0x1234, 0x55)),
        exits.WrmsrExit,
        {"index": 0x1234, "data": 0x55, "why": 2},
        "X86_WRMSR: MSR 0x1234 = 0x55, unknown MSR",
    ),
    (page(31), exits.DirtyRingFullExit, {}, "DIRTY_RING_FULL"),
    (page(32), exits.ApResetHoldExit, {}, "AP_RESET_HOLD"),
    (page(33, flags=2), exits.BusLockExit, {}, "X86_BUS_LOCK (bus lock)"),
    (
        page(34, pack("<IIIIQQ6Q", 1, 0, 1, 3, 29, 0, *ONE_TO_SIX)),
        exits.XenHcallExit,
        {"longmode": True, "cpl": 3, "input": 29, "params": ONE_TO_SIX},
        "XEN: hypercall 29, 64 bit, CPL 3, params 0x1 0x2 0x3 0x4 0x5 0x6",
    ),
    (page(34, pack("<II", 2, 0)), exits.OtherExit, {}, "XEN: bytes 0200000000000000"),
    (page(37, pack("<I", 1)), exits.NotifyExit, {"notify_flags": 1}, "NOTIFY: the guest state is corrupt"),
    (page(37, pack("<I", 0)), exits.NotifyExit, {"notify_flags": 0}, "NOTIFY: the guest state is valid"),
    (
        page(39, pack("<QQQB", 2, 0x5000, 4096, 3)),
        exits.MemoryFaultExit,
        {"fault_flags": 2, "gpa": 0x5000, "size": 4096, "insn_len": 3},
        "MEMORY_FAULT: write at gpa 0x5000, 4096 bytes",
    ),
    (
        # kvm_run_memory_fault_vsm: two bytes of instruction, the access at 0x5ff8; a walk of page tables
        page(39, pack("<QQQBB15s7xQ", 1 | 1 << 32, 0x5000, 4096, 0, 2, b"\x8a\x07" + b"\xee" * 13, 0x5FF8)),
        exits.MemoryFaultExit,
        {"access_gpa": 0x5FF8, "insn_bytes": b"\x8a\x07", "is_page_walk": True},
        "MEMORY_FAULT: read, page walk at gpa 0x5000, 4096 bytes",
    ),
    (
        # A count that a kernel without VSM left behind cannot reach beyond the field.
        page(39, pack("<QQQBB15s7xQ", 1, 0x5000, 4096, 0, 255, b"\xaa" * 15, 0)),
        exits.MemoryFaultExit,
        {"insn_bytes": b"\xaa" * 15, "is_page_walk": False},
        "MEMORY_FAULT: read at gpa 0x5000, 4096 bytes",
    ),
    (
        page(39, pack("<QQQB", 0x8 | 0x100, 0x5000, 4096, 0)),
        exits.MemoryFaultExit,
        {"fault_flags": 0x108},
        "MEMORY_FAULT: private, 0x100 at gpa 0x5000, 4096 bytes",
    ),
    (page(5, flags=1 | 4), exits.HltExit, {"flags": 5}, "HLT (in SMM, in nested guest)"),
]


@pytest.mark.parametrize(("view", "kind", "values", "text"), CASES, ids=[case[3][:40] for case in CASES])
def test_exit(view: bytearray, kind: type, values: dict[str, object], text: str) -> None:
    decoded = decode(view)

    assert type(decoded) is kind
    assert {name: getattr(decoded, name) for name in values} == values
    assert str(decoded) == text


def test_every_reason_of_x86_has_a_case() -> None:
    covered = {int.from_bytes(view[8:12], "little") for view, *_ in CASES}

    assert covered == set(EXIT_NAMES) - NOT_X86


@pytest.mark.parametrize("reason", sorted(NOT_X86))
def test_reason_of_another_architecture_shows_its_name_and_raw_bytes(reason: int) -> None:
    decoded = decode(page(reason, bytes([1, 2, 3])))

    assert isinstance(decoded, exits.OtherExit)
    assert str(decoded) == f"{EXIT_NAMES[reason].removeprefix('KVM_EXIT_')}: bytes 0102030000000000"


def test_unknown_reason_shows_its_number_and_raw_bytes() -> None:
    decoded = decode(page(4711, bytes([0xAA] * 9)))

    assert isinstance(decoded, exits.OtherExit)
    assert len(decoded.raw) == 256
    assert str(decoded) == "exit reason 4711: bytes " + "aa" * 8 + " aa" + "00" * 7


def test_unknown_reason_with_nothing_to_show() -> None:
    assert str(decode(page(4711))) == "exit reason 4711: bytes all zero"


def test_exit_is_a_copy() -> None:
    view = page(2, pack("<BBHIQ", 1, 1, 0x80, 1, 4096), b"\x01")
    decoded = decode(view)

    view[:] = bytes(len(view))

    assert str(decoded) == "IO: out port 0x80, 1 byte: 01"


@given(st.integers(0, 60), st.binary(min_size=256, max_size=256), st.integers(0, 0xFFFF))
def test_no_kernel_bytes_break_decoding(reason: int, union: bytes, flags: int) -> None:
    decoded = decode(page(reason, union, flags=flags))

    assert decoded.reason == reason
    assert str(decoded)
