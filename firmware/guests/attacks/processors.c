/* SPDX-License-Identifier: Apache-2.0 */
/* Other processors, and the second address of the ROM. */
#include "attacks.h"

#define ROM_PAGE 0xff000ull /* found again at the end of the first 4 GiB */
#define ROM_ALIAS 0xfffff000ull

struct elsewhere {
    const char *name;
    attempted function;
    unsigned place;
    uint8_t wanted;
};

static void attempt_elsewhere(void *argument)
{
    const struct elsewhere *what = argument;
    uint64_t own[64];
    memset(own, 0x11, sizeof own);
    warden_clear(POLICY_ABANDON);
    uint8_t *target = place_at[what->place] + 0x600;
    enum outcome outcome = attempt(what->function, target, own);
    bool right = told(outcome, what->wanted, (uint64_t)target, (uint64_t)target, true) &&
                 !holds_secret(own, sizeof own) && intact(what->place);
    told_row(what->name, right, outcome);
}

static volatile uint64_t hammered_wrong;

static void hammer(void *argument)
{
    for (unsigned i = 0; i < (uint64_t)argument; i++) {
        uint64_t own = FILL;
        warden_clear(POLICY_ABANDON);
        uint8_t *target = place_at[SECRETS] + 8 * (i % 512);
        enum outcome outcome = attempt(i % 2 ? load : store, target, &own);
        if (!told(outcome, i % 2 ? R : W, (uint64_t)target, (uint64_t)target, true) || own != FILL)
            atomic_add(&hammered_wrong, 1);
    }
}

void processor_rows(void)
{
    static const struct elsewhere there[] = {
        {"another processor loads from VTL1's data", load, SECRETS, R},
        {"another processor stores to VTL1's data", store, SECRETS, W},
        {"another processor stores to kernel text", store, KERNEL, W},
        {"another processor fetches from VTL1's data", call_into, SECRETS, X},
    };
    begin_class(PROCESSORS);
    for (unsigned i = 0; i < ARRAY_SIZE(there); i++)
        if (smp_count() > 1) {
            smp_run(1, attempt_elsewhere, (void *)&there[i]);
        } else {
            row_not_here(there[i].name, "there is none");
        }
    hammered_wrong = 0;
    smp_run_all(hammer, (void *)50);
    row(!hammered_wrong && intact(SECRETS), "all processors at once, again and again",
        hammered_wrong ? "some got through" : "each is told of each");

    const char *name = "the ROM's second address";
    uint16_t status = protect(ROM_PAGE, 1, RIGHTS_NONE);
    if (status) {
        row_skipped(name, "VTL1 protects the first one", status);
    } else {
        warden_clear(POLICY_ABANDON);
        enum outcome outcome = attempt(load, (void *)(ROM_ALIAS + 8), scratch);
        told_row(name, outcome == OUTCOME_ABANDONED && warden()->count == 1 && (intercept(0)->gpa & 0xfff) == 8, outcome);
        warden_clear(POLICY_ABANDON);
        outcome = attempt(load, (void *)(ROM_PAGE + 8), scratch);
        told_row("the ROM", told(outcome, R, ROM_PAGE + 8, ROM_PAGE + 8, true), outcome);
        protect(ROM_PAGE, 1, RIGHTS_ALL);
    }
    report_prefix_pop();
}
