# SPDX-License-Identifier: Apache-2.0
"""A reset and the end of S3 put VTL0's processors into their first state, never those of a VTL that happens to run.

The state of S3's end begins at an address that VTL0 chooses: a higher VTL's processor would run VTL0's code there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmapi import Kvm, Vcpu
from kvmapi.uapi import kvm as k
from tests.pure.vsm.world import CONTEXT
from vmm.backend.vsm.vtls import Vtls
from vmm.hypercall.call import AGAIN
from vmm.machine.board import BoardEnds
from vmm.machine.config import MachineConfig
from vmm.machine.events import Reset, Suspend, Wake
from vmm.machine.machine import Machine
from vmm.vsm.actions import SwitchReason, WaitForStartup
from vmm.vsm.vtl import VpVtl

pytestmark = pytest.mark.host

VTL1 = 1
WAKING_VECTOR = 0x9000
MARK, ENTRY = 0x1234_5678, 0x7C00


@pytest.fixture(params=[1])
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    image = tmp_path / "halt.bin"
    image.write_bytes(b"\xf4")
    config = MachineConfig(
        kernel=image, raw_address=ENTRY, memory_bytes=16 << 20, vsm=True, cpus=request.param
    )
    ends = BoardEnds(serial=lambda _: None, debug=lambda _: None, notice=lambda _: None)
    with Kvm.open() as kvm, Machine(config, ends, kvm) as machine:
        yield machine


def enable_vtl1(vtls: Vtls) -> int:
    with vtls.partition.lock:
        return vtls.add_vtl(0, VTL1, CONTEXT)


def in_vtl1(machine: Machine) -> tuple[Vcpu, Vcpu]:
    """VP 0 runs VTL1. The vCPUs of both VTLs, whose RIP is MARK."""
    assert machine.hyperv is not None and machine.hyperv.vtls is not None
    vtls, lower = machine.hyperv.vtls, machine.boot_processor
    partition = vtls.partition
    status = enable_vtl1(vtls)
    if status == AGAIN:  # where INIT can be blocked, VP 0's thread has to do so first
        vtls.attend(0)
        status = enable_vtl1(vtls)
    assert status == 0
    vp = partition.vps[0]
    vp.add_vtl(VTL1, VpVtl(vtls.assist_page(0, VTL1), vtls.synthetic_msrs(0, VTL1)))
    vtls.schedulers[0].switch(vp.enter(VTL1, SwitchReason.INTERRUPT))
    upper = machine.vps[0].vcpu
    assert upper is not lower and machine.boot_processor is lower
    for vcpu in (lower, upper):
        regs = vcpu.get_regs()
        regs.rip = MARK
        vcpu.set_regs(regs)
    return lower, upper


@pytest.mark.tlfs("VSM-062")
def test_the_end_of_s3_is_vtl0_s(machine: Machine) -> None:
    machine.ram.write(machine.board.facs_gpa + 12, WAKING_VECTOR.to_bytes(4, "little"))
    lower, upper = in_vtl1(machine)
    for event in (Suspend(), Wake()):
        machine._handle(event)

    assert upper.get_regs().rip == MARK and machine.vps[0].vcpu is upper
    assert lower.get_sregs().cs.base + lower.get_regs().rip == WAKING_VECTOR
    assert lower.run.regs.rip == lower.get_regs().rip


@pytest.mark.tlfs("VP-002", "VSM-129")
@pytest.mark.parametrize("machine", [2], indirect=True)
def test_the_end_of_s3_leaves_other_processors_to_be_started(machine: Machine) -> None:
    """INIT and SIPI do nothing where there is a VTL1, so that HvCallStartVirtualProcessor has to."""
    assert machine.hyperv is not None and machine.hyperv.vtls is not None
    in_vtl1(machine)
    partition = machine.hyperv.vtls.partition
    with partition.lock:
        partition.vps[1].start(0)
    other = machine.vps[1].vcpu
    other.set_mp_state(k.KVM_MP_STATE_HALTED)
    machine._handle(Suspend())
    machine._freeze()

    machine._wake()

    assert other.get_mp_state() == k.KVM_MP_STATE_UNINITIALIZED
    assert partition.vps[1].next_step(0, 0) == WaitForStartup(1)
    assert partition.vps[0].active == VTL1 and partition.vps[0].startable & 1


@pytest.mark.tlfs("VSM-021", "VSM-039")
def test_a_reset_in_vtl1_is_vtl0_s(machine: Machine) -> None:
    lower, _ = in_vtl1(machine)
    debug = lower.get_debugregs()
    debug.db[0] = MARK
    lower.set_debugregs(debug)

    machine._handle(Reset())

    assert machine.vps[0].vcpu is lower
    assert lower.get_regs().rip == ENTRY and lower.get_debugregs().db[0] == 0


@pytest.mark.tlfs("VSM-021")
def test_resets_use_a_vtl_s_mapping_of_ram_again(machine: Machine) -> None:
    mappings = []
    for _ in range(3):
        in_vtl1(machine)
        mappings.append(Path("/proc/self/maps").read_text().count("guest-ram"))
        machine._handle(Reset())

    assert len(set(mappings)) == 1
