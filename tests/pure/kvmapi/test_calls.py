# SPDX-License-Identifier: Apache-2.0
"""What the methods hand to the kernel, and how they read its answers; on the fake kernel."""

from __future__ import annotations

import ctypes
import errno
import signal
from collections.abc import Iterator
from struct import unpack, unpack_from
from typing import Any

import pytest

from kvmapi import Kvm, KvmMsrError, KvmTooBigError, MsrRange, Vcpu, Vm
from kvmapi.arrays import MOST_ENTRIES
from kvmapi.fake import FakeKvm
from kvmapi.routes import pc_default, to_hv_sint, to_msi, to_xen_evtchn
from kvmapi.uapi.kvm import KVM_CAP_MAX_VCPUS, KVM_CAP_NR_VCPUS, KVM_CAP_SPLIT_IRQCHIP
from kvmapi.uapi.x86 import (
    KVM_MSR_FILTER_DEFAULT_DENY,
    KVM_MSR_FILTER_READ,
    kvm_cpuid_entry2,
    kvm_msr_filter,
    kvm_regs,
)


@pytest.fixture
def fake() -> FakeKvm:
    return FakeKvm()


@pytest.fixture
def kvm(fake: FakeKvm) -> Iterator[Kvm]:
    with Kvm.open(seam=fake) as kvm:
        yield kvm


@pytest.fixture
def vm(kvm: Kvm) -> Vm:
    return kvm.create_vm()


@pytest.fixture
def vcpu(vm: Vm) -> Vcpu:
    return vm.create_vcpu(0)


def last(fake: FakeKvm, name: str) -> Any:
    return fake.called(name)[-1].argument


# CPUID and MSR lists


def test_cpuid_list_grows_until_it_fits(fake: FakeKvm, kvm: Kvm) -> None:
    fake.leaves = [kvm_cpuid_entry2(function=number) for number in range(300)]

    leaves = kvm.supported_cpuid()

    assert [leaf.function for leaf in leaves] == list(range(300))
    rooms = [unpack_from("<I", call.argument)[0] for call in fake.called("KVM_GET_SUPPORTED_CPUID")]
    assert rooms == [128, 300]  # the second is what KVM said it needs


def test_list_doubles_where_kvm_does_not_say_how_much_it_needs(fake: FakeKvm, vcpu: Vcpu) -> None:
    vcpu.set_cpuid2([kvm_cpuid_entry2(function=7), kvm_cpuid_entry2(function=8)])
    fake.fail("KVM_GET_CPUID2", errno.E2BIG, times=2)

    leaves = vcpu.get_cpuid2()

    assert [leaf.function for leaf in leaves] == [7, 8]
    rooms = [unpack_from("<I", call.argument)[0] for call in fake.called("KVM_GET_CPUID2")]
    assert rooms == [128, 256, 512]


def test_growing_ends(fake: FakeKvm, kvm: Kvm) -> None:
    fake.fail("KVM_GET_SUPPORTED_CPUID", errno.E2BIG, times=100)

    with pytest.raises(KvmTooBigError):
        kvm.supported_cpuid()

    assert unpack_from("<I", last(fake, "KVM_GET_SUPPORTED_CPUID"))[0] == MOST_ENTRIES


def test_leaves_are_independent_copies(fake: FakeKvm, kvm: Kvm) -> None:
    fake.leaves = [kvm_cpuid_entry2(function=1, eax=2), kvm_cpuid_entry2(function=2, eax=3)]

    first, second = kvm.supported_cpuid()
    first.eax = 99

    assert second.eax == 3


def test_set_cpuid2_passes_all_leaves(fake: FakeKvm, vcpu: Vcpu) -> None:
    vcpu.set_cpuid2([kvm_cpuid_entry2(function=7, index=1, ebx=0x55), kvm_cpuid_entry2(function=8)])

    argument = last(fake, "KVM_SET_CPUID2")
    assert unpack_from("<II", argument) == (2, 0)
    assert unpack_from("<IIIIIII", argument, 8) == (7, 1, 0, 0, 0x55, 0, 0)
    assert len(argument) == 8 + 2 * 40


def test_msrs_are_read_in_parts_the_kernel_takes(fake: FakeKvm, vcpu: Vcpu) -> None:
    pairs = [(0x1000 + number, number * 3) for number in range(600)]

    vcpu.set_msrs(pairs)

    assert vcpu.get_msrs(index for index, _ in pairs) == pairs
    counts = [unpack_from("<I", call.argument)[0] for call in fake.called("KVM_GET_MSRS")]
    assert counts == [255, 255, 90]


def test_a_refused_msr_is_named_with_what_was_read_before(fake: FakeKvm, vcpu: Vcpu) -> None:
    vcpu.set_msrs([(0x10, 1), (0x11, 2), (0x12, 3)])
    fake.refused_msrs = {0x12}

    with pytest.raises(
        KvmMsrError, match=r"KVM_GET_MSRS\(index=0x12, position=2 of 3\).*refused MSR 0x12"
    ) as caught:
        vcpu.get_msrs([0x10, 0x11, 0x12])

    assert caught.value.index == 0x12
    assert caught.value.done == [(0x10, 1), (0x11, 2)]


def test_a_refused_write_stops_there(fake: FakeKvm, vcpu: Vcpu) -> None:
    fake.refused_msrs = {0x300}
    pairs = [(number, 1) for number in range(0x200, 0x400)]  # the refused one is in the second part

    with pytest.raises(KvmMsrError) as caught:
        vcpu.set_msrs(pairs)

    assert caught.value.index == 0x300
    assert caught.value.done == pairs[:0x100]


def test_no_msrs_are_no_call(fake: FakeKvm, vcpu: Vcpu) -> None:
    assert vcpu.get_msrs([]) == []
    assert fake.called("KVM_GET_MSRS") == []


def test_vcpu_limits_fall_back_as_api_rst_says(fake: FakeKvm, kvm: Kvm) -> None:
    assert (kvm.nr_vcpus(), kvm.max_vcpus(), kvm.max_vcpu_id(), kvm.nr_memslots()) == (4, 4, 4, 32)

    fake.caps = {KVM_CAP_NR_VCPUS: 2, KVM_CAP_MAX_VCPUS: 1024}

    assert (kvm.nr_vcpus(), kvm.max_vcpus(), kvm.max_vcpu_id()) == (2, 1024, 1024)


# Operands


def test_registers_come_back_as_set(vcpu: Vcpu) -> None:
    vcpu.set_regs(kvm_regs(rip=0x1234, rax=(1 << 64) - 1))

    regs = vcpu.get_regs()

    assert (regs.rip, regs.rax) == (0x1234, (1 << 64) - 1)


def test_enable_cap_arguments(fake: FakeKvm, vm: Vm) -> None:
    vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, 24, (1 << 64) - 1)

    assert unpack_from("<II4Q", last(fake, "KVM_ENABLE_CAP")) == (121, 0, 24, (1 << 64) - 1, 0, 0)


@pytest.mark.parametrize(
    ("args", "message"), [((1, 2, 3, 4, 5), "at most 4"), ((1 << 64,), "does not fit"), ((-1,), "fit")]
)
def test_enable_cap_refuses_impossible_arguments(vm: Vm, args: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, *args)


def test_memory_region_operands(fake: FakeKvm, vm: Vm) -> None:
    vm.set_user_memory_region(
        slot=0x1_0002, gpa=1 << 32, size=0x2000, userspace_addr=0x7F00_0000_1000, flags=1
    )

    argument = last(fake, "KVM_SET_USER_MEMORY_REGION")
    assert unpack("<IIQQQ", argument) == (0x1_0002, 1, 1 << 32, 0x2000, 0x7F00_0000_1000)


@pytest.mark.parametrize("values", [{"slot": 1 << 32}, {"gpa": -1}, {"size": 1 << 64}])
def test_memory_region_refuses_what_does_not_fit(vm: Vm, values: dict[str, int]) -> None:
    operands = {"slot": 0, "gpa": 0, "size": 4096, "userspace_addr": 4096} | values

    with pytest.raises(ValueError, match="does not fit"):
        vm.set_user_memory_region(**operands)


def test_memory_attributes_operands(fake: FakeKvm, vm: Vm) -> None:
    vm.set_memory_attributes(0x1000, 0x3000, 6)

    assert unpack("<QQQQ", last(fake, "KVM_SET_MEMORY_ATTRIBUTES")) == (0x1000, 0x3000, 6, 0)


def test_tss_address_above_2_gib_arrives_whole(fake: FakeKvm, vm: Vm) -> None:
    vm.set_tss_addr(0xFFFB_D000)

    assert last(fake, "KVM_SET_TSS_ADDR") == 0xFFFB_D000


def test_dirty_log_has_a_bit_per_page_in_whole_words(fake: FakeKvm, vm: Vm) -> None:
    assert [len(vm.get_dirty_log(0, pages)) for pages in (1, 64, 65, 4096)] == [8, 8, 16, 512]


def test_clear_dirty_log_refuses_a_short_bitmap(vm: Vm) -> None:
    with pytest.raises(ValueError, match="128 pages need a bitmap of 16 bytes, got 15"):
        vm.clear_dirty_log(0, 0, 128, bytes(15))


def test_irq_line_operands(fake: FakeKvm, vm: Vm) -> None:
    vm.irq_line(23, 1)

    assert last(fake, "KVM_IRQ_LINE") == bytes([23, 0, 0, 0, 1, 0, 0, 0])


def test_msi_operands(fake: FakeKvm, vm: Vm) -> None:
    vm.signal_msi(0x1_FEE0_0000, 0x4041)

    assert unpack_from("<IIIII", last(fake, "KVM_SIGNAL_MSI")) == (0xFEE00000, 1, 0x4041, 0, 0)


def test_msi_with_a_device_id(fake: FakeKvm, vm: Vm) -> None:
    vm.signal_msi(0xFEE0_0000, 0x41, devid=0x18)

    assert unpack_from("<II", last(fake, "KVM_SIGNAL_MSI"), 12) == (1, 0x18)


def test_ioeventfd_flags(fake: FakeKvm, vm: Vm) -> None:
    vm.ioeventfd(9, 0xC000, 2, datamatch=5, pio=True)
    vm.ioeventfd(9, 0xD000_0000, 0, deassign=True)

    calls = [unpack_from("<QQIiI", call.argument) for call in fake.called("KVM_IOEVENTFD")]
    assert calls == [(5, 0xC000, 2, 9, 1 | 2), (0, 0xD000_0000, 0, 9, 4)]


def test_ioeventfd_matches_the_value_zero_too(fake: FakeKvm, vm: Vm) -> None:
    vm.ioeventfd(9, 0xC000, 2, datamatch=0)

    assert unpack_from("<I", last(fake, "KVM_IOEVENTFD"), 24)[0] & 1


def test_irqfd_flags(fake: FakeKvm, vm: Vm) -> None:
    vm.irqfd(8, 5)
    vm.irqfd(8, 5, resamplefd=9)
    vm.irqfd(8, 5, deassign=True)

    assert [unpack_from("<IIII", call.argument) for call in fake.called("KVM_IRQFD")] == [
        (8, 5, 0, 0),
        (8, 5, 2, 9),
        (8, 5, 1, 0),
    ]


def test_routing_table_of_a_pc(fake: FakeKvm, vm: Vm) -> None:
    vm.set_gsi_routing(
        [*pc_default(), to_msi(24, 0x1_FEE0_0000, 0x55), to_hv_sint(25, 1, 2), to_xen_evtchn(26, 0, 7)]
    )

    argument = last(fake, "KVM_SET_GSI_ROUTING")
    entries = [unpack_from("<IIIIIII", argument, 8 + 48 * number) for number in range(43)]
    assert unpack_from("<II", argument) == (43, 0)
    assert entries[1] == (0, 1, 0, 0, 0, 0, 0)  # GSI 0: chip 0 (master PIC), pin 0
    assert entries[19] == (9, 1, 0, 0, 1, 1, 0)  # GSI 9: slave PIC, pin 1
    assert entries[39] == (23, 1, 0, 0, 2, 23, 0)  # GSI 23: I/O APIC only
    assert entries[40] == (24, 2, 0, 0, 0xFEE00000, 1, 0x55)
    assert entries[41][:6] == (25, 4, 0, 0, 1, 2)
    assert entries[42] == (26, 5, 0, 0, 7, 0, 0xFFFFFFFF)


def test_signal_mask_is_the_kernels_eight_bytes(fake: FakeKvm, vcpu: Vcpu) -> None:
    vcpu.set_signal_mask({signal.SIGUSR1, signal.SIGRTMIN})

    expected = 1 << (signal.SIGUSR1 - 1) | 1 << (signal.SIGRTMIN - 1)
    # The trailing bytes are ctypes' padding of the structure; KVM reads 4 + 8.
    assert unpack_from("<IQ", last(fake, "KVM_SET_SIGNAL_MASK")) == (8, expected)


def test_no_signal_mask_passes_a_null_pointer(fake: FakeKvm, vcpu: Vcpu) -> None:
    vcpu.set_signal_mask(None)

    assert last(fake, "KVM_SET_SIGNAL_MASK") == 0


def test_tsc_offset_may_be_negative(fake: FakeKvm, vcpu: Vcpu, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def look(self: FakeKvm, entry: Any, argument: Any) -> int:
        seen.append(ctypes.c_uint64.from_address(argument.addr).value)
        return 0

    monkeypatch.setattr(FakeKvm, "_do_set_device_attr", look, raising=False)

    vcpu.set_tsc_offset(-1)

    assert seen == [(1 << 64) - 1]


@pytest.mark.parametrize("size", [0, 4095, 4098])
def test_xsave2_refuses_a_size_that_kvm_never_says(vcpu: Vcpu, size: int) -> None:
    with pytest.raises(ValueError, match="what KVM_CAP_XSAVE2 says"):
        vcpu.get_xsave2(size)


def test_nested_state_too_big_tells_both_sizes(fake: FakeKvm, vcpu: Vcpu) -> None:
    fake.fail("KVM_GET_NESTED_STATE", errno.E2BIG)

    with pytest.raises(KvmTooBigError, match="The state takes 128 bytes, room was made for 128"):
        vcpu.get_nested_state(128)


def test_coalesced_writes_are_taken_in_order(vcpu: Vcpu) -> None:
    ring = 2 * 4096
    entries = [(0xD0000000, 4, 0, b"\x01\x02\x03\x04"), (0x3F8, 1, 1, b"A")]
    for number, (address, size, pio, data) in enumerate(entries):
        at = ring + 8 + 24 * number
        vcpu.run.u8[at : at + 24] = (
            address.to_bytes(8, "little")
            + size.to_bytes(4, "little")
            + pio.to_bytes(4, "little")
            + data.ljust(8, b"\0")
        )
    vcpu.run.u32[ring // 4 + 1] = 2

    assert vcpu.run.coalesced() == [(0xD0000000, b"\x01\x02\x03\x04", False), (0x3F8, b"A", True)]
    assert vcpu.run.coalesced() == []
    assert vcpu.run.u32[ring // 4] == 2


def test_coalesced_ring_wraps(vcpu: Vcpu) -> None:
    ring = 2 * 4096
    slots = (4096 - 8) // 24
    vcpu.run.u32[ring // 4] = slots - 1
    vcpu.run.u32[ring // 4 + 1] = 1

    assert len(vcpu.run.coalesced()) == 2


# MSR filter


def test_msr_filter_bits() -> None:
    assert MsrRange(0x40000000, 16, filtered=frozenset({0x40000001, 0x40000009})).bitmap() == b"\xfd\xfd"
    assert MsrRange(0x40000000, 9).bitmap() == b"\0\0"


def test_msr_filter_argument(fake: FakeKvm, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    bitmaps: list[bytes] = []

    def look(self: FakeKvm, entry: object, argument: kvm_msr_filter) -> int:
        bitmaps.extend(
            ctypes.string_at(item.bitmap, (item.nmsrs + 7) // 8) for item in argument.ranges if item.nmsrs
        )
        return 0

    monkeypatch.setattr(FakeKvm, "_do_x86_set_msr_filter", look, raising=False)

    vm.set_msr_filter(
        [MsrRange(0x10, 8, KVM_MSR_FILTER_READ, frozenset({0x10})), MsrRange(0x40000000, 9)],
        KVM_MSR_FILTER_DEFAULT_DENY,
    )

    argument = last(fake, "KVM_X86_SET_MSR_FILTER")
    assert unpack_from("<I", argument)[0] == KVM_MSR_FILTER_DEFAULT_DENY
    assert unpack_from("<III", argument, 8) == (KVM_MSR_FILTER_READ, 8, 0x10)
    assert unpack_from("<III", argument, 32) == (3, 9, 0x40000000)
    assert bitmaps == [b"\xfe", b"\0\0"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (MsrRange(0, 0), "0 MSRs, expected 1 to 12288"),
        (MsrRange(0, 12289), "12289 MSRs"),
        (MsrRange(0x10, 2, filtered=frozenset({0x12})), "MSR 0x12 is outside"),
    ],
)
def test_msr_filter_refuses_impossible_ranges(vm: Vm, chosen: MsrRange, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vm.set_msr_filter([chosen])


def test_msr_filter_refuses_too_many_ranges(vm: Vm) -> None:
    with pytest.raises(ValueError, match="17 ranges, KVM takes at most 16"):
        vm.set_msr_filter([MsrRange(number, 1) for number in range(17)])
