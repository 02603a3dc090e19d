# SPDX-License-Identifier: Apache-2.0
"""Hosts as fixtures."""

from __future__ import annotations

import pytest

from tests.pure.cpu.recorded_hosts import RecordedHost, load


@pytest.fixture(params=["kvm-without-svm", "kvm-intel"])
def any_host(request: pytest.FixtureRequest) -> RecordedHost:
    return load(request.param)


@pytest.fixture
def amd_host() -> RecordedHost:
    return load("kvm-without-svm")


@pytest.fixture
def intel_host() -> RecordedHost:
    return load("kvm-intel")
