/* SPDX-License-Identifier: Apache-2.0 */
/* Switches itself off when the power button is pressed. Until then it sleeps; `deaf`: without having asked to be told. */
#include "runtime.h"

#define VECTOR 0x40
#define STATUS_POWER_BUTTON (1u << 8) /* in PM1_STS, the same bit in PM1_EN behind it (ACPI 6.5, 4.8.3.1) */

static volatile unsigned interrupts;

static void on_sci(struct frame *frame)
{
    (void)frame;
    const struct acpi_fadt *fadt = acpi_fadt();
    /* A one clears the bit, and with it the level of the interrupt. */
    if (inw((uint16_t)fadt->pm1a_event) & STATUS_POWER_BUTTON) {
        outw((uint16_t)fadt->pm1a_event, STATUS_POWER_BUTTON);
        interrupts++;
    }
    apic_eoi();
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    const struct acpi_fadt *fadt = acpi_fadt();
    if (!fadt)
        abort_run("there is no FADT");
    uint16_t enable = (uint16_t)(fadt->pm1a_event + fadt->pm1_event_length / 2);
    uint8_t sci = (uint8_t)fadt->sci_interrupt;

    interrupt_set_handler(VECTOR, on_sci);
    ioapic_route(ioapic_pin_of_irq(sci), VECTOR | IOAPIC_LEVEL, (uint8_t)apic_id());
    outb((uint16_t)fadt->smi_command, fadt->acpi_enable);
    if (!argument_given("deaf"))
        outw(enable, STATUS_POWER_BUTTON);
    printf("button: press it\n");
    for (;;) {
        interrupts_off();
        if (interrupts)
            break;
        halt_until_interrupt();
    }
    report(interrupts == 1, "%u presses of the power button", interrupts);
    if (report_summary() == 0)
        power_off();
    return 1;
}
