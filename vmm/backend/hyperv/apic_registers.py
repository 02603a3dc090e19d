# SPDX-License-Identifier: Apache-2.0
"""The local APIC's registers as VP registers: 0x84800 plus the number of the register in x2APIC mode (hvdef).

They are read from KVM_GET_LAPIC, whatever mode the APIC is in. They are not written: KVM_SET_LAPIC replaces the whole
APIC, and an interrupt that arrives in between would be lost.
"""

from __future__ import annotations

from typing import Final

from kvmapi import Vcpu
from vmm.backend.hyperv.register_access import Read, Write
from vmm.hv.registers import HvRegisterName

_FIRST: Final = 0x84800
_ICR, _ICR_HIGH = 0x30, 0x31
_BYTES: Final = 16


def _read(lapic: bytes, number: int) -> int:
    return int.from_bytes(lapic[number * _BYTES : number * _BYTES + 4], "little")


def _reader(number: int) -> Read:
    def read(vcpu: Vcpu) -> int:
        lapic = bytes(vcpu.get_lapic())
        high = _read(lapic, _ICR_HIGH) << 32 if number == _ICR else 0
        return _read(lapic, number) | high

    return read


ACCESSORS: Final[dict[int, tuple[Read, Write | None]]] = {
    int(register): (_reader(int(register) - _FIRST), None)
    for register in HvRegisterName
    if register.name.startswith("HvX64RegisterApic") and register.access.readable and int(register) >= _FIRST
}
"""Register -> how it is read."""
