/* SPDX-License-Identifier: Apache-2.0 */
#include "power.h"

#include "acpi.h"
#include "console.h"
#include "cpu.h"
#include "io.h"
#include "timers.h"

#define SLEEP_TYPE(type) ((type) << 10)
#define SLEEP_ENABLE (1u << 13)
#define POWER_OFF_US 200000 /* the write may take effect some instructions later */
#define RESET_CONTROL 0xcf9
#define I8042_COMMAND 0x64
#define I8042_INPUT_FULL 0x02
#define I8042_PULSE_RESET 0xfe

void power_off(void)
{
    uint8_t type_a, type_b;
    const struct acpi_fadt *fadt = acpi_fadt();
    if (!fadt || !acpi_s5(&type_a, &type_b))
        return;
    tsc_hz(); /* not to be measured in the last moment */
    console_drain();
    outw((uint16_t)fadt->pm1a_control, (uint16_t)(SLEEP_TYPE(type_a) | SLEEP_ENABLE));
    if (fadt->pm1b_control)
        outw((uint16_t)fadt->pm1b_control, (uint16_t)(SLEEP_TYPE(type_b) | SLEEP_ENABLE));
    wait_us(POWER_OFF_US);
}

void reset_by_0xcf9(void)
{
    console_drain();
    outb(RESET_CONTROL, 0x02); /* system reset ... */
    outb(RESET_CONTROL, 0x06); /* ... now */
}

void reset_by_i8042(void)
{
    console_drain();
    while (inb(I8042_COMMAND) & I8042_INPUT_FULL)
        ;
    outb(I8042_COMMAND, I8042_PULSE_RESET);
}

void reset_by_triple_fault(void)
{
    struct table_pointer none = {0, 0};
    console_drain();
    asm volatile("lidt %0; ud2" : : "m"(none));
    __builtin_unreachable();
}
