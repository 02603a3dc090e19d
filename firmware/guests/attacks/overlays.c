/* SPDX-License-Identifier: Apache-2.0 */
/* Overlay pages of VTL0 over protected memory. Those of VTL1 that VTL0 sees: timepages.c. */
#include "attacks.h"

#define VECTOR_TIMER_MESSAGE 0x63
#define SINT 3

struct overlay_row {
    const char *name;
    uint32_t msr;
};

static const struct overlay_row pages[] = {
    {"hypercall page", HV_MSR_HYPERCALL},       {"SIMP", HV_MSR_SIMP}, {"SIEFP", HV_MSR_SIEFP},
    {"VP assist page", HV_MSR_VP_ASSIST_PAGE}, {"reference TSC page", HV_MSR_REFERENCE_TSC},
};
static uint32_t overlay_msr;
static uint64_t overlay_old;

static void look_through(void *target, void *memory)
{
    wrmsr(overlay_msr, (uint64_t)target | 1);
    *(uint64_t *)memory = *(volatile uint64_t *)target;
    for (unsigned i = 0; i < 16; i++)
        ((uint64_t *)memory)[i] = ((volatile uint64_t *)target)[i * 31];
    wrmsr(overlay_msr, overlay_old);
}

static void write_through(void *target, void *memory)
{
    (void)memory;
    wrmsr(overlay_msr, (uint64_t)target | 1);
    ((volatile uint64_t *)target)[1] = 0x4141414141414141;
    ((volatile uint64_t *)target)[511] = 0x4141414141414141;
    wrmsr(overlay_msr, overlay_old);
}

/* It may see the overlay, or nothing. What lies below is VTL1's before, meanwhile and after. */
static void overlay_over(const char *name, unsigned place)
{
    char full[96], detail[96];
    snprintf(full, sizeof full, "%s over %s", name, place_names[place]);
    clear_scratch();
    warden_clear(POLICY_ABANDON);
    enum outcome looked = attempt(look_through, place_at[place], scratch);
    wrmsr(overlay_msr, overlay_old);
    bool seen = holds_secret(scratch, sizeof scratch), changed = !intact(place);
    warden_clear(POLICY_ABANDON);
    enum outcome written = attempt(write_through, place_at[place], scratch);
    wrmsr(overlay_msr, overlay_old);
    changed |= !intact(place);
    warden_clear(POLICY_ABANDON);
    enum outcome after = attempt(place == SECRETS ? load : store, place_at[place] + 8, scratch);
    bool again = after == OUTCOME_ABANDONED && warden()->count == 1;
    snprintf(detail, sizeof detail, "looking ends by %u, writing by %u; %s, %s, %s", looked, written,
             seen ? "SEEN" : "not seen", changed ? "CHANGED" : "not changed", again ? "protected as before" : "OPEN");
    row(!seen && !changed && again && intact(place), full, detail);
}

static uint64_t look_in_vtl1(void *argument)
{
    return *(volatile uint64_t *)argument;
}

/* VTL1 protects a page while an overlay of VTL0's hides it. */
static void protect_below(void)
{
    uint64_t *page = page_alloc();
    for (unsigned i = 0; i < PAGE_SIZE / 8; i++)
        page[i] = SECRET;
    wrmsr(HV_MSR_SIMP, (uint64_t)page | 1);
    uint16_t status = protect((uint64_t)page, 1, RIGHTS_NONE);
    warden_clear(POLICY_ABANDON);
    clear_scratch();
    enum outcome meanwhile = attempt(load, page, scratch);
    bool seen = holds_secret(scratch, sizeof scratch);
    wrmsr(HV_MSR_SIMP, 0);
    warden_clear(POLICY_ABANDON);
    enum outcome after = attempt(load, page + 1, scratch);
    seen |= holds_secret(scratch, sizeof scratch);
    char detail[80];
    snprintf(detail, sizeof detail, "status 0x%x, looking ends by %u, then by %u", status, meanwhile, after);
    row(status == 0 && !seen && after == OUTCOME_ABANDONED && vsm_run(look_in_vtl1, page) == SECRET,
        "a protection of a page that is covered", detail);
}

static volatile uint64_t messages;

static void take_timer_message(struct frame *frame)
{
    (void)frame;
    messages++;
    apic_eoi();
}

/* A message that the hypervisor writes for VTL0 goes into VTL0's overlay, or nowhere. */
static void message_over(unsigned place)
{
    interrupt_set_handler(VECTOR_TIMER_MESSAGE, take_timer_message);
    wrmsr(HV_MSR_SIMP, (uint64_t)place_at[place] | 1);
    wrmsr(HV_MSR_SCONTROL, 1);
    wrmsr(HV_MSR_SINT0 + SINT, VECTOR_TIMER_MESSAGE);
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_SINT(SINT) | STIMER_AUTO_ENABLE | STIMER_PERIODIC);
    wrmsr(HV_MSR_STIMER0_COUNT, MS_100NS);
    interrupts_on();
    wait_us(20000);
    interrupts_off();
    wrmsr(HV_MSR_STIMER0_CONFIG, 0);
    bool changed = !intact(place);
    wrmsr(HV_MSR_SIMP, 0);
    wrmsr(HV_MSR_SINT0 + SINT, SINT_MASKED);
    char name[80], detail[60];
    snprintf(name, sizeof name, "timer messages, SIMP over %s", place_names[place]);
    snprintf(detail, sizeof detail, "%lu interrupts, %s", messages, changed ? "CHANGED" : "not changed");
    row(!changed && intact(place), name, detail);
}

void overlay_rows(void)
{
    begin_class(OVERLAY);
    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        overlay_msr = pages[i].msr;
        overlay_old = rdmsr(overlay_msr);
        overlay_over(pages[i].name, SECRETS);
        overlay_over(pages[i].name, CODE);
    }
    message_over(SECRETS);
    message_over(CODE);
    protect_below();
    time_page_rows();
    report_prefix_pop();
}
