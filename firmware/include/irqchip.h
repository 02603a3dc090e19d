/* SPDX-License-Identifier: Apache-2.0 */
/* The board's interrupt controllers: I/O APIC (82093AA) and the two 8259A PICs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define IOAPIC_MASKED (1u << 16)
#define IOAPIC_LEVEL (1u << 15)
#define IOAPIC_REMOTE_IRR (1u << 14)
#define IOAPIC_ACTIVE_LOW (1u << 13)
#define IOAPIC_LOGICAL (1u << 11)

uint32_t ioapic_read(uint8_t reg);
void ioapic_write(uint8_t reg, uint32_t value);
unsigned ioapic_pins(void);
/* Redirection entry of one pin: `low` is vector and the flags above. */
void ioapic_route(unsigned pin, uint32_t low, uint8_t destination);
uint32_t ioapic_entry_low(unsigned pin);
/* Sets the mask bit and leaves the rest as it is. */
void ioapic_mask(unsigned pin);
/* The pin an ISA interrupt is wired to (MADT source overrides; IRQ 0 is usually pin 2). */
unsigned ioapic_pin_of_irq(uint8_t irq);

/* Sets both PICs to VECTOR_PIC.., all lines masked. */
void pic_init(void);
void pic_unmask(uint8_t irq);
void pic_mask_all(void);
void pic_eoi(uint8_t irq);
uint16_t pic_irr(void);
uint16_t pic_isr(void);
