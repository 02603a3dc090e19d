/* SPDX-License-Identifier: Apache-2.0 */
/* TSC, PIT, ACPI PM timer, RTC. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PIT_HZ 1193182u
#define PM_TIMER_HZ 3579545u

/* TSC ticks per second: measured once against the PM timer, or the PIT where there is none. */
uint64_t tsc_hz(void);
uint64_t tsc_from_us(uint64_t microseconds);
/* Nanoseconds between two TSC values. */
uint64_t tsc_to_ns(uint64_t ticks);

/* The TSC at the moment when *ticks was read of `clock`: the quickest of some readings. */
uint64_t tsc_at(uint32_t (*clock)(void), uint32_t *ticks);
/* What two of `measurement` in a row agree on within 1 %, or the last of some. */
uint64_t agreed_frequency(uint64_t (*measurement)(void));
void wait_us(uint64_t microseconds);
/* Interrupts on for a millisecond: whatever waits for this processor, in the VTL that runs, is taken. */
void open_interrupts(void);

/* True as soon as `condition` holds; false when it does not within the time. */
#define WAIT_FOR(condition, milliseconds)                                   \
    ({                                                                      \
        uint64_t wait_end_ = rdtsc() + tsc_from_us((milliseconds) * 1000ull); \
        bool wait_met_;                                                     \
        while (!(wait_met_ = (condition)) && rdtsc() < wait_end_)           \
            asm volatile("pause" : : : "memory");                           \
        wait_met_;                                                          \
    })

/* 8254: channel 0 raises IRQ 0. Divisor 0 means 65536. */
void pit_periodic(uint16_t divisor);
void pit_one_shot(uint16_t count);
uint16_t pit_read(unsigned channel);
/* Channel 2 counts down from 65535 with its gate open and the speaker off. */
void pit_channel2_start(void);
bool pit_channel2_out(void);

/* The PM timer's port from the FADT, 0 when there is none; 24 or 32 bits wide. */
uint16_t pm_timer_port(void);
uint32_t pm_timer_mask(void);
uint32_t pm_timer_read(void);

/* MC146818: IRQ 8. */
#define RTC_SECONDS 0x00
#define RTC_SECONDS_ALARM 0x01
#define RTC_MINUTES 0x02
#define RTC_MINUTES_ALARM 0x03
#define RTC_HOURS 0x04
#define RTC_HOURS_ALARM 0x05
#define RTC_WEEKDAY 0x06
#define RTC_DAY 0x07
#define RTC_MONTH 0x08
#define RTC_YEAR 0x09
#define RTC_A 0x0a
#define RTC_B 0x0b
#define RTC_C 0x0c
#define RTC_D 0x0d
#define RTC_CENTURY 0x32
#define RTC_A_UPDATING 0x80
#define RTC_B_PERIODIC 0x40
#define RTC_B_ALARM 0x20
#define RTC_B_UPDATE 0x10
#define RTC_B_BINARY 0x04
#define RTC_B_24_HOURS 0x02

uint8_t cmos_read(uint8_t index);
void cmos_write(uint8_t index, uint8_t value);

struct date {
    unsigned year, month, day, hours, minutes, seconds;
};

/* The time, read twice until it is stable; BCD or binary as register B says. */
struct date rtc_read(void);
