/* SPDX-License-Identifier: Apache-2.0 */
/* The TSC's frequency, and time by it. */
#include "cpu.h"
#include "timers.h"

/* Anything may stop a virtual processor for a while. So each reading of a clock is taken several times and the quickest
 * one counts, and two measurements in a row must agree within 1 %. */
#define CALIBRATION_US 5000
#define READINGS 3
#define MEASUREMENTS 10

/* value * factor / divisor with a 128-bit product; the quotient must fit. */
static uint64_t scale(uint64_t value, uint64_t factor, uint64_t divisor)
{
    uint64_t quotient, remainder;
    asm("mulq %3; divq %4"
        : "=&a"(quotient), "=&d"(remainder)
        : "0"(value), "rm"(factor), "r"(divisor)
        : "cc");
    return quotient;
}

static uint32_t pit_ticks(void)
{
    return (uint16_t)-pit_read(2);
}

uint64_t tsc_at(uint32_t (*clock)(void), uint32_t *ticks)
{
    uint64_t best_span = ~0ull, middle = 0;
    *ticks = 0;
    for (unsigned i = 0; i < READINGS; i++) {
        uint64_t before = rdtsc();
        uint32_t now = clock();
        uint64_t span = rdtsc() - before;
        if (span < best_span) {
            best_span = span;
            middle = before + span / 2;
            *ticks = now;
        }
    }
    return middle;
}

static uint64_t measure(uint32_t (*clock)(void), uint32_t mask, uint32_t hz)
{
    const uint32_t wanted = (uint32_t)((uint64_t)hz * CALIBRATION_US / 1000000);
    uint32_t first, last;
    uint64_t start = tsc_at(clock, &first);
    while (((clock() - first) & mask) < wanted)
        ;
    uint64_t end = tsc_at(clock, &last);
    return scale(end - start, hz, (last - first) & mask);
}

uint64_t agreed_frequency(uint64_t (*measurement)(void))
{
    uint64_t last = 0, now = 0;
    for (unsigned i = 0; i < MEASUREMENTS; i++) {
        now = measurement();
        uint64_t difference = now > last ? now - last : last - now;
        if (difference < now / 100)
            break;
        last = now;
    }
    return now;
}

static uint64_t measure_by_pm_timer(void)
{
    return measure(pm_timer_read, pm_timer_mask(), PM_TIMER_HZ);
}

static uint64_t measure_by_pit(void)
{
    return measure(pit_ticks, 0xffff, PIT_HZ);
}

uint64_t tsc_hz(void)
{
    static uint64_t agreed;
    if (agreed)
        return agreed;
    bool pm = pm_timer_port();
    if (!pm)
        pit_channel2_start();
    agreed = agreed_frequency(pm ? measure_by_pm_timer : measure_by_pit);
    return agreed;
}

uint64_t tsc_from_us(uint64_t microseconds)
{
    return scale(microseconds, tsc_hz(), 1000000);
}

uint64_t tsc_to_ns(uint64_t ticks)
{
    return scale(ticks, 1000000000, tsc_hz());
}

void wait_us(uint64_t microseconds)
{
    uint64_t end = rdtsc() + tsc_from_us(microseconds);
    while (rdtsc() < end)
        asm volatile("pause");
}

void open_interrupts(void)
{
    interrupts_on();
    wait_us(1000);
    interrupts_off();
}
