/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupts across VTLs: VTL1's preempt VTL0 whatever it does, VTL0's wait for the return; priorities, EOI, NMI, timers
 * of both kinds, devices, IPIs between processors. Some parts need a second processor. TLFS 15.12.
 */
#include "vtlirq/parts.h"

#define HIGHEST_CLASS 15

struct counts counts[VTLS][2];
uint64_t apic_frequency;

static struct counts *mine(void)
{
    return &counts[this_cpu()->vtl][this_cpu()->index & 1];
}

static void take_low(struct frame *frame)
{
    (void)frame;
    mine()->tsc = rdtsc();
    mine()->low++;
    apic_eoi();
}

static void take_high(struct frame *frame)
{
    (void)frame;
    mine()->high++;
    apic_eoi();
}

static void take_timer(struct frame *frame)
{
    (void)frame;
    mine()->tsc = rdtsc();
    mine()->timer++;
    apic_eoi();
}

static void take_device(struct frame *frame)
{
    (void)frame;
    mine()->device++;
    apic_eoi();
}

static void take_nmi(struct frame *frame)
{
    (void)frame;
    mine()->nmi++;
}

void forget(void)
{
    memset(counts, 0, sizeof counts);
}

struct vtl1 *vtl1(void)
{
    return vtl1_of(0);
}

/* CR8, by the register that is the same: QEMU 7.2's software emulation ends itself when a guest of its guest writes CR8
 * while the hypervisor between them waits for an interrupt window. */
static void set_priority_class(uint64_t priority)
{
    apic_write(APIC_TPR, (uint32_t)priority << 4);
}

/* ---- VTL1's interrupts come at once ---- */

static void check_at_once(void)
{
    forget();
    uint64_t entries = vtl1()->entries[ENTRY_INTERRUPT], begin = rdtsc();
    set_priority_class(HIGHEST_CLASS);
    uint64_t result = hv_send_ipi(HV_VTL(1), VECTOR_LOW, 1);
    bool came = WAIT_FOR(counts[1][0].low == 1, LIMIT_MS);
    uint64_t end = rdtsc();
    set_priority_class(0);
    report(result == 0 && came && vtl1()->entries[ENTRY_INTERRUPT] == entries + 1,
           "VTL0 with interrupts off and CR8 = 15 is entered for VTL1");
    report_info("after %lu us", tsc_to_ns(counts[1][0].tsc - begin) / 1000);
    report(counts[1][0].tsc > begin && counts[1][0].tsc < end && counts[0][0].low == 0, "VTL1's handler has run, not VTL0's");

    hv_expect(hv_send_ipi(HV_VTL(1), 15, 1), HV_STATUS_INVALID_PARAMETER, "vector 15");
    hv_send_ipi(HV_OWN_VTL, VECTOR_LOW, 1);
    open_interrupts();
    report(counts[0][0].low == 1 && counts[1][0].low == 1, "an IPI without a target VTL is the sender's");
}

/* ---- VTL0's interrupts wait ---- */

static volatile uint32_t taken_meanwhile;

static uint64_t send_to_vtl0(void *argument)
{
    uint64_t status = hv_send_ipi(HV_VTL(0), VECTOR_LOW, 1);
    interrupts_on();
    wait_us((uint64_t)argument);
    interrupts_off();
    taken_meanwhile = counts[0][0].low;
    return status;
}

static uint64_t send_to_vtl0_ex(void *argument)
{
    uint64_t *input = hv_input();
    (void)argument;
    input[0] = (uint64_t)HV_VTL(0) << 32 | VECTOR_LOW;
    input[1] = 0; /* a sparse set */
    input[2] = 1, input[3] = 1;
    return hv_call(HV_CALL_SEND_IPI_EX | 1ull << 17, (uint64_t)input, 0);
}

#define EARLY (~0ull)

/* VTL0 has set the PIT, which VTL1 does not have. */
static uint64_t wait_for_device(void *argument)
{
    if (counts[0][0].device)
        return EARLY;
    interrupts_on();
    wait_us((uint64_t)argument);
    interrupts_off();
    return counts[0][0].device;
}

/* VTL1 sleeps: its own timer ends that, an interrupt for VTL0 does not. */
static uint64_t sleep_in_vtl1(void *argument)
{
    hv_send_ipi(HV_VTL(0), VECTOR_LOW, 1);
    apic_timer_start(APIC_TIMER_ONE_SHOT, VECTOR_TIMER, (uint32_t)(apic_frequency / 1000 * (uint64_t)argument));
    while (!counts[1][0].timer) {
        halt_until_interrupt();
        interrupts_off();
    }
    taken_meanwhile = counts[0][0].low;
    return 0;
}

static void check_sleep(void)
{
    forget();
    interrupts_on();
    uint64_t begin = rdtsc();
    vsm_run(sleep_in_vtl1, (void *)(4 * PERIOD_MS));
    uint64_t us = tsc_to_ns(rdtsc() - begin) / 1000;
    bool came = WAIT_FOR(counts[0][0].low == 1, LIMIT_MS);
    interrupts_off();
    report(counts[1][0].timer == 1 && taken_meanwhile == 0 && us >= 4000 * PERIOD_MS,
           "VTL1 sleeps until its own timer fires: %lu us", us);
    report(came, "and VTL0 has its interrupt then");
}

static void check_waiting(void)
{
    forget();
    interrupts_on();
    uint64_t status = vsm_run(send_to_vtl0, (void *)10000);
    bool came = WAIT_FOR(counts[0][0].low == 1, LIMIT_MS);
    interrupts_off();
    report(status == 0 && taken_meanwhile == 0, "an interrupt for VTL0 waits while VTL1 runs");
    report(came && counts[1][0].low == 0, "and comes after the return");
    interrupts_on();
    status = vsm_run(send_to_vtl0_ex, NULL);
    came = WAIT_FOR(counts[0][0].low == 2, LIMIT_MS);
    interrupts_off();
    report(status == 0 && came, "an IPI to a set of processors in VTL0: 0x%lx", status);

    forget();
    interrupt_set_handler(VECTOR_DEVICE, take_device);
    ioapic_route(ioapic_pin_of_irq(0), VECTOR_DEVICE, (uint8_t)apic_id());
    uint64_t meanwhile;
    unsigned tries = 0;
    do { /* on a busy host VTL1 may come too late for it */
        interrupts_off();
        forget();
        pit_one_shot(PIT_HZ / 20); /* which ends the firmware's tick */
        interrupts_on();
        meanwhile = vsm_run(wait_for_device, (void *)100000);
    } while (meanwhile == EARLY && ++tries < 20);
    came = WAIT_FOR(counts[0][0].device >= 1, LIMIT_MS);
    interrupts_off();
    ioapic_mask(ioapic_pin_of_irq(0));
    report(meanwhile == 0 && came && counts[1][0].device == 0, "a device's interrupt is VTL0's: %ld meanwhile, %u then",
           (long)meanwhile, counts[0][0].device);
}

/* ---- what VTL1 makes for VTL0 ---- */

#define NO_PROCESSOR 0xfe

static struct {
    uint64_t fixed, lowest, nmi, sipi, own, high_vector, nobody;
} asserted;

static uint64_t assert_for_vtl0(void *argument)
{
    uint64_t id = apic_id();
    (void)argument;
    asserted.fixed = hv_assert_interrupt(INTERRUPT_FIXED, id, VECTOR_LOW, 0);
    asserted.lowest = hv_assert_interrupt(INTERRUPT_LOWEST_PRIORITY, id, VECTOR_HIGH, 0);
    asserted.nmi = hv_assert_interrupt(INTERRUPT_NMI, id, 0, 0);
    asserted.sipi = hv_assert_interrupt(INTERRUPT_SIPI, id, 8, 0);
    asserted.own = hv_assert_interrupt(INTERRUPT_FIXED, id, VECTOR_LOW, 1);
    asserted.high_vector = hv_assert_interrupt(INTERRUPT_FIXED, id, 256, 0);
    asserted.nobody = hv_assert_interrupt(INTERRUPT_FIXED, NO_PROCESSOR, VECTOR_LOW, 0);
    interrupts_on();
    wait_us(10000);
    interrupts_off();
    return counts[0][0].low + counts[0][0].high + counts[0][0].nmi;
}

static void check_asserted(void)
{
    forget();
    interrupts_on();
    uint64_t meanwhile = vsm_run(assert_for_vtl0, NULL);
    bool came = WAIT_FOR(counts[0][0].low == 1 && counts[0][0].high == 1 && counts[0][0].nmi == 1, LIMIT_MS);
    interrupts_off();
    report(!asserted.fixed && !asserted.lowest && !asserted.nmi && meanwhile == 0,
           "interrupts that VTL1 makes for VTL0 wait while VTL1 runs: %lu", meanwhile);
    report(came, "and come then: %u, %u, NMI %u", counts[0][0].low, counts[0][0].high, counts[0][0].nmi);
    report(counts[1][0].low + counts[1][0].high + counts[1][0].nmi == 0, "VTL1 has seen none of them");
    hv_expect(asserted.sipi, HV_STATUS_INVALID_PARAMETER, "SIPI is not for it to make");
    hv_expect(asserted.own, HV_STATUS_ACCESS_DENIED, "nor one for itself");
    hv_expect(asserted.high_vector, HV_STATUS_INVALID_PARAMETER, "nor vector 256");
    hv_expect(asserted.nobody, HV_STATUS_INVALID_VP_INDEX, "nor for a processor that is not there");
    hv_expect(hv_assert_interrupt(INTERRUPT_FIXED, apic_id(), VECTOR_LOW, 0), HV_STATUS_ACCESS_DENIED, "VTL0 makes none");
}

/* ---- what VTL1 makes of its own ---- */

static uint64_t set_priority(void *argument)
{
    set_priority_class((uint64_t)argument);
    return 0;
}

static uint64_t lower_priority(void *argument)
{
    (void)argument;
    set_priority_class(0);
    open_interrupts();
    return counts[1][0].low;
}

static void check_priority(void)
{
    forget();
    vsm_run(set_priority, (void *)HIGHEST_CLASS);
    uint64_t entries = vtl1()->entries[ENTRY_INTERRUPT];
    hv_send_ipi(HV_VTL(1), VECTOR_LOW, 1);
    wait_us(20000);
    report(vtl1()->entries[ENTRY_INTERRUPT] == entries && counts[1][0].low == 0, "VTL1's CR8 keeps an interrupt from entering");
    uint64_t taken = vsm_run(lower_priority, NULL);
    report(taken == 1, "which is taken when VTL1 lowers it: %lu", taken);
    hv_send_ipi(HV_VTL(1), VECTOR_LOW, 1);
    report(WAIT_FOR(counts[1][0].low == 2, LIMIT_MS), "and the next one enters again");
    report(read_cr8() == 0, "VTL0's CR8 is its own");
}

static volatile uint32_t reluctant;

/* Takes its interrupt at the fifth entry only. */
static void reluctantly(struct vtl1 *self, struct vtl_frame *frame)
{
    (void)self, (void)frame;
    if (++reluctant >= 5)
        interrupts_take();
}

static uint64_t send_to_self(void *argument)
{
    (void)argument;
    apic_send_self(VECTOR_LOW);
    return counts[1][0].low;
}

static void check_pending(void)
{
    forget();
    uint64_t entries = vtl1()->entries[ENTRY_INTERRUPT];
    uint64_t before = vsm_run(send_to_self, NULL);
    uint32_t after = counts[1][0].low; /* nothing of VTL0 runs before */
    report(before == 0 && after == 1 && vtl1()->entries[ENTRY_INTERRUPT] == entries + 1,
           "what is pending at the return enters at once: %u", after);

    vsm_set_interrupted(reluctantly);
    entries = vtl1()->entries[ENTRY_INTERRUPT];
    hv_send_ipi(HV_VTL(1), VECTOR_LOW, 1);
    bool came = WAIT_FOR(counts[1][0].low == 2, LIMIT_MS);
    vsm_set_interrupted(NULL);
    report(came && vtl1()->entries[ENTRY_INTERRUPT] >= entries + 5,
           "a VTL1 that keeps interrupts off is entered again and again: %lu times",
           vtl1()->entries[ENTRY_INTERRUPT] - entries);
}

/* ---- EOI ---- */

static volatile bool in_service_before, in_service_after;

/* In VTL0, in service: VTL1 takes one of its own, lower, with its EOI. */
static void nest(struct frame *frame)
{
    (void)frame;
    in_service_before = apic_isr(VECTOR_HIGH);
    hv_send_ipi(HV_VTL(1), VECTOR_LOW, 1);
    WAIT_FOR(counts[1][0].low == 1, LIMIT_MS);
    in_service_after = apic_isr(VECTOR_HIGH);
    counts[0][0].high++;
    apic_eoi();
}

static void check_eoi(void)
{
    forget();
    interrupt_set_handler(VECTOR_HIGH, nest);
    interrupts_on();
    apic_send_self(VECTOR_HIGH);
    bool came = WAIT_FOR(counts[0][0].high == 1, LIMIT_MS);
    interrupts_off();
    report(came && counts[1][0].low == 1, "VTL0's interrupt in service does not hold back a lower one of VTL1");
    if (!in_service_before)
        report_skip("this KVM never sets an in-service bit");
    else
        report(in_service_after && !apic_isr(VECTOR_HIGH), "an EOI ends its own VTL's interrupt only");
    interrupt_set_handler(VECTOR_HIGH, take_high);
}

/* ---- NMI ---- */

static uint64_t nmi_to_self(void *argument)
{
    (void)argument;
    apic_icr_write(APIC_DELIVERY_NMI | APIC_LEVEL_ASSERT | APIC_SHORTHAND_SELF, 0);
    WAIT_FOR(counts[1][0].nmi == 1, 200);
    return counts[1][0].nmi;
}

static void check_nmi(void)
{
    forget();
    uint64_t taken = vsm_run(nmi_to_self, NULL);
    report(taken == 1 && counts[0][0].nmi == 0, "an NMI of VTL1 to itself is VTL1's: %lu", taken);
    apic_icr_write(APIC_DELIVERY_NMI | APIC_LEVEL_ASSERT | APIC_SHORTHAND_SELF, 0);
    report(WAIT_FOR(counts[0][0].nmi == 1, 200) && counts[1][0].nmi == 1, "one of VTL0 to itself is VTL0's");
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    for (unsigned vtl = 0; vtl < VTLS; vtl++) {
        interrupt_set_handler_of(vtl, VECTOR_LOW, take_low);
        interrupt_set_handler_of(vtl, VECTOR_HIGH, take_high);
        interrupt_set_handler_of(vtl, VECTOR_TIMER, take_timer);
        interrupt_set_handler_of(vtl, VECTOR_NMI, take_nmi);
    }
    smp_start();
    vsm_start();
    apic_frequency = apic_timer_frequency();

    check_at_once();
    check_timers();
    check_both_timers();
    check_waiting();
    check_asserted();
    check_sleep();
    check_priority();
    check_pending();
    check_eoi();
    check_nmi();
    if (smp_count() > 1)
        check_processors();
    else
        report_skip("IPIs between processors need two");
    return report_summary();
}
