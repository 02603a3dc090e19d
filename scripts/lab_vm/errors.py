# SPDX-License-Identifier: Apache-2.0
"""What the lab raises."""


class LabError(Exception):
    """The lab cannot do what was asked. The message says what was expected, what was found and what to do."""


def missing_packages(what: str, packages: list[str]) -> LabError:
    """An error for tools that are not installed; `packages` are Debian's names."""
    return LabError(f"{what}. On Debian: apt-get install {' '.join(packages)}")
