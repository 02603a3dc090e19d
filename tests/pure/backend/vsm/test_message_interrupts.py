# SPDX-License-Identifier: Apache-2.0
"""Interrupts that a VTL makes for a lower one: the message that KVM gets, for which VM, and who looks then."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from kvmapi.uapi.kvm_irq import kvm_msi
from tests.pure.backend.vsm.rig import INPUT, SELF, VTL1, Rig, a_rig
from vmm.backend.hyperv import services as services_module
from vmm.backend.vsm import vtls as vtls_module
from vmm.hv.call_codes import HypercallCode as Code
from vmm.hv.register_bits import HV_REGISTER_VSM_VINA
from vmm.hvcalls.outside import MessageInterrupt

pytestmark = pytest.mark.tlfs("SYN-030")

IMMEDIATE_EXIT = 1
EDGE = MessageInterrupt(0, 0x41, 1, logical=False, level=False)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """VP 0 runs VTL1."""
    with a_rig(Rig) as made:
        made.with_vtl1()
        made.switch(0, Code.HvCallVtlCall)
        made.ring_0(made.vcpu(0, VTL1))
        made.place_page(0)
        yield made


def messages(rig: Rig) -> list[tuple[int, int, int, int]]:
    """`(VM's fd, address low, address high, data)`."""
    calls = rig.fake.called("KVM_SIGNAL_MSI")
    sent = [(call.fd, kvm_msi.from_buffer_copy(call.argument)) for call in calls]
    return [(fd, msi.address_lo, msi.address_hi, msi.data) for fd, msi in sent]


def test_a_call_of_vtl1_is_a_message_for_vtl0_s_vm(rig: Rig) -> None:
    fixed, level = 0, 1 << 32
    rig.ram.write(INPUT, struct.pack("<QQQIB3x", SELF, fixed | level, 1, 0x41, 0))

    assert rig.call(0, Code.HvCallAssertVirtualInterrupt, INPUT) == 0

    assert messages(rig) == [(rig.vm.fileno(), 0xFEE0_1000, 0, 0x41 | 1 << 14 | 1 << 15)]


@pytest.mark.parametrize(
    ("interrupt", "address", "data"),
    [
        (EDGE, (0xFEE0_1000, 0), 0x41),
        (EDGE._replace(delivery_mode=1), (0xFEE0_1000, 0), 0x141),
        (EDGE._replace(delivery_mode=4, vector=0), (0xFEE0_1000, 0), 0x400),
        (EDGE._replace(level=True), (0xFEE0_1000, 0), 0xC041),
        (EDGE._replace(destination=0x81, logical=True), (0xFEE8_1004, 0), 0x41),
        (EDGE._replace(destination=0x1_2345), (0xFEE4_5000, 0x1_2300), 0x41),
    ],
)
def test_the_message(rig: Rig, interrupt: MessageInterrupt, address: tuple[int, int], data: int) -> None:
    rig.hyperv.services.message_interrupt(0, interrupt)

    assert messages(rig) == [(rig.vm.fileno(), *address, data)]


def kicked(rig: Rig) -> list[int]:
    return [vp.index for vp in rig.vps if vp.vcpu.run.u8[IMMEDIATE_EXIT]]


def taken(monkeypatch: pytest.MonkeyPatch, answer: bool) -> list[object]:
    """Have some local APIC take messages, or none. The VMs that got one."""
    vms: list[object] = []

    def signal(vm: object, address: int, data: int) -> bool:
        vms.append(vm)
        return answer

    monkeypatch.setattr(services_module, "signal", signal)
    monkeypatch.setattr(vtls_module, "signal", signal)
    return vms


@pytest.mark.parametrize("answer", [True, False])
def test_vps_with_a_higher_vtl_look_for_its_messages(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    for vp in rig.vps:
        vp.vcpu.run.u8[IMMEDIATE_EXIT] = 0
    vms = taken(monkeypatch, answer)

    rig.hyperv.services.message_interrupt(VTL1, EDGE)

    assert vms == [rig.vms[0].vm]
    assert kicked(rig) == ([0] if answer else [])  # VP 1 does not have it


@pytest.mark.parametrize("vina", [True, False])
def test_a_higher_vtl_with_vina_looks_for_vtl0_s(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, vina: bool
) -> None:
    rig.vtls.partition.vps[0].vtls[VTL1].set_vina(HV_REGISTER_VSM_VINA.make(Vector=0x77, Enabled=vina))
    for vp in rig.vps:
        vp.vcpu.run.u8[IMMEDIATE_EXIT] = 0
    vms = taken(monkeypatch, True)

    rig.hyperv.services.message_interrupt(0, EDGE)

    assert vms == [rig.vm]
    assert kicked(rig) == ([0] if vina else [])


def test_a_vtl_that_nobody_has_gets_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    vms = taken(monkeypatch, True)

    rig.hyperv.services.message_interrupt(2, EDGE)

    assert vms == []
