/* SPDX-License-Identifier: Apache-2.0 */
/* The TSC's frequency, and time by it. */
#include "cpu.h"
#include "timers.h"

#define CALIBRATION_US 10000

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

/* Both read the TSC behind the other clock at the start as at the end: a slow IN shifts both alike. */
static uint64_t measure_by_pm_timer(void)
{
    const uint32_t wanted = (uint64_t)PM_TIMER_HZ * CALIBRATION_US / 1000000;
    uint32_t first = pm_timer_read(), passed;
    uint64_t start = rdtsc(), end;
    do {
        passed = (pm_timer_read() - first) & pm_timer_mask();
        end = rdtsc();
    } while (passed < wanted);
    return scale(end - start, PM_TIMER_HZ, passed);
}

static uint64_t measure_by_pit(void)
{
    const uint16_t wanted = (uint64_t)PIT_HZ * CALIBRATION_US / 1000000;
    pit_channel2_start();
    uint16_t first = pit_read(2), passed;
    uint64_t start = rdtsc(), end;
    do {
        passed = first - pit_read(2);
        end = rdtsc();
    } while (passed < wanted);
    return scale(end - start, PIT_HZ, passed);
}

uint64_t tsc_hz(void)
{
    static uint64_t hz;
    if (!hz)
        hz = pm_timer_port() ? measure_by_pm_timer() : measure_by_pit();
    return hz;
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
