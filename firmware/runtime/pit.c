/* SPDX-License-Identifier: Apache-2.0 */
/* Intel 8254 interval timer. */
#include "io.h"
#include "timers.h"

#define CHANNEL(number) (0x40 + (number))
#define MODE 0x43
#define LATCH(number) ((number) << 6)
#define LOW_THEN_HIGH 0x30
#define MODE_TERMINAL_COUNT 0x00
#define MODE_RATE 0x04

#define SYSTEM_CONTROL_B 0x61
#define GATE2 0x01
#define SPEAKER 0x02
#define OUT2 0x20

static void load(unsigned channel, uint8_t mode, uint16_t count)
{
    outb(MODE, (uint8_t)(channel << 6 | LOW_THEN_HIGH | mode));
    outb(CHANNEL(channel), count & 0xff);
    outb(CHANNEL(channel), count >> 8);
}

void pit_periodic(uint16_t divisor)
{
    load(0, MODE_RATE, divisor);
}

void pit_one_shot(uint16_t count)
{
    load(0, MODE_TERMINAL_COUNT, count);
}

uint16_t pit_read(unsigned channel)
{
    outb(MODE, (uint8_t)LATCH(channel));
    uint8_t low = inb((uint16_t)CHANNEL(channel));
    return (uint16_t)(inb((uint16_t)CHANNEL(channel)) << 8 | low);
}

void pit_channel2_start(void)
{
    outb(SYSTEM_CONTROL_B, (inb(SYSTEM_CONTROL_B) & ~SPEAKER) | GATE2);
    load(2, MODE_TERMINAL_COUNT, 0xffff);
}

bool pit_channel2_out(void)
{
    return inb(SYSTEM_CONTROL_B) & OUT2;
}
