/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI power management timer: ACPI specification, 4.8.2.1. */
#include "acpi.h"
#include "io.h"
#include "timers.h"

uint16_t pm_timer_port(void)
{
    const struct acpi_fadt *fadt = acpi_fadt();
    return fadt ? (uint16_t)fadt->pm_timer : 0;
}

uint32_t pm_timer_mask(void)
{
    const struct acpi_fadt *fadt = acpi_fadt();
    return fadt && fadt->flags & FADT_FLAG_TIMER_32_BIT ? 0xffffffff : 0xffffff;
}

uint32_t pm_timer_read(void)
{
    return inl(pm_timer_port()) & pm_timer_mask();
}
