/* SPDX-License-Identifier: Apache-2.0 */
/* The timers of both VTLs, local APIC and synthetic. */
#include "parts.h"

#define SINT 5

static uint64_t start_apic_timer(void *argument)
{
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_TIMER, (uint32_t)(apic_frequency * (uint64_t)argument / 1000));
    return 0;
}

static uint64_t stop_timers(void *argument)
{
    (void)argument;
    apic_timer_stop();
    wrmsr(HV_MSR_STIMER0_CONFIG, 0);
    open_interrupts(); /* for what came before */
    return 0;
}

static uint64_t start_direct_timer(void *argument)
{
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_DIRECT(VECTOR_TIMER) | STIMER_PERIODIC | STIMER_AUTO_ENABLE);
    wrmsr(HV_MSR_STIMER0_COUNT, MS_100NS * (uint64_t)argument);
    return 0;
}

static uint8_t message_page[VTLS][4096] __attribute__((aligned(4096)));

static uint64_t start_message_timer(void *argument)
{
    wrmsr(HV_MSR_SCONTROL, 1);
    wrmsr(HV_MSR_SIMP, (uint64_t)message_page[this_cpu()->vtl] | 1);
    wrmsr(HV_MSR_SINT0 + SINT, VECTOR_TIMER);
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_AUTO_ENABLE | STIMER_SINT(SINT));
    wrmsr(HV_MSR_STIMER0_COUNT, rdmsr(HV_MSR_TIME_REF_COUNT) + MS_100NS * (uint64_t)argument);
    return 0;
}

static uint64_t read_message(void *argument)
{
    uint32_t type = *(uint32_t *)(message_page[1] + 256 * SINT);
    *(uint32_t *)(message_page[1] + 256 * SINT) = 0;
    wrmsr(HV_MSR_EOM, 0);
    wrmsr(HV_MSR_SIMP, 0);
    (void)argument;
    return type;
}

static const struct {
    const char *name;
    vtl1_function start;
} periodic_timers[] = {{"local APIC timer", start_apic_timer}, {"synthetic timer", start_direct_timer}};

void check_timers(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(periodic_timers); i++) {
        const char *name = periodic_timers[i].name;
        forget();
        vsm_run(periodic_timers[i].start, (void *)PERIOD_MS);
        bool came = WAIT_FOR(counts[1][0].timer >= 5, LIMIT_MS);
        report(came, "VTL1's %s preempts VTL0 that spins with interrupts off: %u times", name, counts[1][0].timer);

        /* VTL0 sleeps; its own timer ends that now and then. A switch may end it too (VSM-059). */
        forget();
        uint64_t end = rdtsc() + tsc_from_us(LIMIT_MS * 1000);
        apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_LOW, (uint32_t)(apic_frequency / 1000 * 20 * PERIOD_MS));
        while (counts[1][0].timer < 5 && rdtsc() < end)
            halt_until_interrupt();
        interrupts_off();
        apic_timer_stop();
        report(counts[1][0].timer >= 5, "and that sleeps: %u times", counts[1][0].timer);
        vsm_run(stop_timers, NULL);
        open_interrupts();
        uint32_t after = counts[1][0].timer;
        wait_us(4000 * PERIOD_MS);
        report(counts[1][0].timer == after, "and is silent when off");
    }

    forget();
    vsm_run(start_message_timer, (void *)PERIOD_MS);
    bool came = WAIT_FOR(counts[1][0].timer == 1, LIMIT_MS);
    uint64_t in_vtl0 = *(uint32_t *)(message_page[0] + 256 * SINT), type = vsm_run(read_message, NULL);
    report(came && type == TIMER_MESSAGE && !in_vtl0, "a timer message of VTL1 comes to VTL1's page: 0x%lx", type);
    vsm_run(stop_timers, NULL);
}

/* Both timers run at once, each VTL waits for its own. */
static uint64_t wait_in_vtl1(void *argument)
{
    (void)argument;
    interrupts_on();
    uint64_t in_between = 0;
    WAIT_FOR(counts[1][0].timer >= 10, LIMIT_MS);
    in_between = counts[0][0].timer;
    interrupts_off();
    return in_between;
}

void check_both_timers(void)
{
    forget();
    vsm_run(start_apic_timer, (void *)PERIOD_MS);
    start_direct_timer((void *)PERIOD_MS);
    interrupts_on();
    bool came = WAIT_FOR(counts[0][0].timer >= 5 && counts[1][0].timer >= 5, LIMIT_MS);
    report(came, "timers of both VTLs: %u and %u", counts[0][0].timer, counts[1][0].timer);
    interrupts_off();
    forget();
    uint64_t in_between = vsm_run(wait_in_vtl1, NULL);
    report(counts[1][0].timer >= 10 && in_between == 0, "VTL0's is silent while VTL1 runs: %lu", in_between);
    interrupts_on();
    report(WAIT_FOR(counts[0][0].timer >= 1, LIMIT_MS), "and comes then: %u", counts[0][0].timer);
    interrupts_off();
    vsm_run(stop_timers, NULL);
    stop_timers(NULL);
    open_interrupts();
}
