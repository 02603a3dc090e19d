/* SPDX-License-Identifier: Apache-2.0 */
/* Virtual interrupt notification assist: how VTL1 learns that VTL0 has an interrupt to take. TLFS 15.12.4. */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define VECTOR_VINA 0x71
#define VECTOR_VTL0 0x41
#define SILENCE_US 10000
#define LIMIT_MS 1000

static volatile uint32_t notified, taken;
static volatile bool with_eoi = true;

static void take_vina(struct frame *frame)
{
    (void)frame;
    notified++;
    if (with_eoi)
        apic_eoi();
}

static void take(struct frame *frame)
{
    (void)frame;
    taken++;
    apic_eoi();
}

static uint64_t set_vina(void *argument)
{
    return hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VINA, (uint64_t)argument, 0) & 0xffff;
}

static uint64_t get_vina(void *argument)
{
    (void)argument;
    return hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VINA);
}

static uint64_t vina_of_vtl0(void *argument)
{
    (void)argument;
    return hv_set_register(HV_SELF_VP, HV_VTL(0), HV_REGISTER_VSM_VINA, VINA_ENABLED | VECTOR_VINA, 0) & 0xffff;
}

struct seen {
    uint32_t first, second, third, fourth;
    uint8_t asserted, after_eoi, at_entry;
};

static void send_to_vtl0(void)
{
    hv_send_ipi(HV_VTL(0), VECTOR_VTL0, 1);
    interrupts_on();
    WAIT_FOR(notified, SILENCE_US / 1000);
    wait_us(SILENCE_US);
    interrupts_off();
}

/* Two interrupts for VTL0 while VTL1 runs: one notification; then the flag is cleared: another. */
static uint64_t be_notified(void *argument)
{
    struct seen *seen = argument;
    volatile struct hv_assist *assist = vtl1_self()->assist;
    seen->at_entry = assist->vina_asserted;
    notified = 0;
    send_to_vtl0();
    seen->first = notified;
    seen->asserted = assist->vina_asserted & 1;
    send_to_vtl0();
    seen->second = notified;
    seen->after_eoi = assist->vina_asserted & 1;
    assist->vina_asserted = 0;
    send_to_vtl0();
    seen->third = notified;
    return 0;
}

static uint64_t read_flag(void *argument)
{
    (void)argument;
    return vtl1_self()->assist->vina_asserted & 1;
}

static uint64_t clear_flag(void *argument)
{
    (void)argument;
    vtl1_self()->assist->vina_asserted = 0;
    return 0;
}

static uint64_t notify_once(void *argument)
{
    (void)argument;
    notified = 0;
    send_to_vtl0();
    return notified;
}

static uint64_t notify_twice_without_eoi(void *argument)
{
    (void)argument;
    notified = 0;
    for (unsigned i = 0; i < 2; i++) {
        vtl1_self()->assist->vina_asserted = 0;
        send_to_vtl0();
    }
    return notified;
}

static void let_vtl0_take(void)
{
    interrupts_on();
    wait_us(2000);
    interrupts_off();
}

static void check_register(void)
{
    uint64_t value[2];
    report(vsm_run(get_vina, NULL) == 0, "off at first");
    hv_expect(hv_get_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_VINA, value), HV_STATUS_ACCESS_DENIED,
              "VTL0 does not see VTL1's");
    hv_expect(vsm_run(vina_of_vtl0, NULL), HV_STATUS_INVALID_PARAMETER, "VTL0 has none");
    hv_expect(vsm_run(set_vina, (void *)(uint64_t)(VINA_ENABLED | 5)), HV_STATUS_INVALID_REGISTER_VALUE, "vector 5");
    hv_expect(vsm_run(set_vina, (void *)(uint64_t)(VINA_ENABLED | VECTOR_VINA)), 0, "vector 0x71");
    report(vsm_run(get_vina, NULL) == (VINA_ENABLED | VECTOR_VINA), "reads back: 0x%lx", vsm_run(get_vina, NULL));
}

static void check_notification(void)
{
    struct seen seen;
    taken = 0;
    interrupts_on(); /* VTL0 would take them at once */
    vsm_run(be_notified, &seen);
    interrupts_off();
    report(!seen.at_entry && seen.first == 1, "an interrupt for VTL0 notifies VTL1: %u times", seen.first);
    report(seen.asserted, "which the VP assist page says too");
    report(seen.second == 1, "a second one does not: %u times", seen.second);
    report(seen.after_eoi, "an EOI does not clear the flag");
    report(seen.third == 2, "with the flag cleared there is another: %u times", seen.third);
    let_vtl0_take();
    report(taken >= 1, "VTL0 takes its interrupts then: %u", taken);
    report(vsm_run(read_flag, NULL) == 1, "the flag stays to the next entry");
    vsm_run(clear_flag, NULL);

    uint64_t deaf = vsm_run(notify_once, NULL); /* interrupts are off in VTL0 */
    report(deaf == 0, "nothing when VTL0 has interrupts off: %lu times", deaf);
    let_vtl0_take();
}

static void check_automatic(void)
{
    vsm_run(set_vina, (void *)(uint64_t)(VINA_ENABLED | VINA_AUTO_RESET | VECTOR_VINA));
    vsm_run(clear_flag, NULL);
    interrupts_on();
    uint64_t first = vsm_run(notify_once, NULL), flag = vsm_run(read_flag, NULL), again = vsm_run(notify_once, NULL);
    interrupts_off();
    report(first == 1 && flag == 0 && again == 1, "with auto reset the flag is clear at the next entry: %lu %lu %lu", first,
           flag, again);
    let_vtl0_take();

    vsm_run(set_vina, (void *)(uint64_t)(VINA_ENABLED | VINA_AUTO_RESET | VINA_AUTO_EOI | VECTOR_VINA));
    with_eoi = false;
    interrupts_on();
    uint64_t count = vsm_run(notify_twice_without_eoi, NULL);
    interrupts_off();
    with_eoi = true;
    report(count == 2, "with auto EOI it comes twice without one: %lu times", count);
    let_vtl0_take();

    vsm_run(set_vina, (void *)(uint64_t)VECTOR_VINA);
    vsm_run(clear_flag, NULL);
    interrupts_on();
    count = vsm_run(notify_once, NULL);
    interrupts_off();
    report(count == 0, "nothing when it is off: %lu times", count);
    let_vtl0_take();
}

static volatile bool in_vtl1;

static void send_from_second(void *argument)
{
    while (!in_vtl1)
        cpu_relax();
    apic_send_ipi(smp_cpu(0)->apic_id, (uint8_t)(uint64_t)argument);
}

static uint64_t wait_for_notification(void *argument)
{
    (void)argument;
    notified = 0;
    in_vtl1 = true;
    interrupts_on();
    WAIT_FOR(notified, LIMIT_MS);
    interrupts_off();
    return notified;
}

static void check_second_processor(void)
{
    vsm_run(set_vina, (void *)(uint64_t)(VINA_ENABLED | VINA_AUTO_RESET | VECTOR_VINA));
    vsm_run(clear_flag, NULL);
    taken = 0;
    interrupts_on();
    smp_run_async(1, send_from_second, (void *)VECTOR_VTL0);
    uint64_t count = vsm_run(wait_for_notification, NULL);
    smp_wait(1);
    report(count == 1 && WAIT_FOR(taken == 1, LIMIT_MS), "an IPI from another processor's VTL0 notifies VTL1: %lu times",
           count);
    interrupts_off();
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    interrupt_set_handler_of(0, VECTOR_VTL0, take);
    interrupt_set_handler_of(1, VECTOR_VINA, take_vina);
    smp_start();
    vsm_start();
    check_register();
    check_notification();
    check_automatic();
    if (smp_count() > 1)
        check_second_processor();
    else
        report_skip("an IPI from another processor");
    return report_summary();
}
