# SPDX-License-Identifier: Apache-2.0
"""kvm-unit-tests are not part of this repository: their tests exist where somebody names a built tree."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("KVM_UNIT_TESTS") else ["test_kvm_unit_tests.py"]
