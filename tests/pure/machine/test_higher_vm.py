# SPDX-License-Identifier: Apache-2.0
"""The KVM VM of a VTL above 0, where the host has no address space left for a further mapping of guest memory."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from vmm.machine.machine import Machine
from vmm.machine.ram import RamError


@pytest.mark.tlfs("VSM-031")
def test_a_mapping_that_cannot_be_had_is_an_error_of_the_host() -> None:
    """`Vtls.add_vtl` makes INSUFFICIENT_MEMORY of it. A later try may succeed: nothing is kept."""

    def refused() -> None:
        raise RamError("guest memory of 64 MiB cannot be mapped")

    machine: Any = SimpleNamespace(_higher_mappings={}, ram=SimpleNamespace(map_for_kvm=refused))

    with pytest.raises(OSError, match="64 MiB") as raised:
        Machine._higher_vm(machine, machine, 1)

    assert (raised.value.errno, machine._higher_mappings) == (errno.ENOMEM, {})
