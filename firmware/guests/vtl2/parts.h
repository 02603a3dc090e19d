/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts share: functions in VTL2, and who has taken how many interrupts. */
#pragma once

#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define VECTOR 0x41
#define VECTOR_TIMER 0x61
#define VECTOR_VINA 0x71
#define LIMIT_MS 20000
#define MAX_VPS 16
#define ACTIVE(status) ((status) & 15)
#define ENABLED(status) ((status) >> 16 & 0xffff)

struct counts {
    volatile uint32_t taken, ticks, notified;
    volatile uint64_t order; /* place of the last one among all */
};
extern struct counts counts[VTLS][MAX_VPS];
extern volatile uint64_t events;
extern uint64_t apic_frequency; /* of the local APIC timer, as VTL0 has measured it when it was alone */

/* Has each VTL count its interrupts. */
void count_interrupts(void);
void forget(void);
/* How often a VTL of this processor was entered for a reason. */
uint64_t entries(unsigned vtl, unsigned reason);

/* For vsm_run in VTL0, so that VTL1 runs a function in VTL2. */
struct errand {
    vtl1_function function;
    void *argument;
};
uint64_t pass_on(void *errand);
uint64_t in_vtl2(vtl1_function function, void *argument);

/* HvRegisterVsmVpStatus and LSTAR of the VTL that runs, or for LSTAR of another one: for vsm_run. */
uint64_t read_status(void *unused);
uint64_t lstar_of(void *input_vtl);

void check_interrupts(void);
void check_timers(void);
void check_vina(void);
void check_direct(void);
void check_processors(void);
