/* SPDX-License-Identifier: Apache-2.0 */
#include "acpi.h"
#include "io.h"
#include "irqchip.h"

#include <stddef.h>

#define DEFAULT_ADDRESS 0xfec00000
#define SELECT 0x00
#define WINDOW 0x10
#define REG_VERSION 0x01
#define REG_ENTRIES 0x10

static uint64_t address(void)
{
    static uint64_t base;
    if (!base) {
        const struct madt_ioapic *ioapic = madt_next(MADT_IOAPIC, NULL);
        base = ioapic ? ioapic->address : DEFAULT_ADDRESS;
    }
    return base;
}

uint32_t ioapic_read(uint8_t reg)
{
    mmio_write32(address() + SELECT, reg);
    return mmio_read32(address() + WINDOW);
}

void ioapic_write(uint8_t reg, uint32_t value)
{
    mmio_write32(address() + SELECT, reg);
    mmio_write32(address() + WINDOW, value);
}

unsigned ioapic_pins(void)
{
    return (ioapic_read(REG_VERSION) >> 16 & 0xff) + 1;
}

void ioapic_route(unsigned pin, uint32_t low, uint8_t destination)
{
    ioapic_mask(pin);
    ioapic_write(REG_ENTRIES + 2 * pin + 1, (uint32_t)destination << 24);
    ioapic_write(REG_ENTRIES + 2 * pin, low);
}

uint32_t ioapic_entry_low(unsigned pin)
{
    return ioapic_read(REG_ENTRIES + 2 * pin);
}

void ioapic_mask(unsigned pin)
{
    ioapic_write(REG_ENTRIES + 2 * pin, ioapic_entry_low(pin) | IOAPIC_MASKED);
}

unsigned ioapic_pin_of_irq(uint8_t irq)
{
    const struct madt_override *override = NULL;
    while ((override = madt_next(MADT_OVERRIDE, override)))
        if (override->source == irq)
            return override->gsi;
    return irq;
}
