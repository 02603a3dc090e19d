# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each figure is a ratio of two sides measured in turns in one run, never a bare time.

`python -m bench --list` names them, `python -m bench NAME --json` runs one. The other side is a C loop over the
same `/dev/kvm` or QEMU on it; what a figure compares stands in its module's docstring.
"""
