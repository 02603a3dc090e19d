/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupts of every kind: PIC, I/O APIC, timers, UART, IPIs, NMI.
 *
 * x2apic   in that mode
 * strict   A KVM without hardware virtualization was seen that never sets an in-service bit, so that level interrupts
 *          come twice and nothing waits for an EOI. What depends on it is skipped there, unless this word is given.
 */
#include "runtime.h"

#define VECTOR 0x40
#define VECTOR_HIGH 0x91
#define WINDOW_MS 5000 /* in which an interrupt must come */
#define QUIET_US 20000 /* in which none may come */
#define TESTDEV_LINE 0x2000
#define TESTDEV_PIN 13
#define PIT_10_MS 11932

static volatile uint32_t count, high_count, nmi_count;
static volatile uint32_t order[4], order_length;
static bool in_service_works = true;
static void (*volatile action)(void); /* what the handler does first */
static int pic_irq = -1;

static void handler(struct frame *frame)
{
    (void)frame;
    count++;
    if (action)
        action();
    if (pic_irq >= 0)
        pic_eoi((uint8_t)pic_irq);
    else
        apic_eoi();
}

static void high_handler(struct frame *frame)
{
    (void)frame;
    high_count++;
    apic_eoi();
}

static void nmi_handler(struct frame *frame)
{
    (void)frame;
    nmi_count++;
}

static bool wait_count(uint32_t wanted)
{
    return WAIT_FOR(count >= wanted, WINDOW_MS);
}

/* Exactly so many, and no more. Arguments of report are evaluated in any order, so this returns the number too. */
static bool exactly(uint32_t wanted, uint32_t *seen)
{
    bool enough = wait_count(wanted);
    wait_us(QUIET_US);
    *seen = count;
    return enough && *seen == wanted;
}

static uint32_t after_quiet(void)
{
    wait_us(QUIET_US);
    return count;
}

/* One that is on its way when its source is told to be silent may still come, however late. */
static bool falls_silent(void)
{
    for (unsigned tries = 0; tries < 10; tries++) {
        uint32_t before = count;
        if (after_quiet() == before)
            return true;
    }
    return false;
}

static void begin(const char *name)
{
    report_prefix_push(name);
    count = high_count = 0;
    action = NULL;
    interrupts_on();
}

static void end(void)
{
    interrupts_off();
    report_prefix_pop();
}

static void check_pic(void)
{
    begin("PIC");
    /* The PIC reaches the first processor through its LINT0 pin. */
    apic_write(APIC_LVT_LINT0, APIC_DELIVERY_EXTINT);
    interrupt_set_handler(VECTOR_PIC, handler);
    pic_irq = 0;
    pit_periodic(PIT_10_MS);
    report(after_quiet() == 0, "a masked PIT is silent");
    pic_unmask(0);
    bool came = wait_count(3);
    report(came, "PIT interrupts: %u", count);
    pic_mask_all();
    report(falls_silent(), "silent again after masking");
    report(WAIT_FOR(pic_irr() & 1, 100), "the masked request shows in IRR");
    report(!(pic_isr() & 1), "nothing in service");

    /* The APIC timer, once a second, ends the sleep where the PIT does not. The masked request may come as well. */
    interrupts_off();
    uint32_t second = (uint32_t)apic_timer_frequency();
    count = 0;
    pit_one_shot(PIT_10_MS);
    pic_unmask(0);
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_HIGH, second);
    while (count == 0 && high_count < WINDOW_MS / 1000) {
        halt_until_interrupt();
        interrupts_off();
    }
    apic_timer_stop();
    report(count > 0, "wakes the processor from HLT, %u s later", high_count);
    pic_mask_all();
    pic_irq = -1;
    apic_write(APIC_LVT_LINT0, APIC_LVT_MASKED | APIC_DELIVERY_EXTINT);
    interrupt_set_handler(VECTOR_PIC, NULL);
    end();
}

static void check_ioapic_pit(void)
{
    unsigned pin = ioapic_pin_of_irq(0);
    begin("I/O APIC, PIT");
    pit_periodic(PIT_10_MS);
    ioapic_route(pin, VECTOR, (uint8_t)apic_id());
    report(wait_count(3), "interrupts on pin %u", pin);
    ioapic_mask(pin);
    report(falls_silent(), "silent after masking");
    end();
}

static void lower_line(void)
{
    outb(TESTDEV_LINE + TESTDEV_PIN, 0);
}

static uint64_t remote_irr_in_service;
static void note_remote_irr_and_lower(void)
{
    remote_irr_in_service = ioapic_entry_low(TESTDEV_PIN) & IOAPIC_REMOTE_IRR;
    lower_line();
}

static void lower_at_third(void)
{
    if (count == 3)
        lower_line();
}

static void check_ioapic_levels(void)
{
    const uint16_t line = TESTDEV_LINE + TESTDEV_PIN;
    uint32_t seen;
    ioapic_route(TESTDEV_PIN, VECTOR | IOAPIC_LEVEL, (uint8_t)apic_id());
    count = 0;
    action = note_remote_irr_and_lower;
    outb(line, 1);
    bool good = exactly(1, &seen);
    report(good, "a level lowered by the handler: %u interrupts", seen);
    report(remote_irr_in_service, "remote IRR is set while in service");
    report(!(ioapic_entry_low(TESTDEV_PIN) & IOAPIC_REMOTE_IRR), "and clear after EOI");
    count = 0;
    action = lower_at_third;
    outb(line, 1);
    good = exactly(3, &seen);
    report(good, "a level that stays comes again after EOI: %u interrupts", seen);
    action = lower_line;
    ioapic_mask(TESTDEV_PIN);
}

static void check_ioapic_lines(void)
{
    const uint16_t line = TESTDEV_LINE + TESTDEV_PIN;
    uint32_t seen;
    begin("I/O APIC, test device");
    outl(0xe0, 0x600df00d);
    if (inl(0xe0) != 0x600df00d) {
        report_skip("no test device");
        end();
        return;
    }
    ioapic_route(TESTDEV_PIN, VECTOR, (uint8_t)apic_id());
    outb(line, 1);
    bool good = exactly(1, &seen);
    report(good, "a rising edge: %u interrupts", seen);
    outb(line, 0);
    report(after_quiet() == 1, "a falling edge: none");
    outb(line, 1);
    outb(line, 0);
    report(wait_count(2), "a pulse");

    if (in_service_works)
        check_ioapic_levels();
    else
        report_skip("levels: no in-service bits");
    ioapic_route(TESTDEV_PIN, VECTOR | IOAPIC_LEVEL | IOAPIC_MASKED, (uint8_t)apic_id());
    count = 0;
    action = lower_line;
    outb(line, 1);
    report(after_quiet() == 0, "a masked level is silent");
    ioapic_route(TESTDEV_PIN, VECTOR | IOAPIC_LEVEL, (uint8_t)apic_id());
    report(wait_count(1), "it comes when unmasked");
    ioapic_mask(TESTDEV_PIN);
    lower_line();
    end();
}

static void read_rtc_flags(void)
{
    cmos_read(RTC_C); /* lets the line fall */
}

static void check_rtc(void)
{
    begin("RTC");
    action = read_rtc_flags;
    ioapic_route(8, VECTOR, (uint8_t)apic_id());
    cmos_read(RTC_C);
    cmos_write(RTC_A, 0x2a); /* 64 Hz */
    cmos_write(RTC_B, cmos_read(RTC_B) | RTC_B_PERIODIC);
    report(wait_count(4), "periodic interrupts on IRQ 8");
    cmos_write(RTC_B, cmos_read(RTC_B) & ~RTC_B_PERIODIC);
    cmos_read(RTC_C);
    report(falls_silent(), "silent when disabled");
    ioapic_mask(8);
    end();
}

static volatile uint8_t serial_cause;
static void read_serial_cause(void)
{
    serial_cause = inb(COM1 + 2) & 0x0f;
}

static void check_serial(void)
{
    begin("serial");
    console_drain();
    action = read_serial_cause;
    ioapic_route(4, VECTOR, (uint8_t)apic_id());
    outb(COM1 + 4, 0x0b); /* DTR, RTS, OUT2 */
    outb(COM1 + 1, 0x02); /* transmit holding register empty */
    bool came = wait_count(1);
    outb(COM1 + 1, 0);
    ioapic_mask(4);
    report(came && serial_cause == 2, "transmit-empty interrupt on IRQ 4, cause %u", serial_cause);
    end();
}

static void check_apic_timer(void)
{
    begin("APIC timer");
    uint32_t ms10 = (uint32_t)(apic_timer_frequency() / 100);
    uint64_t start = rdtsc();
    apic_timer_start(APIC_TIMER_ONE_SHOT, VECTOR, ms10);
    bool came = wait_count(1);
    uint64_t us = tsc_to_ns(rdtsc() - start) / 1000;
    uint32_t seen = after_quiet();
    report(came && us > 9000 && seen == 1, "one shot of 10 ms after %lu us, %u interrupts", us, seen);
    count = 0;
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR, ms10 / 5);
    report(wait_count(5), "periodic, every 2 ms");
    apic_timer_stop();
    report(falls_silent(), "silent when stopped");
    count = 0;
    apic_timer_start(APIC_TIMER_ONE_SHOT | APIC_LVT_MASKED, VECTOR, ms10 / 10);
    report(after_quiet() == 0 && apic_read(APIC_TIMER_CURRENT) == 0, "masked: counts to 0 in silence");
    if (cpu_has_tsc_deadline()) {
        uint64_t deadline = rdtsc() + tsc_from_us(5000);
        apic_timer_deadline(VECTOR, deadline);
        came = wait_count(1);
        bool late_enough = rdtsc() >= deadline;
        seen = after_quiet();
        report(came && late_enough && seen == 1, "TSC deadline: %u interrupts", seen);
        report(rdmsr(MSR_TSC_DEADLINE) == 0, "the deadline is cleared");
        count = 0;
        apic_timer_deadline(VECTOR, 1);
        report(wait_count(1), "a deadline in the past comes at once");
    } else {
        report_skip("no TSC deadline");
    }
    apic_timer_stop();
    end();
}

static void check_ipi(void)
{
    begin("IPI");
    apic_send_self(VECTOR);
    report(wait_count(1), "to self by shorthand");
    apic_send_ipi(apic_id(), VECTOR);
    report(wait_count(2), "to self by id");
    if (apic_is_x2apic()) {
        wrmsr(MSR_X2APIC + 0x3f, VECTOR);
        report(wait_count(3), "by the SELF IPI register");
    }

    interrupts_off();
    count = 0;
    apic_send_self(VECTOR);
    report(WAIT_FOR(apic_irr(VECTOR), 100) && count == 0, "pending in IRR while interrupts are off");
    interrupts_on();
    report(wait_count(1) && !apic_irr(VECTOR), "delivered when they are on");

    apic_write(APIC_TPR, 0x50);
    apic_send_self(VECTOR);
    apic_send_self(VECTOR_HIGH);
    report(WAIT_FOR(high_count == 1, WINDOW_MS) && count == 1, "the TPR holds back vector 0x%x, not 0x%x", VECTOR,
           VECTOR_HIGH);
    apic_write(APIC_TPR, 0);
    report(wait_count(2), "and lets it go");
    write_cr8(0xf);
    apic_send_self(VECTOR);
    report(after_quiet() == 2 && apic_read(APIC_TPR) == 0xf0, "CR8 is the TPR");
    write_cr8(0);
    report(wait_count(3), "CR8 back to 0");
    end();
}

static void note_order_low(struct frame *frame)
{
    (void)frame;
    order[order_length++ & 3] = VECTOR;
    apic_eoi();
}

static void note_order_high(struct frame *frame)
{
    (void)frame;
    order[order_length++ & 3] = VECTOR_HIGH;
    apic_eoi();
}

static void check_priority(void)
{
    begin("priority");
    interrupts_off();
    order_length = 0;
    interrupt_set_handler(VECTOR, note_order_low);
    interrupt_set_handler(VECTOR_HIGH, note_order_high);
    apic_send_self(VECTOR);
    apic_send_self(VECTOR_HIGH);
    bool both = WAIT_FOR(apic_irr(VECTOR) && apic_irr(VECTOR_HIGH), 100);
    interrupts_on();
    report(both && WAIT_FOR(order_length == 2, WINDOW_MS) && order[0] == VECTOR_HIGH && order[1] == VECTOR,
           "the higher vector comes first");
    interrupt_set_handler(VECTOR, handler);
    interrupt_set_handler(VECTOR_HIGH, high_handler);
    end();
}

static volatile bool isr_in_handler;
static void note_isr(void)
{
    isr_in_handler = apic_isr(VECTOR);
}

static void check_in_service(void)
{
    begin("in service");
    action = note_isr;
    apic_send_self(VECTOR);
    bool came = wait_count(1);
    in_service_works = isr_in_handler || argument_given("strict");
    if (in_service_works)
        report(came && isr_in_handler && !apic_isr(VECTOR), "ISR has the bit from delivery to EOI");
    else
        report_skip("this KVM never sets an in-service bit");
    end();
}

static volatile uint32_t low_before_eoi;

static void nest(struct frame *frame)
{
    (void)frame;
    high_count++;
    apic_send_self(VECTOR);
    interrupts_on();
    low_before_eoi = after_quiet();
    interrupts_off();
    apic_eoi();
}

static void check_nesting(void)
{
    begin("nesting");
    if (!in_service_works) {
        report_skip("no in-service bits");
        end();
        return;
    }
    interrupt_set_handler(VECTOR_HIGH, nest);
    apic_send_self(VECTOR_HIGH);
    report(WAIT_FOR(high_count == 1, WINDOW_MS) && wait_count(1) && low_before_eoi == 0,
           "a lower vector waits for the EOI of a higher one");
    interrupt_set_handler(VECTOR_HIGH, high_handler);
    end();
}

static void check_nmi(void)
{
    begin("NMI");
    interrupts_off();
    nmi_count = 0;
    apic_icr_write(APIC_DELIVERY_NMI | APIC_LEVEL_ASSERT, apic_id());
    report(WAIT_FOR(nmi_count == 1, WINDOW_MS), "to self, with interrupts off");
    end();
}

static uint32_t same_id_count;
static void note_same_id(struct frame *frame)
{
    (void)frame;
    apic_write(APIC_ID, this_cpu()->apic_id << 24);
    atomic_add(&same_id_count, 1);
    apic_eoi();
}

static void take_id(void *id)
{
    apic_write(APIC_ID, (uint32_t)(uintptr_t)id << 24);
}

/* A processor may write its xAPIC id; an interrupt to an id is for every APIC that has it (SDM volume 3, 11.6.2.1). A
 * KVM that is told to use 32-bit ids, as it is where there is x2APIC, takes the first one alone. */
static void check_same_id(void)
{
    if (smp_expected() < 2)
        return;
    begin("two processors with one id");
    if (cpu_has_x2apic()) {
        report_skip("x2APIC");
        end();
        return;
    }
    smp_start();
    uint32_t first = apic_id();
    interrupt_set_handler(VECTOR_HIGH, note_same_id);
    smp_run(1, take_id, (void *)(uintptr_t)first);
    apic_send_ipi(first, VECTOR_HIGH);
    bool both = WAIT_FOR(load_acquire(&same_id_count) == 2, WINDOW_MS);
    report(both, "an interrupt to it is for both: %u took it", load_acquire(&same_id_count));
    interrupt_set_handler(VECTOR_HIGH, high_handler);
    end();
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    if (argument_given("x2apic") && !apic_enable_x2apic()) {
        report_skip("no x2APIC");
        return report_summary();
    }
    interrupt_set_handler(VECTOR, handler);
    interrupt_set_handler(VECTOR_HIGH, high_handler);
    interrupt_set_handler(VECTOR_NMI, nmi_handler);
    check_in_service();
    check_pic();
    check_ioapic_pit();
    check_ioapic_lines();
    check_rtc();
    check_serial();
    check_apic_timer();
    check_ipi();
    check_priority();
    check_nesting();
    check_nmi();
    check_same_id();
    return report_summary();
}
