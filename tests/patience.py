# SPDX-License-Identifier: Apache-2.0
"""How long a test waits for what has to come before it says that it does not.

No such limit decides a test on a machine that works; but what takes a second elsewhere takes ten and more in the lab,
where Python and the guests are emulated, beside whatever else its machine does.
"""

from __future__ import annotations

import os

IN_LAB = "LAB_KERNEL" in os.environ
SLOWNESS = 10 if IN_LAB else 1


def patient(seconds: float) -> float:
    """The limit on this machine for what would have this one, in seconds, elsewhere."""
    return seconds * SLOWNESS
