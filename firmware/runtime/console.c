/* SPDX-License-Identifier: Apache-2.0 */
/* 16550A UART at COM1 (data sheet PC16550D). */
#include "console.h"

#include "io.h"

#define DATA 0 /* receive and transmit; divisor low byte while DLAB is set */
#define IER 1  /* interrupt enable; divisor high byte while DLAB is set */
#define IIR 2  /* read */
#define FCR 2  /* write */
#define LCR 3
#define MCR 4
#define LSR 5

#define FCR_ENABLE_CLEAR 0x07
#define IIR_FIFO_ENABLED 0xc0
#define LCR_8N1 0x03
#define LCR_DLAB 0x80
#define MCR_DTR_RTS 0x03
#define LSR_DATA_READY 0x01
#define LSR_TRANSMIT_EMPTY 0x20
#define LSR_IDLE 0x40

static size_t burst = 1; /* bytes that may follow one look at LSR */

void console_init(void)
{
    outb(COM1 + LCR, LCR_DLAB);
    outb(COM1 + DATA, 1); /* 115200 bit/s */
    outb(COM1 + IER, 0);
    outb(COM1 + LCR, LCR_8N1);
    outb(COM1 + IER, 0);
    outb(COM1 + FCR, FCR_ENABLE_CLEAR);
    outb(COM1 + MCR, MCR_DTR_RTS);
    burst = (inb(COM1 + IIR) & IIR_FIFO_ENABLED) == IIR_FIFO_ENABLED ? 16 : 1;
}

/* With its FIFO on, the UART says "transmit empty" when all 16 places are free. */
void console_write_raw(const char *bytes, size_t count)
{
    while (count) {
        size_t now = count < burst ? count : burst;
        while (!(inb(COM1 + LSR) & LSR_TRANSMIT_EMPTY))
            ;
        outsb(COM1 + DATA, bytes, now);
        bytes += now;
        count -= now;
    }
}

void console_write(const char *text, size_t count)
{
    char buffer[256];
    size_t used = 0;
    for (; count; count--, text++) {
        if (used + 2 > sizeof(buffer)) {
            console_write_raw(buffer, used);
            used = 0;
        }
        if (*text == '\n')
            buffer[used++] = '\r';
        buffer[used++] = *text;
    }
    console_write_raw(buffer, used);
}

void console_drain(void)
{
    while (!(inb(COM1 + LSR) & LSR_IDLE))
        ;
}

int console_poll(void)
{
    return inb(COM1 + LSR) & LSR_DATA_READY ? inb(COM1 + DATA) : -1;
}
