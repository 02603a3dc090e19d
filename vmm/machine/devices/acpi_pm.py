# SPDX-License-Identifier: Apache-2.0
"""ACPI fixed hardware: PM1a event and control blocks, PM timer, GPE0, SMI command port; sleep and wake-up.

Source: ACPI specification 6.3 section 4.8; ports as on QEMU's PIIX4. There is no system management mode, so
what a PC's firmware does on a write to the SMI command port happens here at once. An event raises the SCI
only while SCI_EN is set: before that it would be an SMI, which nobody handles.
"""

from __future__ import annotations

import threading
from typing import Final

from vmm.machine.devices.byte_ports import BytePorts
from vmm.outside import Clock, InterruptLine, MachineControl

# What the FADT and the DSDT tell the guest.
SCI_IRQ: Final = 9
SMI_CMD: Final = 0xB2
SMI_CMD_LEN: Final = 2
ACPI_ENABLE: Final = 0xF1
ACPI_DISABLE: Final = 0xF0
PM1A_EVT: Final = 0x600
PM1A_EVT_LEN: Final = 4
PM1A_CNT: Final = 0x604
PM1A_CNT_LEN: Final = 2
PM_TMR: Final = 0x608
PM_TMR_LEN: Final = 4
GPE0: Final = 0xAFE0
GPE0_LEN: Final = 4
SLEEP_TYPE_S3: Final = 1
SLEEP_TYPE_S5: Final = 0

PM_BASE: Final = PM1A_EVT
PM_PORT_COUNT: Final = PM_TMR + PM_TMR_LEN - PM1A_EVT

PM_TIMER_HZ: Final = 3_579_545
PM_TIMER_BITS: Final = 24
"""Width of the PM timer; the FADT's TMR_VAL_EXT flag is set exactly when this is 32."""

# PM1 status and enable (4.8.3.1): a status bit and its enable bit have the same number.
TMR, BM_STS, GBL, PWRBTN, SLPBTN, RTC, WAK_STS = 1 << 0, 1 << 4, 1 << 5, 1 << 8, 1 << 9, 1 << 10, 1 << 15
PM1_ENABLE_BITS: Final = TMR | GBL | PWRBTN | SLPBTN | RTC

# PM1 control (4.8.3.2). GBL_RLS and SLP_EN are write-only.
SCI_EN, BM_RLD, GBL_RLS, SLP_EN = 1 << 0, 1 << 1, 1 << 2, 1 << 13
SLP_TYP_SHIFT: Final = 10
SLP_TYP_MASK: Final = 7 << SLP_TYP_SHIFT

_STICKY_STATUS: Final = BM_STS | GBL | PWRBTN | SLPBTN | RTC | WAK_STS
_READABLE_CONTROL: Final = SCI_EN | BM_RLD | SLP_TYP_MASK
_TIMER_MASK: Final = (1 << PM_TIMER_BITS) - 1
_HALF_SHIFT: Final = PM_TIMER_BITS - 1  # TMR_STS is set whenever the timer's top bit changes (4.8.3.3)
_NS_PER_SECOND: Final = 1_000_000_000


class AcpiPm:
    """Ports 0x600..0x60b: PM1_STS, PM1_EN, PM1_CNT (16 bits each), 2 bytes reserved, PM_TMR (32 bits).

    Accesses of any size and alignment work, as QEMU and most chip sets allow. `Gpe0` and `SmiCommand` are the
    other two port ranges of the same block. SLP_TYP 1 with SLP_EN asks the machine for S3, 0 for S5, other
    types are ignored. A wake-up event that is pending when S3 begins ends it at once. PM timer, clock and
    registers go on in S3; the machine calls `reset` for a machine reset only.
    """

    name = "acpi-pm"

    def __init__(self, sci: InterruptLine, clock: Clock, control: MachineControl) -> None:
        """sci: a level-triggered, active-high line."""
        self._sci = sci
        self._clock = clock
        # Called with the lock held, so that a wake-up never overtakes the suspend it ends. It only posts.
        self._control = control
        self._lock = threading.Lock()
        self._timer = clock.timer(self._on_timer)
        self._armed_half: int | None = None
        self._sci_level = False
        self._set_power_on_state()

    def _set_power_on_state(self) -> None:
        self._status = self._enable = self._pm1_control = 0  # TMR_STS is derived, see _pm1_status
        self._gpe_status = self._gpe_enable = 0
        self._seen_half = self._ticks() >> _HALF_SHIFT  # half period of the timer when TMR_STS was cleared
        self._suspended = False

    def reset(self) -> None:
        """All events off, legacy mode (SCI_EN clear). The PM timer counts on."""
        with self._lock:
            self._set_power_on_state()
            self._update_sci()

    # ---- the guest's side ----------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """`size` bytes of the register file; reading the PM timer is the fast path."""
        if offset == PM_TMR - PM_BASE and size == PM_TMR_LEN:
            return self._ticks() & _TIMER_MASK
        with self._lock:
            registers = (
                self._pm1_status()
                | self._enable << 16
                | self._pm1_control << 32
                | (self._ticks() & _TIMER_MASK) << 64
            )
        return registers >> (8 * offset) & ((1 << (8 * size)) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        """Status bits are cleared by ones; the timer is read-only."""
        bits = value << (8 * offset)
        written = ((1 << (8 * size)) - 1) << (8 * offset)
        with self._lock:
            if bits & 0xFFFF:
                self._clear_status(bits & 0xFFFF)
            self._enable = (self._enable & ~(written >> 16) | bits >> 16) & PM1_ENABLE_BITS
            control = self._pm1_control & ~(written >> 32) | bits >> 32
            self._pm1_control = control & _READABLE_CONTROL
            if control & SLP_EN:
                self._sleep((control & SLP_TYP_MASK) >> SLP_TYP_SHIFT)
            self._update_sci()

    def read_gpe(self, offset: int, size: int) -> int:
        """GPE0: two status bytes, two enable bytes."""
        registers = self._gpe_status | self._gpe_enable << 16
        return registers >> (8 * offset) & ((1 << (8 * size)) - 1)

    def write_gpe(self, offset: int, size: int, value: int) -> None:
        """GPE0: status bits are cleared by ones."""
        bits = value << (8 * offset)
        written = ((1 << (8 * size)) - 1) << (8 * offset)
        with self._lock:
            self._gpe_status &= ~bits
            self._gpe_enable = (self._gpe_enable & ~(written >> 16) | bits >> 16) & 0xFFFF
            self._update_sci()

    def switch_mode(self, acpi: bool) -> None:
        """What firmware does for ACPI_ENABLE and ACPI_DISABLE: set or clear SCI_EN."""
        with self._lock:
            self._pm1_control = self._pm1_control & ~SCI_EN | (SCI_EN if acpi else 0)
            self._update_sci()

    # ---- events from outside -------------------------------------------------------------------------

    def press_power_button(self) -> bool:
        """The user pressed the power button; wakes from S3. False when the guest has not asked to be told."""
        return self._button(PWRBTN)

    def press_sleep_button(self) -> bool:
        """The user pressed the sleep button; wakes from S3. False when the guest has not asked to be told."""
        return self._button(SLPBTN)

    def rtc_wake(self) -> None:
        """The RTC's alarm interrupt rose: RTC_STS; wakes from S3 if RTC_EN is set."""
        with self._lock:
            self._status |= RTC
            self._wake_if_due()
            self._update_sci()

    def raise_gpe(self, number: int) -> None:
        """General purpose event 0..15 happened; wakes from S3 if it is enabled."""
        if not 0 <= number < 16:
            raise ValueError(f"GPE {number}: this block has events 0 to 15")
        with self._lock:
            self._gpe_status |= 1 << number
            self._wake_if_due()
            self._update_sci()

    def _button(self, bit: int) -> bool:
        with self._lock:
            told = self._suspended or bool(self._enable & bit and self._pm1_control & SCI_EN)
            self._status |= bit
            if self._suspended:
                self._wake()  # buttons wake whatever their enable bits say (4.8.2.2)
            self._update_sci()
        return told

    # ---- state, lock held ----------------------------------------------------------------------------

    def _ticks(self) -> int:
        return self._clock.now_ns() * PM_TIMER_HZ // _NS_PER_SECOND

    def _pm1_status(self) -> int:
        carried = self._ticks() >> _HALF_SHIFT != self._seen_half
        return self._status | (TMR if carried else 0)

    def _clear_status(self, bits: int) -> None:
        self._status &= ~(bits & _STICKY_STATUS)
        if bits & TMR:
            self._seen_half = self._ticks() >> _HALF_SHIFT

    def _sleep(self, sleep_type: int) -> None:
        if sleep_type == SLEEP_TYPE_S5:
            self._control.power_off()
        elif sleep_type == SLEEP_TYPE_S3 and not self._suspended:
            self._suspended = True
            self._control.suspend()
            self._wake_if_due()

    def _wake_if_due(self) -> None:
        events = self._status & self._enable & (RTC | PWRBTN | SLPBTN)
        if self._suspended and (events or self._gpe_status & self._gpe_enable):
            self._wake()

    def _wake(self) -> None:
        self._suspended = False
        self._status |= WAK_STS
        self._control.wake()

    def _update_sci(self) -> None:
        events = self._pm1_status() & self._enable or self._gpe_status & self._gpe_enable
        level = bool(events and self._pm1_control & SCI_EN)
        if level != self._sci_level:
            self._sci_level = level
            self._sci.set_level(level)
        if self._enable & TMR and not events and self._armed_half != self._seen_half:
            self._armed_half = self._seen_half
            carry_ticks = (self._seen_half + 1) << _HALF_SHIFT
            self._timer.arm(-(-carry_ticks * _NS_PER_SECOND // PM_TIMER_HZ))  # rounded up

    def _on_timer(self) -> None:
        with self._lock:
            self._armed_half = None
            self._update_sci()


class Gpe0:
    """Ports 0xafe0..0xafe3: the general purpose event block of `AcpiPm`."""

    name = "acpi-gpe0"

    def __init__(self, pm: AcpiPm) -> None:
        self.read = pm.read_gpe
        self.write = pm.write_gpe

    def reset(self) -> None:
        """Done by `AcpiPm.reset`."""


class SmiCommand(BytePorts):
    """Ports 0xb2 (APM control: the command) and 0xb3 (APM status: a scratch byte)."""

    name = "smi-command"

    def __init__(self, pm: AcpiPm) -> None:
        self._pm = pm
        self._bytes = bytearray(SMI_CMD_LEN)

    def reset(self) -> None:
        """Both bytes 0."""
        self._bytes[:] = bytes(SMI_CMD_LEN)

    def read_byte(self, offset: int) -> int:
        """What was written last."""
        return self._bytes[offset] if offset < SMI_CMD_LEN else 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        """ACPI_ENABLE and ACPI_DISABLE switch the mode, other commands do nothing."""
        if offset >= SMI_CMD_LEN:
            return
        self._bytes[offset] = value
        if offset == 0 and value in (ACPI_ENABLE, ACPI_DISABLE):
            self._pm.switch_mode(value == ACPI_ENABLE)
