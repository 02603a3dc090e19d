# SPDX-License-Identifier: Apache-2.0
"""The declarations' own checks, and ioctl numbers by value for machines without a compiler."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from kvmapi import run
from kvmapi.names import CAP_NAMES, EXIT_NAMES, IOCTL_NAMES, MP_STATE_NAMES
from kvmapi.uapi import kvm, kvm_ioctl, vsm, x86
from kvmapi.uapi.layout import IOW, Structure, build, flexible_array, layout, u32, u64


class Pair(Structure):
    __slots__ = ()
    _fields_ = [("low", u32), ("high", u32)]


def test_layout_shows_both_sizes() -> None:
    with pytest.raises(TypeError, match="Pair: size is 8 bytes, the C structure has 12"):
        layout(size=12, offsets={})(Pair)


def test_layout_shows_both_offsets() -> None:
    with pytest.raises(TypeError, match=r"Pair\.high: offset is 4, C has 8"):
        layout(size=8, offsets={"high": 8})(Pair)


def test_layout_names_a_missing_field() -> None:
    with pytest.raises(TypeError, match="Pair: has no field 'middle', expected at offset 2"):
        layout(size=8, offsets={"middle": 2})(Pair)


@pytest.mark.parametrize(
    ("number", "expected"),
    [  # as strace and the kernel's own tables print them
        (kvm.KVM_GET_API_VERSION, 0xAE00),
        (kvm.KVM_CREATE_VM, 0xAE01),
        (kvm.KVM_RUN, 0xAE80),
        (kvm.KVM_GET_REGS, 0x8090AE81),
        (kvm.KVM_SET_REGS, 0x4090AE82),
        (kvm.KVM_GET_SREGS, 0x8138AE83),
        (kvm.KVM_SET_CPUID2, 0x4008AE90),
        (kvm.KVM_GET_SUPPORTED_HV_CPUID, 0xC008AEC1),
        (kvm.KVM_SET_USER_MEMORY_REGION, 0x4020AE46),
        (kvm.KVM_X86_SET_MSR_FILTER, 0x4188AEC6),
        (kvm.KVM_SET_MEMORY_ATTRIBUTES, 0x4020AED2),
        (kvm.KVM_ENABLE_CAP, 0x4068AEA3),
        (kvm.KVM_SIGNAL_MSI, 0x4020AEA5),
        (kvm.KVM_SET_MP_STATE, 0x4004AE99),
    ],
)
def test_ioctl_numbers(number: int, expected: int) -> None:
    assert number == expected


def test_ioctl_number_out_of_range_is_an_error_without_assertions() -> None:
    with pytest.raises(ValueError, match="number 0x100"):
        IOW(0xAE, 0x100, u64)


def test_no_two_ioctls_share_a_number() -> None:
    names = [name for name, value in vars(kvm_ioctl).items() if isinstance(value, int) and value > 0xFF]

    assert len(IOCTL_NAMES) == len(names) == 107


@pytest.mark.parametrize(
    "cls",
    [value for module in (kvm, x86, vsm) for name, value in vars(module).items() if name.startswith("kvm_")],
)
def test_structures_refuse_unknown_fields(cls: Any) -> None:
    with pytest.raises(AttributeError):
        cls().no_such_field = 1


def test_build_refuses_a_value_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"kvm_regs\.rax = 0x10000000000000000: does not fit its 64 bits"):
        build(x86.kvm_regs, rax=1 << 64)


def test_build_refuses_an_unknown_field() -> None:
    with pytest.raises(AttributeError):
        build(x86.kvm_regs, raxx=1)


def test_build_keeps_negative_values_of_signed_fields() -> None:
    assert build(kvm.kvm_ioeventfd, fd=-1).fd == -1


def test_flexible_array_grows_by_its_elements() -> None:
    make = x86.make_kvm_cpuid2

    assert [ctypes.sizeof(make(n)) - ctypes.sizeof(x86.kvm_cpuid2) for n in (0, 1, 3)] == [0, 40, 120]
    assert make(3) is make(3)


def test_flexible_array_refuses_a_negative_count() -> None:
    with pytest.raises(ValueError, match="-1 entries asked for"):
        flexible_array(Pair, "rest", u32)(-1)


def test_names_of_numbers() -> None:
    assert CAP_NAMES[74] == "KVM_CAP_SYNC_REGS"
    assert EXIT_NAMES[27] == "KVM_EXIT_HYPERV"
    assert MP_STATE_NAMES[11] == "KVM_MP_STATE_HV_INACTIVE_VTL"
    assert len(EXIT_NAMES) == 40


def test_run_loop_offsets_are_those_of_the_structure() -> None:
    fields = kvm.kvm_run
    expected = (fields.exit_reason, fields.hw, fields.kvm_valid_regs, fields.kvm_dirty_regs, fields.s)

    actual = (run.EXIT_REASON, run.EXIT_UNION, run.VALID_REGS, run.DIRTY_REGS, run.SYNC_REGS)

    assert actual == tuple(field.offset for field in expected)


def test_pmu_masked_entry_places_its_fields() -> None:
    # Event 0x1C5: low byte in bits 7:0, the rest in bits 35:32; mask in 63:56, match in 15:8, exclude in 55.
    assert x86.KVM_PMU_ENCODE_MASKED_ENTRY(0x1C5, 0xF0, 0x20, True) == 0xF0_80_0001_0000_20C5


def test_kvm_signature_is_that_of_the_cpuid_leaf() -> None:
    assert x86.KVM_SIGNATURE == b"KVMKVMKVM\0\0\0"


@pytest.mark.parametrize(
    ("structure", "member", "offset"),
    [  # distances from the start of kvm_run in the VSM series; the exit union starts at 32
        (vsm.kvm_hyperv_exit_xmm, "type", 32),
        (vsm.kvm_hyperv_exit_xmm, "u", 40),
        (vsm.kvm_run_memory_fault_vsm, "flags", 32),
        (vsm.kvm_run_memory_fault_vsm, "gpa", 40),
        (vsm.kvm_run_memory_fault_vsm, "size", 48),
        (vsm.kvm_run_memory_fault_vsm, "insn_len", 56),
    ],
)
def test_vsm_members_lie_where_the_series_puts_them(structure: type, member: str, offset: int) -> None:
    assert run.EXIT_UNION + getattr(structure, member).offset == offset


@pytest.mark.parametrize("register", range(6))
def test_vsm_xmm_registers_follow_the_parameters(register: int) -> None:
    call = vsm.kvm_hyperv_exit_hcall_xmm
    low = run.EXIT_UNION + vsm.kvm_hyperv_exit_xmm.u.offset + call.xmm.offset + register * 16

    assert low == 72 + 16 * register
    assert ctypes.sizeof(vsm.kvm_hyperv_exit_xmm) == 136
