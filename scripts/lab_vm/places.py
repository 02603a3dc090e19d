# SPDX-License-Identifier: Apache-2.0
"""Where the lab finds and keeps its files, all inside the checkout."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
KERNEL_SOURCES = CHECKOUT / "kernel"
GUEST_SOURCES = Path(__file__).resolve().parent / "guest"
BUILD = CHECKOUT / "build"
KERNEL_BUILD = BUILD / "kernel"
LAB_BUILD = BUILD / "lab"
LAB_RESULTS = BUILD / "lab-test"
