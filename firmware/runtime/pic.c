/* SPDX-License-Identifier: Apache-2.0 */
#include "interrupts.h"
#include "io.h"
#include "irqchip.h"

#define MASTER 0x20
#define SLAVE 0xa0
#define CASCADE_IRQ 2
#define ICW1_INIT_ICW4 0x11
#define ICW4_8086 0x01
#define OCW2_EOI 0x20
#define OCW3_READ_IRR 0x0a
#define OCW3_READ_ISR 0x0b

static uint16_t mask = 0xffff;

static void write_mask(void)
{
    outb(MASTER + 1, mask & 0xff);
    outb(SLAVE + 1, mask >> 8);
}

void pic_init(void)
{
    mask = 0xffff;
    outb(MASTER, ICW1_INIT_ICW4);
    outb(MASTER + 1, VECTOR_PIC);
    outb(MASTER + 1, 1 << CASCADE_IRQ);
    outb(MASTER + 1, ICW4_8086);
    outb(SLAVE, ICW1_INIT_ICW4);
    outb(SLAVE + 1, VECTOR_PIC + 8);
    outb(SLAVE + 1, CASCADE_IRQ);
    outb(SLAVE + 1, ICW4_8086);
    write_mask();
}

void pic_unmask(uint8_t irq)
{
    mask &= ~(1u << irq);
    if (irq >= 8)
        mask &= ~(1u << CASCADE_IRQ);
    write_mask();
}

void pic_mask_all(void)
{
    mask = 0xffff;
    write_mask();
}

void pic_eoi(uint8_t irq)
{
    if (irq >= 8)
        outb(SLAVE, OCW2_EOI);
    outb(MASTER, OCW2_EOI);
}

static uint16_t read_both(uint8_t command)
{
    outb(MASTER, command);
    outb(SLAVE, command);
    return (uint16_t)(inb(SLAVE) << 8 | inb(MASTER));
}

uint16_t pic_irr(void)
{
    return read_both(OCW3_READ_IRR);
}

uint16_t pic_isr(void)
{
    return read_both(OCW3_READ_ISR);
}
