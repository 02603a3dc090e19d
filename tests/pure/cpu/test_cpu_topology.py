# SPDX-License-Identifier: Apache-2.0
"""APIC ids and the topology leaves, for every machine size a guest may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.cpu.recorded_hosts import RecordedHost, load
from vmm.machine.cpu import CpuidTable, Topology, TopologyError
from vmm.machine.cpu.cpuid import Register
from vmm.machine.cpu.models import NAMES
from vmm.machine.cpu.topology import amd_identifiers, leaf1_ebx, x2apic_leaves

LARGEST = 288  # the most CPUs a machine of ours is tested with; above 255 ids need x2APIC

shapes = st.builds(
    lambda sockets, cores, threads: Topology(sockets * cores * threads, threads, cores, sockets),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(1, 4),
)


@pytest.mark.parametrize("cpus", range(1, LARGEST + 1))
def test_without_more_words_apic_ids_count_up(cpus: int) -> None:
    assert Topology(cpus).apic_ids() == list(range(cpus))


@pytest.mark.parametrize(
    ("given_parts", "threads", "cores", "sockets"),
    [
        ({"cpus": 8}, 1, 8, 1),
        ({"cpus": 8, "threads": 2}, 2, 4, 1),
        ({"cpus": 8, "sockets": 2}, 1, 4, 2),
        ({"cpus": 8, "cores": 2}, 1, 2, 4),
        ({"cpus": 8, "cores": 2, "threads": 2}, 2, 2, 2),
        ({"cpus": 12, "sockets": 2, "cores": 3, "threads": 2}, 2, 3, 2),
    ],
)
def test_missing_parts_are_filled_in(
    given_parts: dict[str, int], threads: int, cores: int, sockets: int
) -> None:
    shape = Topology(**given_parts)
    assert (shape.threads, shape.cores, shape.sockets) == (threads, cores, sockets)


@pytest.mark.parametrize(
    "parts",
    [
        {"cpus": 0},
        {"cpus": -1},
        {"cpus": 100_000},
        {"cpus": 3, "threads": 2},
        {"cpus": 4, "sockets": 3},
        {"cpus": 4, "cores": 8},
        {"cpus": 4, "threads": 0},
        {"cpus": 4, "sockets": -1},
        {"cpus": 4, "sockets": 2, "cores": 2, "threads": 2},
    ],
)
def test_impossible_shapes_are_refused(parts: dict[str, int]) -> None:
    with pytest.raises(TopologyError):
        Topology(**parts)


def test_a_power_of_two_gap_separates_sockets() -> None:
    assert Topology(12, threads=2, cores=3, sockets=2).apic_ids() == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]


@given(shapes)
def test_place_undoes_apic_id(shape: Topology) -> None:
    places = [shape.place(apic_id) for apic_id in shape.apic_ids()]
    expected = [
        (socket, core, thread)
        for socket in range(shape.sockets)
        for core in range(shape.cores)
        for thread in range(shape.threads)
    ]
    assert places == expected


@given(shapes)
def test_leaf_b_shifts_find_core_and_package(shape: Topology) -> None:
    """SDM 3A 9.9.3: x2APIC id >> shift of a level numbers the next higher domain."""
    for apic_id in shape.apic_ids():
        smt, core, end = x2apic_leaves(shape, apic_id, 0xB)
        socket, core_number, _ = shape.place(apic_id)
        assert apic_id >> core.eax == socket
        assert apic_id >> smt.eax & (1 << core.eax - smt.eax) - 1 == core_number
        assert [leaf.edx for leaf in (smt, core, end)] == [apic_id] * 3


@given(shapes)
def test_leaf_b_counts_and_level_types(shape: Topology) -> None:
    smt, core, end = x2apic_leaves(shape, 0, 0xB)
    assert (smt.ebx, core.ebx, end.ebx) == (shape.threads, shape.threads * shape.cores, 0)
    # ECX: level type in bits 15:8 (1 thread, 2 core, 0 end), sub-leaf number below.
    assert (smt.ecx, core.ecx, end.ecx) == (0x100, 0x201, 2)


def test_initial_apic_id_is_cut_to_eight_bits() -> None:
    assert leaf1_ebx(Topology(LARGEST), 287, 8) == 0x1F_FF_08_00  # 287 = 0x11f, count saturates at 255


def test_amd_identifiers() -> None:
    shape = Topology(16, threads=2, cores=4, sockets=2)
    leaf = amd_identifiers(shape, shape.apic_id(15))
    assert (leaf.eax, leaf.ebx, leaf.ecx) == (15, 0x103, 1)  # two threads, core 3 of node 1


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 255, 256, LARGEST])
def test_every_cpu_learns_its_own_apic_id(any_host: RecordedHost, model: str, cpus: int) -> None:
    cpu = any_host.resolve(model)
    shape = Topology(cpus)
    for number in {0, cpus // 2, cpus - 1}:
        table = CpuidTable(cpu.entries(shape, number))
        assert table.get(1).ebx >> 24 == number & 0xFF
        if table.get(0).eax >= 0xB:
            assert {leaf.edx for leaf in table.subleaves(0xB)} == {number}
        else:
            assert cpus <= 255  # the 8-bit id of leaf 1 must then be enough


@pytest.mark.parametrize("model", NAMES)
def test_cpus_differ_in_their_apic_id_only(any_host: RecordedHost, model: str) -> None:
    cpu = any_host.resolve(model)
    shape = Topology(4, threads=2)
    first, last = (CpuidTable(cpu.entries(shape, apic_id)) for apic_id in (0, 3))
    differing = {e.function for e in first if e != last.get(e.function, e.index)}
    assert differing <= {0x1, 0xB, 0x1F, 0x8000_001E}


@given(shapes)
def test_cache_sharing_agrees_with_the_apic_ids(shape: Topology) -> None:
    for model, host, leaf in (
        ("Haswell", "kvm-intel", 4),
        ("host", "kvm-intel", 4),
        ("EPYC", "kvm-without-svm", 0x8000_001D),
        ("host,+topoext", "kvm-without-svm", 0x8000_001D),
    ):
        caches = [
            e for e in load(host).table(model, shape).subleaves(leaf) if e.register(Register.EAX) & 0x1F
        ]
        assert {cache.eax >> 5 & 7 for cache in caches} == {1, 2, 3}
        for cache in caches:
            level, sharing = cache.eax >> 5 & 7, (cache.eax >> 14 & 0xFFF) + 1
            bits = shape.package_shift if level == 3 else shape.thread_bits
            assert sharing == 1 << bits


def test_a_single_thread_has_no_ht_bit(any_host: RecordedHost) -> None:
    assert any_host.table("max").get(1).edx >> 28 & 1 == 0


def test_two_threads_have_the_ht_bit(any_host: RecordedHost) -> None:
    assert any_host.table("max", Topology(2)).get(1).edx >> 28 & 1 == 1


def test_cmp_legacy_is_for_amd_processors_only(amd_host: RecordedHost, intel_host: RecordedHost) -> None:
    legacy = [host.table("max", Topology(2)).get(0x8000_0001).ecx >> 1 & 1 for host in (amd_host, intel_host)]
    assert legacy == [1, 0]
