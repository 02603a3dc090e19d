# SPDX-License-Identifier: Apache-2.0
"""What the tests without /dev/kvm share: no example of hypothesis is decided by time."""

from __future__ import annotations

from hypothesis import settings

# A loaded machine makes any example slow; pytest-timeout is the watchdog.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
