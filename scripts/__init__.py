# SPDX-License-Identifier: Apache-2.0
"""Tools of the project that are no part of the VMM. Standard library only: they run before anything is installed."""
