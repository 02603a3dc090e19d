/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts share: who has taken how many interrupts. */
#pragma once

#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define VECTOR_LOW 0x41
#define VECTOR_HIGH 0x91
#define VECTOR_TIMER 0x61
#define VECTOR_DEVICE 0x51
#define PERIOD_MS 5
#define LIMIT_MS 2000

struct counts {
    volatile uint32_t low, high, timer, device, nmi;
    volatile uint64_t tsc; /* of the last one */
};

/* By VTL; of the first processor and the second. */
extern struct counts counts[VTLS][2];
extern uint64_t apic_frequency; /* of the local APIC timer */

void forget(void);
struct vtl1 *vtl1(void);

void check_timers(void);
void check_both_timers(void);
void check_processors(void);
