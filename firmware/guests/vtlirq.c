/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupts across VTLs: VTL1's preempt VTL0 whatever it does, VTL0's wait for the return; priorities, EOI, NMI, timers
 * of both kinds, devices, IPIs between processors. Some parts need a second processor. TLFS 15.12.
 */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define VECTOR_LOW 0x41
#define VECTOR_HIGH 0x91
#define VECTOR_TIMER 0x61
#define VECTOR_DEVICE 0x51
#define SINT 5
#define PERIOD_MS 5
#define LIMIT_MS 2000
#define HIGHEST_CLASS 15

struct counts {
    volatile uint32_t low, high, timer, device, nmi;
    volatile uint64_t tsc; /* of the last one */
};

/* By VTL; of the first processor and the second. */
static struct counts counts[VTLS][2];
static uint64_t apic_frequency;

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

static void forget(void)
{
    memset(counts, 0, sizeof counts);
}

static struct vtl1 *vtl1(void)
{
    return vtl1_of(0);
}

/* In either VTL: whatever is pending is taken. */
static void open_interrupts(void)
{
    interrupts_on();
    wait_us(1000);
    interrupts_off();
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

/* ---- timers ---- */

static uint64_t start_apic_timer(void *argument)
{
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_TIMER, (uint32_t)(apic_frequency * (uint64_t)argument / 1000));
    return 0;
}

static uint64_t stop_timers(void *argument)
{
    (void)argument;
    apic_timer_stop();
    wrmsr(HV_MSR_STIMER0_CONFIG, 0);
    return 0;
}

static uint64_t start_direct_timer(void *argument)
{
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_DIRECT(VECTOR_TIMER) | STIMER_PERIODIC | STIMER_AUTO_ENABLE);
    wrmsr(HV_MSR_STIMER0_COUNT, MS_100NS * (uint64_t)argument);
    return 0;
}

static uint8_t message_page[VTLS][4096] __attribute__((aligned(4096)));

static uint64_t start_message_timer(void *argument)
{
    wrmsr(HV_MSR_SCONTROL, 1);
    wrmsr(HV_MSR_SIMP, (uint64_t)message_page[this_cpu()->vtl] | 1);
    wrmsr(HV_MSR_SINT0 + SINT, VECTOR_TIMER);
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_AUTO_ENABLE | STIMER_SINT(SINT));
    wrmsr(HV_MSR_STIMER0_COUNT, rdmsr(HV_MSR_TIME_REF_COUNT) + MS_100NS * (uint64_t)argument);
    return 0;
}

static uint64_t read_message(void *argument)
{
    uint32_t type = *(uint32_t *)(message_page[1] + 256 * SINT);
    *(uint32_t *)(message_page[1] + 256 * SINT) = 0;
    wrmsr(HV_MSR_EOM, 0);
    wrmsr(HV_MSR_SIMP, 0);
    (void)argument;
    return type;
}

static const struct {
    const char *name;
    vtl1_function start;
} periodic_timers[] = {{"local APIC timer", start_apic_timer}, {"synthetic timer", start_direct_timer}};

static void check_timers(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(periodic_timers); i++) {
        const char *name = periodic_timers[i].name;
        forget();
        vsm_run(periodic_timers[i].start, (void *)PERIOD_MS);
        bool came = WAIT_FOR(counts[1][0].timer >= 5, LIMIT_MS);
        report(came, "VTL1's %s preempts VTL0 that spins with interrupts off: %u times", name, counts[1][0].timer);

        /* VTL0 sleeps; its own timer ends that at last. A switch may end it too (VSM-059). */
        forget();
        uint64_t end = rdtsc() + tsc_from_us(LIMIT_MS * 1000);
        apic_timer_start(APIC_TIMER_ONE_SHOT, VECTOR_LOW, (uint32_t)(apic_frequency / 1000 * 20 * PERIOD_MS));
        while (counts[1][0].timer < 5 && !counts[0][0].low && rdtsc() < end)
            halt_until_interrupt();
        interrupts_off();
        apic_timer_stop();
        report(counts[1][0].timer >= 5, "and that sleeps: %u times", counts[1][0].timer);
        vsm_run(stop_timers, NULL);
        open_interrupts();
        uint32_t after = counts[1][0].timer;
        wait_us(4000 * PERIOD_MS);
        report(counts[1][0].timer == after, "and is silent when off");
    }

    forget();
    vsm_run(start_message_timer, (void *)PERIOD_MS);
    bool came = WAIT_FOR(counts[1][0].timer == 1, LIMIT_MS);
    uint64_t in_vtl0 = *(uint32_t *)(message_page[0] + 256 * SINT), type = vsm_run(read_message, NULL);
    report(came && type == TIMER_MESSAGE && !in_vtl0, "a timer message of VTL1 comes to VTL1's page: 0x%lx", type);
    vsm_run(stop_timers, NULL);
}

/* Both timers run at once, each VTL waits for its own. */
static uint64_t wait_in_vtl1(void *argument)
{
    (void)argument;
    interrupts_on();
    uint64_t in_between = 0;
    WAIT_FOR(counts[1][0].timer >= 10, LIMIT_MS);
    in_between = counts[0][0].timer;
    interrupts_off();
    return in_between;
}

static void check_both_timers(void)
{
    forget();
    vsm_run(start_apic_timer, (void *)PERIOD_MS);
    start_direct_timer((void *)PERIOD_MS);
    interrupts_on();
    bool came = WAIT_FOR(counts[0][0].timer >= 5 && counts[1][0].timer >= 5, LIMIT_MS);
    report(came, "timers of both VTLs: %u and %u", counts[0][0].timer, counts[1][0].timer);
    interrupts_off();
    forget();
    uint64_t in_between = vsm_run(wait_in_vtl1, NULL);
    report(counts[1][0].timer >= 10 && in_between == 0, "VTL0's is silent while VTL1 runs: %lu", in_between);
    interrupts_on();
    report(WAIT_FOR(counts[0][0].timer >= 1, LIMIT_MS), "and comes then: %u", counts[0][0].timer);
    interrupts_off();
    vsm_run(stop_timers, NULL);
    stop_timers(NULL);
    open_interrupts();
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

static uint64_t wait_for_device(void *argument)
{
    pit_one_shot(PIT_HZ / 200); /* here, so that it cannot be early */
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
    interrupts_on();
    uint64_t meanwhile = vsm_run(wait_for_device, (void *)20000);
    came = WAIT_FOR(counts[0][0].device >= 1, LIMIT_MS);
    interrupts_off();
    ioapic_mask(ioapic_pin_of_irq(0));
    report(meanwhile == 0 && came && counts[1][0].device == 0, "a device's interrupt is VTL0's: %lu meanwhile, %u then",
           meanwhile, counts[0][0].device);
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

/* ---- between processors ---- */

static volatile bool leave, spinning;

static void spin_deaf(void *argument)
{
    (void)argument;
    interrupts_off();
    spinning = true;
    while (!leave)
        cpu_relax();
    interrupts_on();
    spinning = false;
}

static uint64_t ipi_from_vtl1(void *argument)
{
    apic_send_ipi(smp_cpu(1)->apic_id, (uint8_t)(uint64_t)argument);
    return 0;
}

static uint64_t nmi_from_vtl1(void *argument)
{
    (void)argument;
    apic_icr_write(APIC_DELIVERY_NMI | APIC_LEVEL_ASSERT, smp_cpu(1)->apic_id);
    return 0;
}

static volatile uint32_t in_vtl1_low, in_vtl1_nmi;

static uint64_t stay_in_vtl1(void *argument)
{
    (void)argument;
    spinning = true;
    interrupts_on();
    WAIT_FOR(leave, LIMIT_MS);
    wait_us(5000);
    interrupts_off();
    in_vtl1_low = counts[0][1].low, in_vtl1_nmi = counts[0][1].nmi;
    spinning = false;
    return 0;
}

static void call_and_stay(void *argument)
{
    vsm_run(stay_in_vtl1, argument);
}

static void begin(cpu_function function)
{
    forget();
    leave = spinning = false;
    smp_run_async(1, function, NULL);
    WAIT_FOR(spinning, LIMIT_MS);
}

static void check_processors(void)
{
    uint64_t entries = vtl1_of(1)->entries[ENTRY_INTERRUPT];
    begin(spin_deaf);
    vsm_run(ipi_from_vtl1, (void *)VECTOR_LOW);
    report(WAIT_FOR(counts[1][1].low == 1, LIMIT_MS) && counts[0][1].low == 0 &&
               vtl1_of(1)->entries[ENTRY_INTERRUPT] == entries + 1,
           "an IPI from VTL1 enters VTL1 of a processor that spins with interrupts off");
    hv_send_ipi(HV_VTL(1), VECTOR_LOW, 2);
    report(WAIT_FOR(counts[1][1].low == 2, LIMIT_MS), "one by hypercall too");
    vsm_run(nmi_from_vtl1, NULL);
    report(WAIT_FOR(counts[1][1].nmi == 1, LIMIT_MS) && counts[0][1].nmi == 0, "an NMI from VTL1 too");
    leave = true;
    smp_wait(1);

    forget();
    wait_us(2000); /* it sleeps again */
    vsm_run(ipi_from_vtl1, (void *)VECTOR_LOW);
    report(WAIT_FOR(counts[1][1].low == 1, LIMIT_MS), "VTL1 of a processor that sleeps is entered by an IPI");
    vsm_run(ipi_from_vtl1, (void *)VECTOR_LOW);
    report(WAIT_FOR(counts[1][1].low == 2, LIMIT_MS), "again");
    apic_send_ipi(smp_cpu(1)->apic_id, VECTOR_LOW);
    report(WAIT_FOR(counts[0][1].low == 1, LIMIT_MS) && counts[1][1].low == 2, "and VTL0 by one from VTL0");

    begin(call_and_stay);
    apic_send_ipi(smp_cpu(1)->apic_id, VECTOR_LOW);
    apic_icr_write(APIC_DELIVERY_NMI | APIC_LEVEL_ASSERT, smp_cpu(1)->apic_id);
    wait_us(10000);
    leave = true;
    smp_wait(1);
    report(in_vtl1_low == 0 && in_vtl1_nmi == 0, "an IPI and an NMI of VTL0 wait while VTL1 runs: %u %u", in_vtl1_low,
           in_vtl1_nmi);
    report(WAIT_FOR(counts[0][1].low == 1 && counts[0][1].nmi == 1, LIMIT_MS), "and come after the return");
    report(counts[1][1].low == 0 && counts[1][1].nmi == 0, "VTL1 has seen neither");

    begin(spin_deaf);
    uint32_t first = 20;
    for (uint32_t i = 1; i <= first; i++) {
        vsm_run(ipi_from_vtl1, (void *)VECTOR_LOW);
        if (!WAIT_FOR(counts[1][1].low == i, LIMIT_MS))
            break;
    }
    report(counts[1][1].low == first, "%u of %u IPIs came, one after the other", counts[1][1].low, first);
    leave = true;
    smp_wait(1);
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
