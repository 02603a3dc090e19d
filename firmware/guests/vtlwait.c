/* SPDX-License-Identifier: Apache-2.0 */
/* How late an IPI is that VTL1 of one processor sends by its local APIC to VTL1 of another one, which runs VTL0: it
 * spins, or sleeps. No hypervisor sees the IPI; it has to wait for it. And what that costs VTL0: its turns in a loop,
 * while VTL1 of the other processor runs all the time, and while nobody's does. Needs a second processor.
 *
 * rounds=N   IPIs of each kind (100)
 * pause=MS   between two, and up to twice as long (3)
 */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define VECTOR 0x41
#define LIMIT_MS 20000
#define MAX_ROUNDS 10000
#define TURNS_MS 500

static volatile uint64_t arrived;
static volatile bool done;
static uint32_t latencies[MAX_ROUNDS]; /* ns */
static uint64_t rounds, lost, pause_us;
static volatile uint64_t turns;

static void take(struct frame *frame)
{
    (void)frame;
    if (!arrived)
        arrived = rdtsc();
    apic_eoi();
}

static void sort(uint32_t *values, uint64_t count)
{
    for (uint64_t gap = count / 2; gap; gap /= 2)
        for (uint64_t i = gap; i < count; i++)
            for (uint64_t j = i; j >= gap && values[j - gap] > values[j]; j -= gap) {
                uint32_t swap = values[j];
                values[j] = values[j - gap];
                values[j - gap] = swap;
            }
}

/* In VTL1 of the second processor. */
static uint64_t send(void *argument)
{
    uint32_t target = ((struct vtl1 *)argument)->cpu.apic_id;
    lost = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        wait_us(pause_us + rdtsc() % pause_us);
        arrived = 0;
        uint64_t sent = rdtsc();
        apic_send_ipi(target, VECTOR);
        if (!WAIT_FOR(arrived, LIMIT_MS)) {
            lost++;
            break;
        }
        latencies[i] = (uint32_t)tsc_to_ns(arrived - sent);
    }
    done = true;
    return 0;
}

static void send_from_vtl1(void *argument)
{
    vsm_run(send, argument);
}

static void tell(const char *what)
{
    report(lost == 0, "every IPI comes to a VTL1 whose VTL0 %s", what);
    if (lost)
        return;
    sort(latencies, rounds);
    report_info("VTL0 %s: median %u us, p99 %u us, worst %u us of %lu", what, latencies[rounds / 2] / 1000,
                latencies[rounds - 1 - rounds / 100] / 1000, latencies[rounds - 1] / 1000, rounds);
}

static uint64_t turns_in(uint64_t milliseconds)
{
    turns = 0;
    for (uint64_t end = rdtsc() + tsc_from_us(milliseconds * 1000); rdtsc() < end;)
        turns++;
    return turns / milliseconds;
}

/* In VTL1 of the second processor. */
static uint64_t stay(void *argument)
{
    while (!done)
        cpu_relax();
    return (uint64_t)argument;
}

static void stay_in_vtl1(void *argument)
{
    vsm_run(stay, argument);
}

static void wake(struct frame *frame)
{
    (void)frame;
    apic_eoi();
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    rounds = argument_number("rounds", 100);
    pause_us = 1000 * argument_number("pause", 3);
    if (smp_start() < 2 || rounds < 1 || rounds > MAX_ROUNDS) {
        report_skip("two processors and 1 to %u rounds are needed", MAX_ROUNDS);
        return report_summary();
    }
    interrupt_set_handler_of(0, VECTOR, wake);
    interrupt_set_handler_of(1, VECTOR, take);
    vsm_start();
    interrupts_off();

    uint64_t undisturbed = turns_in(TURNS_MS);
    smp_run_async(1, stay_in_vtl1, NULL);
    uint64_t watched = turns_in(TURNS_MS);
    done = true;
    smp_wait(1);
    report_info("turns of VTL0 per ms: %lu alone, %lu while another VTL1 runs", undisturbed, watched);

    done = false;
    smp_run_async(1, send_from_vtl1, vtl1_of(0));
    while (!done)
        cpu_relax();
    smp_wait(1);
    tell("spins");

    done = false;
    uint64_t frequency = apic_timer_frequency();
    smp_run_async(1, send_from_vtl1, vtl1_of(0));
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR, (uint32_t)(frequency / 10)); /* to see that it is over */
    while (!done)
        halt_until_interrupt();
    interrupts_off();
    apic_timer_stop();
    smp_wait(1);
    tell("sleeps");
    return report_summary();
}
