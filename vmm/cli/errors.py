# SPDX-License-Identifier: Apache-2.0
"""The one way in which bad input reaches a user: a line, and exit status 2."""

from __future__ import annotations

STATUS_BAD_INPUT = 2


class UserError(Exception):
    """Printed as `vmm: MESSAGE`; the process ends with status 2. The message is one line."""
