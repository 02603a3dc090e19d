/* SPDX-License-Identifier: Apache-2.0 */
/* MC146818 real-time clock and its CMOS RAM. */
#include "io.h"
#include "string.h"
#include "timers.h"

#define INDEX 0x70
#define DATA 0x71

uint8_t cmos_read(uint8_t index)
{
    outb(INDEX, index);
    return inb(DATA);
}

void cmos_write(uint8_t index, uint8_t value)
{
    outb(INDEX, index);
    outb(DATA, value);
}

static unsigned number(uint8_t value)
{
    return cmos_read(RTC_B) & RTC_B_BINARY ? value : (value >> 4) * 10u + (value & 15);
}

static unsigned hours(uint8_t value)
{
    if (cmos_read(RTC_B) & RTC_B_24_HOURS)
        return number(value);
    return number(value & 0x7f) % 12 + (value & 0x80 ? 12 : 0);
}

static struct date read_once(void)
{
    while (cmos_read(RTC_A) & RTC_A_UPDATING)
        asm volatile("pause");
    return (struct date){
        .year = number(cmos_read(RTC_CENTURY)) * 100 + number(cmos_read(RTC_YEAR)),
        .month = number(cmos_read(RTC_MONTH)),
        .day = number(cmos_read(RTC_DAY)),
        .hours = hours(cmos_read(RTC_HOURS)),
        .minutes = number(cmos_read(RTC_MINUTES)),
        .seconds = number(cmos_read(RTC_SECONDS)),
    };
}

struct date rtc_read(void)
{
    struct date first, second = read_once();
    do {
        first = second;
        second = read_once();
    } while (memcmp(&first, &second, sizeof(first)));
    return first;
}
