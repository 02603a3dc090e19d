# SPDX-License-Identifier: Apache-2.0
"""What the state machine tells a VP's thread to do: small values, one type for each thing that can be done.

`VsmVp.next_step` gives one at a time. `Run`, `WaitForStartup` and `WaitForTlbLock` say what the VP does until something
changes; after any other the thread asks again.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class SwitchReason(enum.Enum):
    """Why another VTL runs. The first three are entries, whose HV_VTL_ENTRY_REASON the new VTL has found written."""

    CALL = "VTL call"
    INTERRUPT = "interrupt"
    INTERCEPT = "intercept"
    RETURN = "VTL return"


class ReturnRegisters(NamedTuple):
    """RAX and RCX that the lower VTL goes on with (VSM-045); RDX too where the returning VTL is a 32-bit one."""

    rax: int
    rcx: int
    rdx: int | None = None


class SwitchVtl(NamedTuple):
    """Stop `source`, carry the shared registers over (`vmm.vsm.scope`), run `target` next.

    State and VP assist page have changed already.
    """

    vp: int
    source: int
    target: int
    reason: SwitchReason
    registers: ReturnRegisters | None = None
    """To be loaded into the shared registers, behind the copy."""
    store_registers: bool = False
    """Store `source`'s RAX and RCX with `VpAssistPage.set_return_registers` of `target` (`profile`)."""


class RaiseVina(NamedTuple):
    """An edge interrupt for `vtl`, the active one: a lower VTL has an interrupt that it would take (VSM-132)."""

    vp: int
    vtl: int
    vector: int
    auto_eoi: bool


class Run(NamedTuple):
    """Run `vtl` until it exits or the VP is woken."""

    vp: int
    vtl: int


class WaitForStartup(NamedTuple):
    """Run nothing: VTL0 waits for INIT and SIPI, or for HvCallStartVirtualProcessor."""

    vp: int


class WaitForTlbLock(NamedTuple):
    """Run nothing: another VP holds the TLB lock that `vtl` was told to wait for (VSM-018)."""

    vp: int
    vtl: int


Step = SwitchVtl | RaiseVina | Run | WaitForStartup | WaitForTlbLock
"""What `VsmVp.next_step` answers."""
