# SPDX-License-Identifier: Apache-2.0
"""The one way in which bad input reaches a user: a line, and exit status 2."""

from __future__ import annotations

from vmm.backend.outcome import STATUS_BAD_INPUT as STATUS_BAD_INPUT  # the same for a guest that cannot go on


class UserError(Exception):
    """Printed as `vmm: MESSAGE`; the process ends with status 2. The message is one line."""
