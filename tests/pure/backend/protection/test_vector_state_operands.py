# SPDX-License-Identifier: Apache-2.0
"""What vector instructions with masks or addresses of their own access, XSAVE and its like."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pure.backend.protection.operands_rig import D, R, W, of
from tests.pure.backend.protection.processors import CODE, XMM, fake_of, page_tables, processor
from vmm.backend.protection.decoded import decode
from vmm.backend.protection.operands import operands
from vmm.machine.ram import MIB, GuestRam


@pytest.fixture(scope="module")
def ram() -> Iterator[GuestRam]:
    with GuestRam(4 * MIB) as ram:
        yield ram


# ---- masks and addresses in vectors ----------------------------------------------------------------------


def vector(*values: int, size: int = 4) -> bytes:
    return b"".join(value.to_bytes(size, "little", signed=True) for value in values)


def masks(value: int) -> dict[int, bytes]:
    """Mask register 1."""
    return {1088 + 8: value.to_bytes(8, "little")}


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "mask", "expected"),
    [
        ("62f17c491007", 0xFFFF, [(R, D, 64)]),  # vmovups zmm0{k1}, [rdi]
        ("62f17c491007", 0x0000, []),
        ("62f17c491007", 0xF0000, []),  # it has 16 elements
        ("62f17c491107", 0x8003, [(W, D, 8), (W, D + 60, 4)]),
        ("62f1fd491107", 0x81, [(W, D, 8), (W, D + 56, 8)]),  # vmovupd
        ("62f17f296f07", 0x6, [(R, D + 1, 2)]),  # vmovdqu8 ymm0{k1}, [rdi]
        ("62f1ff296f07", 0x6, [(R, D + 2, 4)]),  # vmovdqu16
        ("62f17c595807", 0x2, [(R, D, 4)]),  # vaddps zmm0{k1}, zmm0, [rdi]{1to16}
        ("62f17c595807", 0x0, []),
        ("62f17e095807", 0x1, [(R, D, 4)]),  # vaddss
        ("62f17e095807", 0xE, []),
        ("62f27d498a07", 0x8421, [(W, D, 16)]),  # vcompressps [rdi]{k1}, zmm0: no gaps
        ("62f2fd498807", 0x81, [(R, D, 16)]),  # vexpandpd
        ("62f27e493107", 0x101, [(W, D, 1), (W, D + 8, 1)]),  # vpmovdb [rdi]{k1}, zmm0
        ("62f27d493107", 0x101, [(R, D, 1), (R, D + 8, 1)]),  # vpmovzxbd zmm0{k1}, [rdi]
        ("62f17c495a07", 0x81, [(R, D, 4), (R, D + 28, 4)]),  # vcvtps2pd zmm0{k1}, [rdi]
        ("62f37d491d0700", 0x3, [(W, D, 4)]),  # vcvtps2ph [rdi]{k1}, zmm0
        ("62f27d491a07", 0x41, [(R, D, 4), (R, D + 8, 4)]),  # vbroadcastf32x4: four elements, four times
        ("62f27d481807", 0x0, [(R, D, 4)]),  # vbroadcastss zmm0, [rdi], without a mask
        ("62f27d491807", 0x80, [(R, D, 4)]),
        ("62f37d491b0701", 0x81, [(W, D, 32)]),  # vextractf32x8 [rdi]{k1}, zmm0, 1
        ("62f17d49723711", 0x4, [(R, D + 8, 4)]),  # vpslld zmm0{k1}, [rdi], 17
        ("62f17d49f207", 0x4, [(R, D, 16)]),  # vpslld zmm0{k1}, zmm0, [rdi]: the count
        ("62f27d490007", 0x1, [(R, D, 64)]),  # vpshufb moves elements: all are read
    ],
)
def test_a_mask_register(ram: GuestRam, code: str, mask: int, expected: list[tuple[int, int, int]]) -> None:
    assert of(ram, code, rdi=D, state=masks(mask)) == expected


def test_whole_is_without_the_mask(ram: GuestRam) -> None:
    cpu = processor(ram, rdi=D)
    decoded = decode(bytes.fromhex("62f17c491007"), CODE, 64)
    assert decoded is not None

    assert [(each.gva, each.size) for each in operands(cpu, decoded, whole=True)] == [(D, 64)]


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "mask", "expected"),
    [
        ("c4e2712c07", vector(0, -1, -1, 0), [(R, D + 4, 8)]),  # vmaskmovps xmm0, xmm1, [rdi]
        ("c4e2712e07", vector(-1, 0, 0, -1), [(W, D, 4), (W, D + 12, 4)]),
        ("c4e2712d07", vector(0, -1, size=8), [(R, D + 8, 8)]),  # vmaskmovpd
        ("c4e2f18e07", vector(0, 0, size=8), []),  # vpmaskmovq
        ("660ff7c1", vector(*[0, -128] * 8, size=1), [(W, D + at, 1) for at in range(1, 16, 2)]),
        ("65660ff7c1", vector(*[0] * 15, -1, size=1), [(W, D + 0x1000 + 15, 1)]),  # in GS
    ],
)
def test_a_mask_in_a_vector(
    ram: GuestRam, code: str, mask: bytes, expected: list[tuple[int, int, int]]
) -> None:
    assert of(ram, code, rdi=D, state={XMM + 16: mask}, gs_base=0x1000) == expected


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "state", "expected"),
    [
        (
            "c4e26992048f",  # vgatherdps xmm0, [rdi+xmm1*4], xmm2
            {XMM + 16: vector(0, 3, -1, 9), XMM + 32: vector(-1, 0, -1, -1)},
            [(R, D, 4), (R, D - 4, 4), (R, D + 36, 4)],
        ),
        (
            "c4e2e99304cf",  # vgatherqpd xmm0, [rdi+xmm1*8], xmm2
            {XMM + 16: vector(5, -2, size=8), XMM + 32: vector(-1, -1, size=8)},
            [(R, D + 40, 8), (R, D - 16, 8)],
        ),
        (
            "c4e26993048f",  # vgatherqps xmm0, [rdi+xmm1*4], xmm2: two elements, of four
            {XMM + 16: vector(5, -2, size=8), XMM + 32: vector(-1, -1, -1, -1)},
            [(R, D + 20, 4), (R, D - 8, 4)],
        ),
        (
            "62f2fd4992040f",  # vgatherdpd zmm0{k1}, [rdi+ymm1]
            {XMM + 16: vector(1, 2, 3, 4), 576 + 16: vector(5, 6, 7, 8), **masks(0xFF82)},
            [(R, D + 2, 8), (R, D + 8, 8)],
        ),
        (
            "62f27d49a2048f",  # vscatterdps [rdi+zmm1*4]{k1}, zmm0
            {1152 + 32: vector(0, 0, 0, 0, 0, 0, 0, 99), **masks(0x8001)},
            [(W, D, 4), (W, D + 396, 4)],
        ),
        (
            "62f27d41a0048f",  # vpscatterdd [rdi+zmm17*4]{k1}, zmm0
            {1664 + 64: vector(7), **masks(0x1)},
            [(W, D + 28, 4)],
        ),
        ("62f27d49c60c8f", masks(0xFFFF), []),  # vgatherpf0dps, which never faults
    ],
)
def test_gathers_and_scatters(
    ram: GuestRam, code: str, state: dict[int, bytes], expected: list[tuple[int, int, int]]
) -> None:
    assert of(ram, code, rdi=D, state=state) == expected


# ---- XSAVE and its like ----------------------------------------------------------------------------------


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("code", "asked", "expected"),
    [
        ("0fae27", 4, [(W, D + 24, 8), (W, D + 512, 8), (W, D + 576, 256)]),  # MXCSR belongs to AVX too
        ("0fae27", 1, [(W, D, 416), (W, D + 512, 8)]),
        ("0fae27", 0xE0, [(W, D + 512, 8), (W, D + 1088, 64), (W, D + 1152, 512), (W, D + 1664, 1024)]),
        ("0fae37", 0xE0, [(W, D + 512, 8), (W, D + 1088, 64)]),  # the others are in their initial state
        ("0fc727", 0xE0, [(W, D + 512, 16), (W, D + 576, 64)]),
        ("0fc727", 0xE4, [(W, D + 512, 16), (W, D + 576 + 256, 64)]),
        ("0fae27", 0x18, [(W, D + 512, 8)]),  # not enabled
    ],
)
def test_xsave_writes_what_is_asked_for(
    ram: GuestRam, code: str, asked: int, expected: list[tuple[int, int, int]]
) -> None:
    cpu = processor(ram, rdi=D, rax=asked)
    fake_of(cpu).xcr0 = 0xE7
    fake_of(cpu).put_state(512, b"\x23")
    fake_of(cpu).xsave[512] = 0x23  # in use: x87, SSE, masks
    decoded = decode(bytes.fromhex(code), CODE, 64)
    assert decoded is not None

    assert [(each.wanted, each.gva, each.size) for each in operands(cpu, decoded)] == expected


@pytest.mark.tlfs("VSM-080")
@pytest.mark.parametrize(
    ("there", "layout", "expected"),
    [
        (7, 0, [(R, D, 416), (R, D + 576, 256)]),
        (4, 0, [(R, D + 24, 8), (R, D + 576, 256)]),
        (0, 0, [(R, D + 24, 8)]),
        (0x20, 1 << 63 | 0x24, [(R, D + 576 + 256, 64)]),
        (0x24, 1 << 63 | 0x24, [(R, D + 576, 256), (R, D + 576 + 256, 64)]),
    ],
)
def test_xrstor_reads_what_the_header_says(
    ram: GuestRam, there: int, layout: int, expected: list[tuple[int, int, int]]
) -> None:
    page_tables(ram)
    ram.write(D + 512, there.to_bytes(8, "little") + layout.to_bytes(8, "little") + bytes(48))
    cpu = processor(ram, rdi=D, rax=0xE7)
    fake_of(cpu).xcr0 = 0xE7
    decoded = decode(bytes.fromhex("0fae2f"), CODE, 64)
    assert decoded is not None

    found = [(each.wanted, each.gva, each.size) for each in operands(cpu, decoded)]

    assert found == [(R, D + 512, 24), *expected]


@pytest.mark.parametrize(("code", "size"), [("66dd37", 94), ("66d927", 14), ("dd37", 108), ("d927", 28)])
def test_x87_state_in_16_bits_is_smaller(ram: GuestRam, code: str, size: int) -> None:
    ((_, _, found),) = of(ram, code, rdi=D)
    assert found == size
