/* SPDX-License-Identifier: Apache-2.0 */
/* Gives back what it reads from the serial port, until a given character comes.
 *
 * until=C   that character (Ctrl-D, 0x04)
 * poll      look at the UART all the time instead of sleeping until its interrupt
 */
#include "runtime.h"

#define VECTOR 0x40
#define IRQ 4
#define IER_RECEIVED 0x01
#define MCR_DTR_RTS_OUT2 0x0b /* OUT2 connects the UART to its interrupt line */
#define CTRL_D 0x04

static void wake(struct frame *frame)
{
    (void)frame;
    apic_eoi();
}

static uint8_t next_byte(bool poll)
{
    for (;;) {
        interrupts_off();
        int byte = console_poll();
        if (byte >= 0)
            return (uint8_t)byte;
        if (!poll)
            halt_until_interrupt();
    }
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    bool poll = argument_given("poll");
    uint8_t until = (uint8_t)argument("until", (char[]){CTRL_D, 0})[0];
    uint64_t count = 0;

    if (!poll) {
        interrupt_set_handler(VECTOR, wake);
        ioapic_route(ioapic_pin_of_irq(IRQ), VECTOR, (uint8_t)apic_id());
        outb(COM1 + 4, MCR_DTR_RTS_OUT2);
        outb(COM1 + 1, IER_RECEIVED);
    }
    printf("echo: type something, %s%c ends it\n", until < ' ' ? "Ctrl-" : "", until < ' ' ? until + '@' : until);
    for (;;) {
        uint8_t byte = next_byte(poll);
        if (byte == until)
            break;
        count++;
        if (byte == '\r')
            console_write("\n", 1);
        else
            console_write_raw((const char *)&byte, 1);
    }
    printf("\necho: %lu bytes\n", count);
    report(true, "%lu bytes echoed", count);
    return report_summary();
}
