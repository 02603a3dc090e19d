/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeps in HLT until the APIC timer fires. ms=N (1000). */
#include "runtime.h"

#define VECTOR 0x40

static volatile bool fired;

static void wake(struct frame *frame)
{
    (void)frame;
    fired = true;
    apic_eoi();
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t ms = argument_number("ms", 1000);
    uint64_t count = apic_timer_frequency() * ms / 1000;
    if (count > 0xffffffff)
        abort_run("ms=%lu is more than the timer counts", ms);
    interrupt_set_handler(VECTOR, wake);
    uint64_t start = rdtsc();
    apic_timer_start(APIC_TIMER_ONE_SHOT, VECTOR, (uint32_t)count);
    for (;;) {
        interrupts_off();
        if (fired || !count)
            break;
        halt_until_interrupt();
    }
    uint64_t slept = tsc_to_ns(rdtsc() - start) / 1000;
    printf("slept %lu us\n", slept);
    report(slept + 1000 >= ms * 950, "slept %lu ms", ms);
    return report_summary();
}
