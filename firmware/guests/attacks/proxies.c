/* SPDX-License-Identifier: Apache-2.0 */
/* Hypercalls whose parameters lie in protected memory: the hypervisor reads and writes with the rights of its caller. */
#include "attacks.h"

struct proxy_row {
    const char *name;
    uint64_t control;
    uint8_t input, output; /* places, or PLACES for VTL0's own memory */
    uint8_t wanted;
    bool status_too; /* or it is refused with a status before its parameters are looked at */
};

#define CALL_FLUSH_LIST 0x03
#define CALL_POST_MESSAGE 0x5c
#define CALL_MODIFY (HV_CALL_MODIFY_PROTECTION | HV_REPS(1))

static const struct proxy_row proxy_rows[] = {
    {"GetVpRegisters, input", HV_CALL_GET_REGISTERS | HV_REPS(1), SECRETS, PLACES, R, false},
    {"GetVpRegisters, output", HV_CALL_GET_REGISTERS | HV_REPS(1), PLACES, SECRETS, W, false},
    {"GetVpRegisters, output of four", HV_CALL_GET_REGISTERS | HV_REPS(4), PLACES, SECRETS, W, false},
    {"GetVpRegisters, output over VTL1's code", HV_CALL_GET_REGISTERS | HV_REPS(1), PLACES, CODE, W, false},
    {"GetVpRegisters, output over kernel text", HV_CALL_GET_REGISTERS | HV_REPS(1), PLACES, KERNEL, W, false},
    {"SetVpRegisters, input", HV_CALL_SET_REGISTERS | HV_REPS(1), SECRETS, PLACES, R, false},
    {"TranslateVirtualAddress, input", HV_CALL_TRANSLATE, SECRETS, PLACES, R, false},
    {"TranslateVirtualAddress, output", HV_CALL_TRANSLATE, PLACES, SECRETS, W, false},
    {"GetVpIndexFromApicId, input", HV_CALL_VP_INDEX_FROM_APIC_ID | HV_REPS(2), SECRETS, PLACES, R, false},
    {"GetVpIndexFromApicId, output", HV_CALL_VP_INDEX_FROM_APIC_ID | HV_REPS(2), PLACES, SECRETS, W, true},
    {"PostMessage, payload", CALL_POST_MESSAGE, SECRETS, PLACES, R, true},
    {"FlushVirtualAddressList, the list", CALL_FLUSH_LIST | HV_REPS(4), SECRETS, PLACES, R, false},
    {"FlushVirtualAddressSpace, input", HV_CALL_FLUSH_SPACE, SECRETS, PLACES, R, false},
    {"SendSyntheticClusterIpi, input", HV_CALL_SEND_IPI, SECRETS, PLACES, R, false},
    {"SendSyntheticClusterIpiEx, input", HV_CALL_SEND_IPI_EX | 1 << 17, SECRETS, PLACES, R, false},
    {"ModifyVtlProtectionMask, input", CALL_MODIFY, SECRETS, PLACES, R, true},
    {"EnableVpVtl, context", HV_CALL_ENABLE_VP_VTL, SECRETS, PLACES, R, true},
    {"StartVirtualProcessor, context", HV_CALL_START_VP, SECRETS, PLACES, R, true},
    {"ExtCallQueryCapabilities, output", HV_CALL_QUERY_CAPABILITIES, PLACES, SECRETS, W, true},
};

static uint64_t proxy_input[PAGE_SIZE / 8] __attribute__((aligned(4096)));
static uint64_t proxy_output[PAGE_SIZE / 8] __attribute__((aligned(4096)));
static const struct proxy_row *proxy;
static volatile uint64_t proxy_result;

static void call_proxy(void *input, void *output)
{
    proxy_result = hv_call(proxy->control, (uint64_t)input, (uint64_t)output);
}

static void fill_proxy_input(const struct proxy_row *r)
{
    memset(proxy_input, 0, sizeof proxy_input);
    proxy_input[0] = HV_SELF_PARTITION;
    switch (r->control & 0xffff) {
    case HV_CALL_TRANSLATE:
        proxy_input[1] = HV_SELF_VP;
        proxy_input[2] = 1; /* validate read */
        proxy_input[3] = (uint64_t)proxy_input / PAGE_SIZE;
        break;
    case HV_CALL_VP_INDEX_FROM_APIC_ID:
        break;
    default:
        proxy_input[1] = HV_SELF_VP;
        proxy_input[2] = (uint64_t)HV_REGISTER_CR3 << 32 | HV_REGISTER_RIP;
        proxy_input[3] = proxy_input[2];
    }
}

void hypercall_rows(void)
{
    begin_class(PROXY);
    for (unsigned i = 0; i < ARRAY_SIZE(proxy_rows); i++) {
        const struct proxy_row *r = proxy = &proxy_rows[i];
        unsigned place = r->input < PLACES ? r->input : r->output;
        uint64_t gpa = (uint64_t)place_at[place] + 0x800;
        void *input = r->input < PLACES ? (void *)gpa : proxy_input, *output = r->output < PLACES ? (void *)gpa : proxy_output;
        clear_scratch();
        fill_proxy_input(r);
        memset(proxy_output, 0x11, sizeof proxy_output);
        proxy_result = 0;
        warden_clear(POLICY_ABANDON);
        enum outcome outcome = attempt(call_proxy, input, output);
        const struct memory_intercept *m = intercept(0);
        bool refused = r->status_too && outcome == OUTCOME_RETURNED && (uint16_t)proxy_result && !warden()->count;
        bool right = outcome == OUTCOME_ABANDONED && warden()->count == 1 && r->wanted >> m->access & 1 && m->gpa == gpa &&
                     (m->rip & ~(PAGE_SIZE - 1)) == hv_page();
        right = (right || refused) && !leaked() && !holds_secret(proxy_output, 256) && intact(place);
        if (refused && right) {
            char detail[32];
            snprintf(detail, sizeof detail, "status 0x%x", (uint16_t)proxy_result);
            row(true, r->name, detail);
        } else {
            told_row(r->name, right, outcome);
        }
    }
    uint64_t value[2];
    row(hv_get_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_CR3, value) == HV_REPS(1) && value[0] == read_cr3(),
        "a hypercall of VTL0's own", "goes on as ever");
    report_prefix_pop();
}
