# SPDX-License-Identifier: Apache-2.0
"""INIT to the boot processor: it starts at the top of 4 GiB, where the machine resets itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmapi import Kvm
from tests.patience import patient
from vmm.backend.outcome import OutcomeKind
from vmm.machine.board import BoardEnds
from vmm.machine.config import MachineConfig
from vmm.machine.machine import Machine

pytestmark = pytest.mark.host


@pytest.mark.parametrize("base", [0xFFFF0000, 0xF0000])
def test_the_reset_vector_resets_the_machine(tmp_path: Path, base: int) -> None:
    image = tmp_path / "halt.bin"
    image.write_bytes(b"\xf4")  # hlt: never reached
    config = MachineConfig(kernel=image, raw_address=0x7C00, reboot=False)
    with (
        Kvm.open() as kvm,
        Machine(config, BoardEnds(serial=lambda _: None, debug=lambda _: None), kvm) as machine,
    ):
        sregs, regs = machine.boot_processor.get_sregs(), machine.boot_processor.get_regs()
        sregs.cs.base, sregs.cs.selector, regs.rip = base, 0xF000, 0xFFF0  # what INIT sets for the first base
        machine.boot_processor.set_sregs(sregs)
        machine.boot_processor.set_regs(regs)
        outcome = machine.run(time_limit=patient(20))

    assert outcome.kind is OutcomeKind.RESET, outcome
