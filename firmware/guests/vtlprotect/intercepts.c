/* SPDX-License-Identifier: Apache-2.0 */
/* Intercepts one after the other, on all processors, and by the VP assist page. */
#include "parts.h"

#define VECTOR_TICK 0x61
#define CAPABILITY_INTERCEPT_PAGE (1ull << 27)
#define CONFIG_INTERCEPT_PAGE (1ull << 12)

ACCESS(access_copy, "movq (%rdi), %rax\n\tmovq %rax, 4096(%rdi)");

static volatile uint64_t freed;

static void free_slot(struct frame *frame)
{
    (void)frame;
    warden()->slot->type = 0;
    freed++;
    apic_eoi();
}

static uint64_t start_timer(void *argument)
{
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_TICK, (uint32_t)(uint64_t)argument);
    return 0;
}

static uint64_t stop_timer(void *argument)
{
    (void)argument;
    apic_timer_stop();
    return 0;
}

void check_several(void)
{
    fill(0), fill(1);
    set_rights(0, RIGHTS_NONE), set_rights(1, RIGHTS_R);
    warden_clear(POLICY_OPEN);
    attempt(access_copy, data_of(0), scratch);
    report(warden()->count == 2 && intercept(0)->gpa == (uint64_t)data_of(0) && intercept(0)->access == ACCESS_READ &&
               intercept(1)->gpa == (uint64_t)data_of(1) && intercept(1)->access == ACCESS_WRITE,
           "a read and a write, one after the other: %u intercepts", warden()->count);
    report(*(uint64_t *)data_of(1) == DATA, "and both are made");
    for (unsigned i = 0; i < 3; i++) {
        set_rights(0, RIGHTS_NONE);
        warden_clear(POLICY_OPEN);
        attempt(access_read, data_of(0), scratch);
        if (warden()->count != 1 || scratch[0] != DATA)
            report(false, "the same again: %u intercepts", warden()->count);
    }
    report(true, "the same page again and again");

    warden_clear(POLICY_OPEN);
    for (unsigned i = 0; i < 50; i++)
        vsm_run(look, data_of(0));
    set_rights(0, RIGHTS_NONE);
    for (unsigned i = 0; i < 50; i++)
        vsm_run(look, data_of(0));
    report(intercepted(0), "a protection outlives VTL switches");

    /* VTL1 leaves the first message where it lies. The access is made again until its timer has taken it away. */
    uint64_t frequency = apic_timer_frequency();
    interrupt_set_handler_of(1, VECTOR_TICK, free_slot);
    scratch[0] = 0;
    warden_clear(POLICY_LEAVE);
    vsm_run(start_timer, (void *)(frequency / 20));
    attempt(access_read, data_of(0), scratch);
    vsm_run(stop_timer, NULL);
    report(warden()->count >= 2 && scratch[0] == DATA && freed, "a slot that is in use loses no intercept: %u of them",
           warden()->count);
    set_rights(0, RIGHTS_ALL);
}

/* ---- all processors ---- */

static volatile uint64_t wrong_intercepts;

static void access_own_page(void *argument)
{
    (void)argument;
    unsigned page = this_cpu()->index;
    uint64_t own[8] = {0};
    warden_clear(POLICY_OPEN);
    attempt(access_read, data_of(page), own);
    if (warden()->count != 1 || intercept(0)->gpa != (uint64_t)data_of(page) || own[0] != DATA ||
        intercept(0)->vp != this_cpu()->index)
        atomic_add(&wrong_intercepts, 1);
}

/* mov (%rdi), %rax; incq (%rsi); jmp: until a right is taken away */
ACCESS(read_for_ever, "1: movq (%rdi), %rax\n\tincq (%rsi)\n\tjmp 1b");
static volatile uint64_t turns;
static volatile bool ended;

static void read_in_a_loop(void *argument)
{
    warden_clear(POLICY_ABANDON);
    attempt(read_for_ever, argument, (void *)&turns);
    ended = true;
}

static uint64_t take_and_look(void *argument)
{
    protect((uint64_t)argument, 1, RIGHTS_NONE);
    return turns;
}

void check_processors(void)
{
    for (unsigned i = 0; i < smp_count(); i++)
        fill(i);
    protect((uint64_t)pages, smp_count() * PAGE_SIZE, RIGHTS_NONE);
    smp_run_all(access_own_page, NULL);
    report(wrong_intercepts == 0, "all %u at once: %lu were wrong", smp_count(), wrong_intercepts);
    protect((uint64_t)pages, smp_count() * PAGE_SIZE, RIGHTS_ALL);
    if (smp_count() == 1) {
        report_skip("another processor: there is none");
        return;
    }
    turns = 0, ended = false;
    smp_run_async(1, read_in_a_loop, data_of(1));
    WAIT_FOR(turns > 10, LIMIT_MS);
    uint64_t then = vsm_run(take_and_look, data_of(1));
    bool in_time = WAIT_FOR(ended, LIMIT_MS);
    report(in_time && turns - then <= 1, "a processor that reads a page for ever does no more of it: %lu times after %lu",
           turns - then, then);
    report(warden_of(1)->count == 1 && warden_of(1)->log[0].memory.vp == 1 &&
               warden_of(1)->log[0].memory.gpa == (uint64_t)data_of(1),
           "and its own VTL1 hears of it");
    set_rights(1, RIGHTS_ALL);
    smp_wait(1);
}

/* ---- by the VP assist page ---- */

void check_intercept_page(void)
{
    if (!(hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CAPABILITIES) & CAPABILITY_INTERCEPT_PAGE)) {
        report_skip("not offered");
        return;
    }
    uint64_t config = vsm_run(config_of_vtl1, NULL);
    hv_expect(vsm_run(set_config, (void *)(config | CONFIG_INTERCEPT_PAGE)), 0, "InterceptPage on");
    report(vsm_run(config_of_vtl1, NULL) == (config | CONFIG_INTERCEPT_PAGE), "reads back");
    uint64_t before = vtl1_of(0)->entries[ENTRY_INTERCEPT];
    fill(0);
    set_rights(0, RIGHTS_NONE);
    warden_clear(POLICY_OPEN);
    attempt(access_read, data_of(0), scratch);
    report(vtl1_of(0)->entries[ENTRY_INTERCEPT] == before + 1 && warden()->count == 1 && scratch[0] == DATA,
           "VTL1 is entered by an intercept: %u", warden()->count);
    report(warden()->log[0].type == MESSAGE_MEMORY && intercept(0)->gpa == (uint64_t)data_of(0) && !warden()->slot->type,
           "with the message in the VP assist page");
    hv_expect(vsm_run(set_config, (void *)config), 0, "and off again");
    set_rights(0, RIGHTS_NONE);
    warden_clear(POLICY_OPEN);
    attempt(access_read, data_of(0), scratch);
    report(vtl1_of(0)->entries[ENTRY_INTERCEPT] == before + 1 && warden()->count == 1, "then by an interrupt");
    set_rights(0, RIGHTS_ALL);
}
