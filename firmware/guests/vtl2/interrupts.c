/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupts go straight to the highest VTL that has one; timers of all three; VINA. */
#include "parts.h"

#define SILENCE_US 10000
#define PERIOD_MS 20
#define TIMES 5

/* In VTL1 with interrupts off. */
static uint64_t send_to_vtl2_and_look(void *argument)
{
    hv_send_ipi(HV_VTL(2), VECTOR, 1);
    bool came = WAIT_FOR(counts[2][0].taken == 1, LIMIT_MS);
    *(uint64_t *)argument = read_status(NULL);
    return came;
}

/* In VTL2 with interrupts off: for all three. */
static uint64_t send_to_all(void *argument)
{
    for (unsigned vtl = 0; vtl < VTLS; vtl++)
        hv_send_ipi(HV_VTL(vtl), VECTOR, 1);
    wait_us(SILENCE_US);
    *(uint64_t *)argument = events;
    interrupts_take();
    return counts[2][0].taken;
}

/* In VTL2: made by it, for both below, where its processor has them. */
static uint64_t assert_below(void *argument)
{
    uint64_t *status = argument, id = vtl1_self()->cpu.apic_id;
    status[0] = hv_assert_interrupt(INTERRUPT_FIXED, id, VECTOR, 0);
    status[1] = hv_assert_interrupt(INTERRUPT_FIXED, id, VECTOR, 1);
    wait_us(SILENCE_US);
    return events;
}

static void check_asserted(void)
{
    uint64_t status[2];
    forget();
    report(in_vtl2(assert_below, status) == 0, "VTL2 makes interrupts for those below, which wait");
    hv_expect(status[0], 0, "for VTL0");
    hv_expect(status[1], 0, "for VTL1");
    open_interrupts();
    report(counts[1][0].taken == 1 && counts[0][0].taken == 1 && counts[2][0].taken == 0 &&
               counts[1][0].order < counts[0][0].order,
           "each takes its own, VTL1 first: %u, %u", counts[1][0].taken, counts[0][0].taken);
}

void check_interrupts(void)
{
    forget();
    uint64_t first = entries(1, ENTRY_INTERRUPT), second = entries(2, ENTRY_INTERRUPT), calls = entries(1, ENTRY_CALL);
    uint64_t result = hv_send_ipi(HV_VTL(2), VECTOR, 1);
    report(result == 0 && WAIT_FOR(counts[2][0].taken == 1, LIMIT_MS) && entries(2, ENTRY_INTERRUPT) == second + 1,
           "an interrupt for VTL2 enters it, VTL0's interrupts off");
    wait_us(SILENCE_US);
    report(entries(1, ENTRY_INTERRUPT) == first && entries(1, ENTRY_CALL) == calls, "its return passes VTL1 by");
    report(ACTIVE(read_status(NULL)) == 0, "VTL0 goes on");

    forget();
    uint64_t status = 0;
    report(vsm_run(send_to_vtl2_and_look, &status) && entries(2, ENTRY_INTERRUPT) == second + 2,
           "one enters it from VTL1, whose interrupts are off");
    report(ACTIVE(status) == 1, "and VTL1 goes on: 0x%lx", status);

    forget();
    hv_send_ipi(HV_VTL(1), VECTOR, 1);
    report(WAIT_FOR(counts[1][0].taken == 1, LIMIT_MS) && entries(1, ENTRY_INTERRUPT) == first + 1 &&
               entries(2, ENTRY_INTERRUPT) == second + 2,
           "one for VTL1 enters VTL1 alone");

    /* VTL2 was called by VTL1, to which it returns: VTL1's interrupt is VTL1's own business then. */
    forget();
    uint64_t early = 0;
    report(in_vtl2(send_to_all, &early) == 1 && early == 0, "VTL2 takes its own when it wants: %lu", early);
    report(WAIT_FOR(counts[1][0].taken == 1, LIMIT_MS), "VTL1's comes when VTL2 has returned");
    open_interrupts();
    report(counts[0][0].taken == 1 && counts[2][0].order == 1 && counts[1][0].order == 2 && counts[0][0].order == 3,
           "the highest first: VTL2's %lu, VTL1's %lu, VTL0's %lu", counts[2][0].order, counts[1][0].order,
           counts[0][0].order);
    check_asserted();
}

/* ---- timers ---- */

static uint64_t start_timer(void *argument)
{
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_TIMER, (uint32_t)(apic_frequency * (uint64_t)argument / 1000));
    return 0;
}

static uint64_t stop_timer(void *argument)
{
    (void)argument;
    apic_timer_stop();
    return 0;
}

static uint32_t fewest_ticks(unsigned vtl, unsigned end)
{
    uint32_t fewest = ~0u;
    for (; vtl < end; vtl++)
        if (counts[vtl][0].ticks < fewest)
            fewest = counts[vtl][0].ticks;
    return fewest;
}

/* In VTL1, which lets nothing but VTL2's interrupts pass. */
static uint64_t wait_for_vtl2(void *argument)
{
    (void)argument;
    counts[2][0].ticks = 0;
    return WAIT_FOR(counts[2][0].ticks >= TIMES, LIMIT_MS);
}

void check_timers(void)
{
    forget();
    vsm_run(start_timer, (void *)PERIOD_MS);
    in_vtl2(start_timer, (void *)PERIOD_MS);
    bool came = WAIT_FOR(fewest_ticks(1, VTLS) >= TIMES, LIMIT_MS);
    report(came, "timers of VTL1 and VTL2 preempt VTL0 that spins: %u, %u", counts[1][0].ticks, counts[2][0].ticks);
    came = vsm_run(wait_for_vtl2, NULL);
    report(came, "VTL2's preempts VTL1: %u", counts[2][0].ticks);
    forget();
    uint64_t end = rdtsc() + tsc_from_us(LIMIT_MS * 1000);
    start_timer((void *)PERIOD_MS);
    while (fewest_ticks(0, VTLS) < TIMES && rdtsc() < end)
        halt_until_interrupt();
    interrupts_off();
    report(fewest_ticks(0, VTLS) >= TIMES, "all three run while VTL0 sleeps: %u, %u, %u", counts[0][0].ticks,
           counts[1][0].ticks, counts[2][0].ticks);
    stop_timer(NULL);
    vsm_run(stop_timer, NULL);
    in_vtl2(stop_timer, NULL);
    open_interrupts();
}

/* ---- VINA ---- */

static uint64_t set_vina(void *argument)
{
    return hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VINA, (uint64_t)argument, 0) & 0xffff;
}

/* In VTL2: an interrupt for the VTL that `argument` names. */
static uint64_t be_notified(void *argument)
{
    vtl1_self()->assist->vina_asserted = 0;
    counts[2][0].notified = 0;
    hv_send_ipi((uint8_t)(uint64_t)argument, VECTOR, 1);
    interrupts_on();
    WAIT_FOR(counts[2][0].notified, LIMIT_MS);
    interrupts_off();
    return counts[2][0].notified;
}

static uint64_t notified_with_interrupts_on(void *argument)
{
    struct errand errand = {be_notified, argument};
    interrupts_on();
    uint64_t notified = pass_on(&errand);
    interrupts_off();
    return notified;
}

void check_vina(void)
{
    forget();
    hv_expect(in_vtl2(set_vina, (void *)(VINA_ENABLED | VECTOR_VINA)), 0, "VTL2 wants to hear of interrupts below");
    interrupts_on();
    report(in_vtl2(be_notified, (void *)HV_VTL(0)) == 1, "of VTL0's");
    interrupts_off();
    report(vsm_run(notified_with_interrupts_on, (void *)HV_VTL(1)) == 1, "of VTL1's");
    report(in_vtl2(set_vina, 0) == 0, "and no more");
    open_interrupts();
    report(counts[0][0].taken == 1 && counts[1][0].taken == 1 && counts[1][0].notified == 0,
           "both have taken theirs: %u, %u", counts[0][0].taken, counts[1][0].taken);
}
