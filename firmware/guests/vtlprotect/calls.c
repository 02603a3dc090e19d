/* SPDX-License-Identifier: Apache-2.0 */
/* HvCallModifyVtlProtectionMask: who may call it, lists, and which rights there are. */
#include "parts.h"

#define NO_PAGE 0xfffffff0ull /* no RAM is there */
#define ANOTHER_PARTITION 42

static uint64_t call_by(unsigned vtl, struct protect_call call)
{
    return vtl ? vsm_run(protect_call_in_vtl1, &call) : protect_call(&call);
}

static uint64_t page_number(unsigned page)
{
    return (uint64_t)pages / PAGE_SIZE + page;
}

void check_before(void)
{
    uint64_t number = page_number(0);
    struct protect_call call = {HV_SELF_PARTITION, RIGHTS_R, HV_VTL(0), false, 0, 1, &number};
    hv_expect(call_by(1, call), HV_STATUS_ACCESS_DENIED, "VTL1, before protection is enabled");
    hv_expect(call_by(0, call), HV_STATUS_ACCESS_DENIED, "VTL0");
}

void check_callers(void)
{
    uint64_t number = page_number(0);
    struct protect_call call = {HV_SELF_PARTITION, RIGHTS_NONE, HV_VTL(0), false, 0, 1, &number};
    struct protect_call own = call, none = call, above = call, reserved = call, other = call;
    own.input_vtl = HV_VTL(1), none.input_vtl = HV_OWN_VTL, above.input_vtl = HV_VTL(2), reserved.input_vtl = 0x40;
    other.partition = ANOTHER_PARTITION;
    hv_expect(call_by(0, call), HV_STATUS_ACCESS_DENIED, "VTL0, of itself");
    hv_expect(call_by(0, own), HV_STATUS_ACCESS_DENIED, "VTL0, in VTL1's name");
    hv_expect(call_by(0, none), HV_STATUS_ACCESS_DENIED, "VTL0, without a target");
    hv_expect(call_by(1, above), HV_STATUS_ACCESS_DENIED, "VTL1, of VTL2");
    hv_expect(call_by(1, reserved), HV_STATUS_INVALID_PARAMETER, "reserved bits of the target");
    hv_expect(call_by(1, other), HV_STATUS_INVALID_PARTITION_ID, "another partition");
    fill(0);
    report(!intercepted(0), "and nothing has changed");
    const struct {
        const char *name;
        struct protect_call call;
    } readings[] = {{"VTL0 as the target", call}, {"VTL1 as the target: those below", own}, {"no target: those below", none}};
    for (unsigned i = 0; i < ARRAY_SIZE(readings); i++) {
        uint64_t result = call_by(1, readings[i].call);
        report(result == HV_REPS(1) && intercepted(0), "%s: 0x%lx", readings[i].name, result);
        set_rights(0, RIGHTS_ALL);
    }
}

void check_lists(void)
{
    uint64_t numbers[PROTECT_SLOW_PAGES], hole[] = {page_number(1), NO_PAGE, page_number(2)};
    struct protect_call call = {HV_SELF_PARTITION, RIGHTS_NONE, HV_VTL(0), false, 0, 3, hole};
    uint64_t result = call_by(1, call);
    report((uint16_t)result == HV_STATUS_INVALID_PARAMETER && result >> 32 == 1, "a hole in a list: 0x%lx", result);
    report(intercepted(1) && !intercepted(2), "what lies before it is done");
    call.fast = true;
    result = call_by(1, call);
    report((uint16_t)result == HV_STATUS_INVALID_PARAMETER && result >> 32 == 1, "and by a fast call: 0x%lx", result);
    call.first = 2;
    result = call_by(1, call);
    report(result == HV_REPS(3) && intercepted(2), "a call that goes on behind it: 0x%lx", result);
    set_rights(1, RIGHTS_ALL), set_rights(2, RIGHTS_ALL);

    for (unsigned i = 0; i < PROTECT_SLOW_PAGES; i++)
        numbers[i] = page_number(i);
    struct protect_call all = {HV_SELF_PARTITION, RIGHTS_NONE, HV_VTL(0), false, 0, PROTECT_SLOW_PAGES, numbers};
    result = call_by(1, all);
    report(result == HV_REPS(PROTECT_SLOW_PAGES) && intercepted(0) && intercepted(PROTECT_SLOW_PAGES - 1) &&
               !intercepted(PROTECT_SLOW_PAGES),
           "%u pages in one call: 0x%lx", PROTECT_SLOW_PAGES, result);
    all.fast = true, all.flags = RIGHTS_ALL, all.count = PROTECT_FAST_PAGES;
    result = call_by(1, all);
    report(result == HV_REPS(PROTECT_FAST_PAGES) && !intercepted(PROTECT_FAST_PAGES - 1) && intercepted(PROTECT_FAST_PAGES),
           "%u by a fast one: 0x%lx", PROTECT_FAST_PAGES, result);
    protect((uint64_t)pages, PAGES * PAGE_SIZE, RIGHTS_ALL);
    uint64_t twice[] = {page_number(3), page_number(3)};
    result = call_by(1, (struct protect_call){HV_SELF_PARTITION, RIGHTS_NONE, HV_VTL(0), false, 0, 2, twice});
    report(result == HV_REPS(2) && intercepted(3), "a page twice");
    set_rights(3, RIGHTS_ALL);
    hv_expect(call_by(1, (struct protect_call){HV_SELF_PARTITION, RIGHTS_NONE, HV_VTL(0), false, 0, 0, twice}),
              HV_STATUS_INVALID_INPUT, "an empty list");
    hv_expect(call_by(1, (struct protect_call){HV_SELF_PARTITION, RIGHTS_NONE, HV_VTL(0), false, 2, 2, twice}),
              HV_STATUS_INVALID_INPUT, "a list that is over at its start");
}

static bool no_execute; /* this machine can keep VTL0 from executing what it may read */

void check_masks(void)
{
    static const uint32_t legal[] = {0, 0x1, 0x3, 0x5, 0x9, 0xd, 0x7, 0xb, 0xf};
    static const uint32_t illegal[] = {0x2, 0x4, 0x8, 0xc, 0x6, 0xa, 0xe, 0x10, 0x11, 0x800f, 0x80000000};
    no_execute = set_rights(0, RIGHTS_RW) == 0;
    set_rights(0, RIGHTS_ALL);
    for (unsigned i = 0; i < ARRAY_SIZE(legal); i++) {
        uint16_t status = set_rights(0, legal[i]);
        bool without = legal[i] & RIGHT_READ && !(legal[i] & RIGHT_EXECUTE);
        if (without && !no_execute)
            report_skip("mask 0x%x: this machine says status 0x%x", legal[i], status);
        else
            report(status == 0, "mask 0x%x: status 0x%x", legal[i], status);
        set_rights(0, RIGHTS_ALL);
    }
    fill(0);
    for (unsigned i = 0; i < ARRAY_SIZE(illegal); i++) {
        set_rights(0, RIGHTS_ALL);
        uint16_t status = set_rights(0, illegal[i]), stays = !intercepted(0);
        set_rights(0, RIGHTS_NONE);
        uint16_t again = set_rights(0, illegal[i]);
        report(status == HV_STATUS_INVALID_REGISTER_VALUE && again == status && stays && intercepted(0),
               "mask 0x%x: status 0x%x", illegal[i], status);
    }
    set_rights(0, RIGHTS_ALL);
}
