# SPDX-License-Identifier: Apache-2.0
"""Any accesses a guest can make, for hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from vmm.outside import Region

SIZES = (1, 2, 4)

ACCESSES = st.lists(
    st.tuples(
        st.integers(0, 15),  # which region and offset: reduced to what the device has
        st.sampled_from(SIZES),
        st.one_of(st.none(), st.integers(0, 255), st.integers(0, 2**32 - 1)),  # None: a read
        st.one_of(st.just(0), st.integers(0, 3 * 10**9)),  # nanoseconds that pass before the access
    ),
    max_size=60,
)


def carry_out(access: tuple[int, int, int | None, int], ports: Sequence[tuple[Region, int]]) -> None:
    """One access to one of `ports` (region, offset); a value read must be an unsigned integer of its size."""
    which, size, value, _ = access
    region, offset = ports[which % len(ports)]
    if value is None:
        result = region.read(offset, size)
        assert 0 <= result < 1 << (8 * size), f"{result:#x} read with {size} bytes at offset {offset}"
    else:
        region.write(offset, size, value & ((1 << (8 * size)) - 1))
