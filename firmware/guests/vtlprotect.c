/* SPDX-License-Identifier: Apache-2.0 */
/* Memory protections and their intercepts, rule by rule: who may protect, what each right allows, what VTL1 is told of an
 * access and what it can do about it. Some parts need a second processor. TLFS 15.5.1, 15.9, 15.13, 15.15.2.
 *
 * mask=N    the default protection mask (15); with 3 VTL1 gives all but a page their other rights
 * reboot    resets the machine after that: protections are gone, and memory is zeroed
 * keep      with reboot: VTL1 says that memory is to stay
 */
#include "vtlprotect/parts.h"

#define CMOS_MARK 0x7d
#define KEPT_PAGE 0x1800000ull /* RAM that no part of the guest lies in */

/* ---- HvRegisterVsmPartitionConfig ---- */

uint64_t config_of_vtl1(void *argument)
{
    (void)argument;
    return hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG);
}

uint64_t set_config(void *config)
{
    return hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, (uint64_t)config, 0);
}

static uint64_t mask_in(uint64_t config)
{
    return (config & VSM_CONFIG_ALL_ACCESS) >> 1;
}

static void check_config(uint64_t mask)
{
    uint64_t config = vsm_run(config_of_vtl1, NULL), value[2];
    report(config & VSM_CONFIG_ENABLE_PROTECTION && mask_in(config) == mask, "on, with the default mask: 0x%lx", config);
    hv_expect(protect_enable(mask == RIGHTS_ALL ? RIGHTS_RW : RIGHTS_ALL), 0, "another default mask is not refused");
    hv_expect(protect_enable(RIGHTS_NONE), 0, "not even none");
    report(vsm_run(config_of_vtl1, NULL) == config, "and stays as it was: 0x%lx", vsm_run(config_of_vtl1, NULL));
    hv_expect(vsm_run(set_config, (void *)(config & ~VSM_CONFIG_ENABLE_PROTECTION)), HV_STATUS_INVALID_REGISTER_VALUE,
              "protection off again");
    hv_expect(vsm_run(set_config, (void *)(config | 1ull << 20)), HV_STATUS_INVALID_REGISTER_VALUE, "a bit that is none");
    report(vsm_run(config_of_vtl1, NULL) == config, "has no effect");
    hv_expect(hv_get_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_PARTITION_CONFIG, value), HV_STATUS_ACCESS_DENIED,
              "VTL0 does not read it");
    hv_expect(hv_set_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_PARTITION_CONFIG, config, 0), HV_STATUS_ACCESS_DENIED,
              "nor writes it");
}

/* ---- default mask ---- */

static uint64_t enable_all_but_a_page(void *argument)
{
    uint64_t mask = (uint64_t)argument;
    uint16_t status = protect_enable((uint32_t)mask);
    if (!status && mask != RIGHTS_ALL) {
        uint64_t page = (uint64_t)pages + (PAGES - 1) * PAGE_SIZE;
        protect(0, 0xa0000, RIGHTS_ALL);
        protect(0x100000, page - 0x100000, RIGHTS_ALL);
        protect(page + PAGE_SIZE, heap_end() - page - PAGE_SIZE, RIGHTS_ALL);
    }
    return status;
}

static void check_default_mask(uint64_t mask)
{
    const unsigned last = PAGES - 1;
    place(last);
    for (unsigned access = 0; access < ARRAY_SIZE(accesses); access++) {
        scratch[0] = 0;
        warden_clear(POLICY_SKIP);
        attempt(accesses[access].function, target_of(access, last), scratch);
        bool allowed = mask & accesses[access].right;
        report(warden()->count == !allowed && happened(access, last) == allowed, "%s with default mask 0x%lx: %u intercepts",
               accesses[access].name, mask, warden()->count);
    }
}

/* ---- reset ---- */

static void reset(void)
{
    if (argument_given("keep"))
        hv_expect(vsm_run(set_config, (void *)(vsm_run(config_of_vtl1, NULL) & ~VSM_CONFIG_ZERO_MEMORY_ON_RESET)), 0,
                  "memory is to stay");
    *(volatile uint64_t *)KEPT_PAGE = DATA;
    protect(KEPT_PAGE, 1, RIGHTS_NONE);
    cmos_write(CMOS_MARK, 1);
    reset_by_0xcf9();
    wait_us(500000);
    abort_run("no reset within 500 ms");
}

static void check_after_reset(void)
{
    fault_clear();
    uint64_t value = 0;
    asm volatile(FAULT_GUARD("movq (%1), %0") : "+r"(value) : "r"(KEPT_PAGE) : "memory");
    report(fault_vector() == FAULT_NONE && value == (argument_given("keep") ? DATA : 0),
           "VTL0 reads a page that it could not: 0x%lx", value);
    *(volatile uint64_t *)KEPT_PAGE = 0;
    uint64_t number = KEPT_PAGE / PAGE_SIZE;
    struct protect_call call = {HV_SELF_PARTITION, RIGHTS_R, HV_VTL(0), false, 0, 1, &number};
    uint64_t status = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS);
    report((status & 0xffff) == 1, "VTL1 is gone: 0x%lx", status);
    hv_expect(protect_call(&call), HV_STATUS_ACCESS_DENIED, "VTL0 may still not protect");
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t mask = argument_number("mask", RIGHTS_ALL);
    bool again = cmos_read(CMOS_MARK) == 1;
    cmos_write(CMOS_MARK, 0);
    vsm_require();
    if (again) {
        report_prefix_push("after a reset");
        check_after_reset();
        report_prefix_pop();
    }
    smp_start();
    vsm_start();
    pages = pages_alloc(PAGES);
    report_prefix_push("not enabled");
    check_before();
    report_prefix_pop();
    protect_listen();
    uint16_t status = (uint16_t)vsm_run(enable_all_but_a_page, (void *)mask);
    status = status ? status : set_rights(0, RIGHTS_NONE);
    if (status) {
        report_skip("this machine protects no memory with default mask 0x%lx: VTL1 is told status 0x%x", mask, status);
        return report_summary();
    }
    report_prefix_push("default mask");
    check_default_mask(mask);
    report_prefix_pop();
    protect((uint64_t)pages, PAGES * PAGE_SIZE, RIGHTS_ALL);
    report_prefix_push("call");
    check_callers();
    check_lists();
    check_masks();
    report_prefix_pop();
    report_prefix_push("configuration");
    check_config(mask);
    report_prefix_pop();
    report_prefix_push("rights");
    check_rights();
    check_own();
    report_prefix_pop();
    report_prefix_push("message");
    check_messages();
    report_prefix_pop();
    report_prefix_push("several");
    check_several();
    report_prefix_pop();
    report_prefix_push("processors");
    check_processors();
    report_prefix_pop();
    report_prefix_push("VP assist page");
    check_intercept_page();
    report_prefix_pop();
    if (argument_given("reboot") && !again && !report_failures())
        reset();
    return report_summary();
}
