/* SPDX-License-Identifier: Apache-2.0 */
/* What each combination of rights allows and refuses, and what VTL1 can do about an access. */
#include "parts.h"

#define GP_CODE 0x18
#define PENDING 1ull
#define WITH_ERROR_CODE (1ull << 8)
#define PENDING_GP (PENDING | WITH_ERROR_CODE | (uint64_t)VECTOR_GP << 16 | (uint64_t)GP_CODE << 32)

static const struct {
    const char *name;
    uint32_t rights;
} combinations[] = {
    {"none", RIGHTS_NONE}, {"r", RIGHTS_R}, {"rx", RIGHTS_RX}, {"rw", RIGHTS_RW}, {"rwx", RIGHTS_ALL},
};

static void check_allowed(unsigned access, const char *rights)
{
    warden_clear(POLICY_ABANDON);
    enum outcome outcome = attempt(accesses[access].function, target_of(access, 0), scratch);
    report(outcome == OUTCOME_RETURNED && warden()->count == 0 && happened(access, 0), "%s with %s", accesses[access].name,
           rights);
}

static void check_refused(unsigned access, uint32_t rights, const char *name)
{
    static const char *const policies[] = {"opened", "skipped", "an exception injected"};
    struct warden *self = warden();
    for (unsigned policy = POLICY_OPEN; policy <= POLICY_INJECT; policy++) {
        fill(0);
        set_rights(0, rights);
        warden_clear(policy);
        self->event[0] = PENDING_GP, self->event[1] = 0;
        enum outcome outcome = attempt(accesses[access].function, target_of(access, 0), scratch);
        bool told = self->count == 1 && self->status == 0 && self->log[0].type == MESSAGE_MEMORY &&
                    self->log[0].memory.access == accesses[access].access &&
                    self->log[0].memory.gpa == (uint64_t)target_of(access, 0);
        bool done = happened(access, 0);
        bool injected = outcome == OUTCOME_EXCEPTION && self->vector == VECTOR_GP && self->error_code == GP_CODE;
        bool right = policy == POLICY_OPEN   ? done && outcome == OUTCOME_RETURNED
                     : policy == POLICY_SKIP ? !done && outcome == OUTCOME_RETURNED
                                             : !done && injected;
        report(told && right, "%s with %s, %s: %u intercepts, access %u to 0x%lx", accesses[access].name, name,
               policies[policy], self->count, self->log[0].memory.access, self->log[0].memory.gpa);
    }
}

void check_rights(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(combinations); i++) {
        uint32_t rights = combinations[i].rights;
        for (unsigned access = 0; access < ARRAY_SIZE(accesses); access++) {
            fill(0);
            uint16_t status = set_rights(0, rights);
            if (status)
                report_skip("%s with %s: this machine says status 0x%x", accesses[access].name, combinations[i].name, status);
            else if (rights & accesses[access].right)
                check_allowed(access, combinations[i].name);
            else
                check_refused(access, rights, combinations[i].name);
        }
    }
    set_rights(0, RIGHTS_ALL);
}

/* VTL1 keeps every right of its own. */
static uint64_t use_in_vtl1(void *argument)
{
    uint64_t *data = argument, result = 0;
    *data = MARK(9);
    ((attempted)(pages + CODE_OFFSET))(NULL, &result);
    return *data == MARK(9) ? result : 0;
}

void check_own(void)
{
    fill(0);
    set_rights(0, RIGHTS_NONE);
    warden_clear(POLICY_ABANDON);
    report(vsm_run(look, data_of(0)) == DATA && vsm_run(use_in_vtl1, data_of(0)) == CODE_RESULT && warden()->count == 0,
           "VTL1 reads, writes and executes what VTL0 may not");
    set_rights(0, RIGHTS_ALL);
    report(*(uint64_t *)data_of(0) == MARK(9), "which VTL0 sees once it may");
}
