/* SPDX-License-Identifier: Apache-2.0 */
/* Registers and hypercalls that are VTL1's. */
#include "attacks.h"

struct status_row {
    const char *name;
    uint16_t (*call)(void);
    uint16_t wanted, or; /* 0: any status but success */
};

#define STATUS(name, result)          \
    static uint16_t name(void)        \
    {                                 \
        uint64_t value[2] = {0};      \
        (void)value;                  \
        return (uint16_t)(result);    \
    }
#define GET(name, vtl, which) STATUS(name, hv_get_register(HV_SELF_VP, vtl, which, value))
#define SET(name, vtl, which, to) STATUS(name, hv_set_register(HV_SELF_VP, vtl, which, to, 0))
#define REGISTER_INTERCEPT_SUSPEND 1
#define CALL_REGISTER_RESULT 0x91
#define CALL_ASSERT_INTERRUPT 0x94
#define CALL_SIGNAL_DIRECT 0xc0
#define CALL_POST_DIRECT 0xc1

GET(get_cr3, HV_VTL(1), HV_REGISTER_CR3)
GET(get_assist, HV_VTL(1), HV_REGISTER_VP_ASSIST_PAGE)
SET(set_rip, HV_VTL(1), HV_REGISTER_RIP, 0x1000)
SET(set_lstar, HV_VTL(1), HV_REGISTER_LSTAR, 0x1000)
SET(set_event, HV_VTL(1), HV_REGISTER_PENDING_EVENT, 1 | VECTOR_UD << 16)
SET(set_vina, HV_VTL(1), HV_REGISTER_VSM_VINA, VINA_ENABLED | 0x40)
SET(set_config, HV_VTL(1), HV_REGISTER_VSM_PARTITION_CONFIG, VSM_CONFIG_ALL_ACCESS)
SET(set_own_config, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, VSM_CONFIG_ALL_ACCESS)
SET(set_secure_config, HV_VTL(1), HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0, 2)
SET(set_own_secure_config, HV_OWN_VTL, HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0, 2)
SET(set_cr_intercept, HV_VTL(1), REGISTER_CR_INTERCEPT, 0)
SET(set_own_cr_intercept, HV_OWN_VTL, REGISTER_CR_INTERCEPT, 3)
SET(set_suspend, HV_VTL(1), REGISTER_INTERCEPT_SUSPEND, 1)

static uint64_t modify(uint8_t input_vtl)
{
    uint64_t page = (uint64_t)place_at[SECRETS] / PAGE_SIZE;
    return protect_call(&(struct protect_call){HV_SELF_PARTITION, RIGHTS_ALL, input_vtl, false, 0, 1, &page});
}

static uint64_t modify_fast(void)
{
    uint64_t page = (uint64_t)place_at[SECRETS] / PAGE_SIZE;
    return protect_call(&(struct protect_call){HV_SELF_PARTITION, RIGHTS_ALL, HV_VTL(0), true, 0, 1, &page});
}

uint64_t call_with(uint64_t control, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    uint64_t *input = hv_input();
    memset(input, 0, PAGE_SIZE);
    input[0] = a, input[1] = b, input[2] = c, input[3] = d;
    return hv_call(control, (uint64_t)input, (uint64_t)hv_output());
}

static uint64_t start_vp(uint32_t vp, uint8_t vtl)
{
    return hv_call(HV_CALL_START_VP, (uint64_t)vsm_vp_input(vp, vtl, vtl1_of(0)), 0);
}

#define SELF HV_SELF_PARTITION
STATUS(modify_own, modify(HV_VTL(0)))
STATUS(modify_named, modify(HV_VTL(1)))
STATUS(modify_unnamed, modify(HV_OWN_VTL))
STATUS(modify_by_registers, modify_fast())
STATUS(install_port, call_with(CALL_INSTALL_INTERCEPT, SELF, 3, 0x80, 0))
STATUS(register_result, call_with(CALL_REGISTER_RESULT, SELF, 0, 0, 0))
STATUS(enable_again, vsm_enable_partition(SELF, 1, 0))
STATUS(enable_more, vsm_enable_partition(SELF, 2, 0))
STATUS(disable_partition, hv_call(0x0e | HV_FAST, SELF, 1))
STATUS(disable_vp, hv_call(0x10 | HV_FAST, SELF, 1ull << 32))
STATUS(enable_own_vp, vsm_enable_vp(HV_SELF_VP, 1, vtl1_of(0)))
STATUS(enable_other_vp, vsm_enable_vp(smp_count() > 1 ? 1 : 0, 1, vtl1_of(0)))
STATUS(start_in_vtl1, start_vp(smp_count() > 1 ? 1 : 0, 1))
STATUS(start_running, start_vp(smp_count() > 1 ? 1 : 0, 0))
STATUS(start_self, start_vp(0, 0))
STATUS(translate, call_with(HV_CALL_TRANSLATE, SELF, HV_SELF_VP, (uint64_t)HV_VTL(1) << 56 | 1, 0x400))
STATUS(assert_interrupt, call_with(CALL_ASSERT_INTERRUPT, SELF, 0, 0, 1ull << 32 | 0x70))
STATUS(signal_direct, call_with(CALL_SIGNAL_DIRECT, SELF, 1ull << 32, 0, 0))
STATUS(post_direct, call_with(CALL_POST_DIRECT, SELF, 1ull << 32, 0, 0))

static const struct status_row status_rows[] = {
    {"a read of VTL1's CR3", get_cr3, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"a read of VTL1's VP assist page register", get_assist, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"a write of VTL1's RIP", set_rip, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"a write of VTL1's LSTAR", set_lstar, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"an exception into VTL1", set_event, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"VTL1's VINA", set_vina, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"VTL1's partition configuration", set_config, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"a partition configuration of its own", set_own_config, HV_STATUS_INVALID_PARAMETER, HV_STATUS_ACCESS_DENIED},
    {"VTL1's secure configuration of VTL0", set_secure_config, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"a secure configuration of its own", set_own_secure_config, HV_STATUS_INVALID_PARAMETER, HV_STATUS_ACCESS_DENIED},
    {"VTL1's register intercepts", set_cr_intercept, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"register intercepts of its own", set_own_cr_intercept, 0, 0},
    {"VTL1's intercept suspension", set_suspend, HV_STATUS_ACCESS_DENIED, HV_STATUS_INVALID_PARAMETER},
    {"rights for itself", modify_own, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"rights for itself, in VTL1's name", modify_named, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"rights for nobody named", modify_unnamed, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"rights for itself, by a fast call", modify_by_registers, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"an intercept of a port", install_port, 0, 0},
    {"an intercept's result", register_result, 0, 0},
    {"VTL1 of the partition again", enable_again, HV_STATUS_INVALID_VTL_STATE, HV_STATUS_INVALID_PARAMETER},
    {"VTL2 of the partition", enable_more, HV_STATUS_INVALID_PARAMETER, HV_STATUS_ACCESS_DENIED},
    {"VTL1 of the partition off", disable_partition, HV_STATUS_INVALID_CODE, HV_STATUS_INVALID_CODE},
    {"VTL1 of a processor off", disable_vp, HV_STATUS_INVALID_CODE, HV_STATUS_INVALID_CODE},
    {"VTL1 of this processor again, with a context of its own", enable_own_vp, 0, 0},
    {"VTL1 of a processor again", enable_other_vp, 0, 0},
    {"a start of a processor in VTL1", start_in_vtl1, 0, 0},
    {"a start of a processor that runs", start_running, 0, 0},
    {"a start of itself", start_self, 0, 0},
    {"a translation by VTL1's page tables", translate, HV_STATUS_ACCESS_DENIED, HV_STATUS_ACCESS_DENIED},
    {"an interrupt asserted in VTL1", assert_interrupt, 0, 0},
    {"an event signalled in VTL1", signal_direct, 0, 0},
    {"a message posted in VTL1", post_direct, 0, 0},
};

A(vtl_return, "movl $0x12, %ecx; xorl %eax, %eax; call *%rdi");

void register_rows(void)
{
    begin_class(REGISTERS);
    for (unsigned i = 0; i < ARRAY_SIZE(status_rows); i++) {
        const struct status_row *r = &status_rows[i];
        char detail[40];
        warden_clear(POLICY_ABANDON);
        uint16_t status = r->call();
        snprintf(detail, sizeof detail, "status 0x%x", status);
        bool right = r->wanted ? status == r->wanted || status == r->or : status != 0;
        row(right && !warden()->count, r->name, detail);
    }
    enum outcome outcome = attempt(vtl_return, (void *)hv_page(), scratch);
    row(outcome == OUTCOME_EXCEPTION && warden()->vector == VECTOR_UD, "a VTL return from VTL0", "an exception");
    warden_clear(POLICY_ABANDON);
    outcome = attempt(load, place_at[SECRETS], scratch);
    row(outcome == OUTCOME_ABANDONED && intact(SECRETS), "and VTL1's data", "is protected as before");
    row_not_here("INIT to a processor with VTL1", "left to the host's local APIC, which carries it out on VTL0 (docs/vsm.md)");
    report_prefix_pop();
}
