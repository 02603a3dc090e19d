# SPDX-License-Identifier: Apache-2.0
"""HvExtCallQueryCapabilities: which extended calls there are (TLFS 3.14).

Implements: HC-020, LNX-003
"""

from __future__ import annotations

from typing import Any

from vmm.hv.status import HvStatus
from vmm.hvcalls.outside import VpContext
from vmm.hypercall.call import CallInput, Reply


class ExtendedCalls:
    """The handler."""

    def __init__(self, capabilities: int = 0) -> None:
        """capabilities: bit n for extended call 0x8002 + n. None of them is offered yet."""
        self._capabilities = capabilities

    def query_capabilities(self, context: VpContext, call: CallInput[Any, Any]) -> Reply:
        """The bit mask."""
        return HvStatus.SUCCESS, 0, self._capabilities
