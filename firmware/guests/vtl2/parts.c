/* SPDX-License-Identifier: Apache-2.0 */
/* Functions in VTL2, and who has taken how many interrupts. */
#include "parts.h"

struct counts counts[VTLS][MAX_VPS];
volatile uint64_t events;
uint64_t apic_frequency;

static struct counts *mine(void)
{
    return &counts[this_cpu()->vtl][this_cpu()->index];
}

static void take(struct frame *frame)
{
    (void)frame;
    mine()->order = __atomic_add_fetch(&events, 1, __ATOMIC_SEQ_CST);
    mine()->taken++;
    apic_eoi();
}

static void tick(struct frame *frame)
{
    (void)frame;
    mine()->ticks++;
    apic_eoi();
}

static void take_vina(struct frame *frame)
{
    (void)frame;
    mine()->notified++;
    apic_eoi();
}

void count_interrupts(void)
{
    for (unsigned vtl = 0; vtl < VTLS; vtl++) {
        interrupt_set_handler_of(vtl, VECTOR, take);
        interrupt_set_handler_of(vtl, VECTOR_TIMER, tick);
        interrupt_set_handler_of(vtl, VECTOR_VINA, take_vina);
    }
}

void forget(void)
{
    memset(counts, 0, sizeof counts);
    events = 0;
}

uint64_t entries(unsigned vtl, unsigned reason)
{
    return vtl_of(this_cpu()->index, vtl)->entries[reason];
}

uint64_t pass_on(void *argument)
{
    struct errand *errand = argument;
    return vsm_run(errand->function, errand->argument);
}

uint64_t in_vtl2(vtl1_function function, void *argument)
{
    struct errand errand = {function, argument};
    return vsm_run(pass_on, &errand);
}

uint64_t read_status(void *argument)
{
    (void)argument;
    return hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS);
}

uint64_t lstar_of(void *argument)
{
    return hv_register(HV_SELF_VP, (uint8_t)(uint64_t)argument, HV_REGISTER_LSTAR);
}
