/* SPDX-License-Identifier: Apache-2.0 */
/* The local APIC, in xAPIC or x2APIC mode. SDM volume 3, chapter "APIC". */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Register offsets in the xAPIC page; the x2APIC MSR is 0x800 + offset / 16. */
#define APIC_ID 0x020
#define APIC_VERSION 0x030
#define APIC_TPR 0x080
#define APIC_EOI 0x0b0
#define APIC_LDR 0x0d0
#define APIC_DFR 0x0e0
#define APIC_SPURIOUS 0x0f0
#define APIC_ISR 0x100
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR_HIGH 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_LVT_ERROR 0x370
#define APIC_TIMER_INITIAL 0x380
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE 0x3e0

#define APIC_DELIVERY_FIXED 0x000
#define APIC_DELIVERY_NMI 0x400
#define APIC_DELIVERY_INIT 0x500
#define APIC_DELIVERY_STARTUP 0x600
#define APIC_DELIVERY_EXTINT 0x700
#define APIC_LEVEL_ASSERT (1u << 14)
#define APIC_LVT_MASKED (1u << 16)
#define APIC_SHORTHAND_SELF (1u << 18)
#define APIC_SHORTHAND_ALL (2u << 18)
#define APIC_SHORTHAND_OTHERS (3u << 18)

#define APIC_TIMER_ONE_SHOT (0u << 17)
#define APIC_TIMER_PERIODIC (1u << 17)
#define APIC_TIMER_TSC_DEADLINE (2u << 17)
#define APIC_TIMER_DIVIDE_1 0xb
#define APIC_TIMER_DIVIDE_16 0x3

/* Enables the running processor's APIC in the mode the boot processor is in (xAPIC at start). */
void apic_init(void);
/* Changes the running processor to x2APIC mode; those started later follow. False when there is none. */
bool apic_enable_x2apic(void);
bool apic_is_x2apic(void);

uint32_t apic_read(uint32_t offset);
void apic_write(uint32_t offset, uint32_t value);
uint32_t apic_id(void);
void apic_eoi(void);

/* Writes the ICR: `low` is delivery mode, shorthand and vector; `destination` a physical APIC id. */
void apic_icr_write(uint32_t low, uint32_t destination);
void apic_send_ipi(uint32_t destination, uint8_t vector);
void apic_send_self(uint8_t vector);

bool apic_irr(uint8_t vector);
bool apic_isr(uint8_t vector);

/* `mode` is one of APIC_TIMER_*; divide by 16. */
void apic_timer_start(uint32_t mode, uint8_t vector, uint32_t initial_count);
void apic_timer_deadline(uint8_t vector, uint64_t tsc);
void apic_timer_stop(void);
/* Counts per second with divide 16, measured against the TSC. */
uint64_t apic_timer_frequency(void);
