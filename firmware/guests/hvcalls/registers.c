/* SPDX-License-Identifier: Apache-2.0 */
/* One's own registers, by hypercall. */
#include "parts.h"

static const struct {
    uint32_t first, last;
    bool written_back;
} groups[] = {
    {REGISTER_ACTIVITY, REGISTER_ACTIVITY, false},
    {REGISTER_FEATURES, REGISTER_FEATURES + 9, false},
    {REGISTER_PENDING_INTERRUPTION, REGISTER_PENDING_EVENT, true},
    {REGISTER_RAX + 1, REGISTER_RFLAGS, true},
    {REGISTER_XMM0, REGISTER_XMM_CONTROL, true},
    {REGISTER_CR0, REGISTER_CR8, true},
    {REGISTER_DR0, REGISTER_DR7, true},
    {REGISTER_ES, REGISTER_TR, true},
    {REGISTER_IDTR, REGISTER_GDTR, true},
    {REGISTER_TSC, REGISTER_TSC, false},
    {REGISTER_EFER, REGISTER_SFMASK, true},
    {REGISTER_INITIAL_APIC_ID, REGISTER_MTRR_CAP, false},
    {REGISTER_MTRR_DEF_TYPE, REGISTER_MTRR_DEF_TYPE, true},
    {REGISTER_APIC_ID, REGISTER_APIC_ID + 1, false},
};

void check_all_registers(void)
{
    uint32_t unread = 0, unwritten = 0, count = 0;
    for (unsigned group = 0; group < ARRAY_SIZE(groups); group++)
        for (uint32_t name = groups[group].first; name <= groups[group].last; name++) {
            uint64_t value[2] = {0, 0}, again[2] = {0, 0};
            count++;
            if (access_register(HV_CALL_GET_REGISTERS, HV_SELF_VP, name, value) != HV_REPS(1)) {
                report_info("register 0x%x cannot be read", name);
                unread++;
            } else if (groups[group].written_back) {
                /* The stack pointer too: what is read in one call has to be right in the other. */
                bool set = access_register(HV_CALL_SET_REGISTERS, HV_SELF_VP, name, value) == HV_REPS(1);
                bool same = get_register(HV_SELF_VP, name, again) == HV_REPS(1) && value[0] == again[0];
                /* RAX, RCX, RDX and the stack change from call to call. */
                if (!set || (!same && (name > REGISTER_RIP || name < REGISTER_RAX))) {
                    report_info("register 0x%x is not as it was written: 0x%lx, 0x%lx", name, value[0], again[0]);
                    unwritten++;
                }
            }
        }
    report(unread == 0, "%u registers are read", count);
    report(unwritten == 0, "those that can be written keep their value");
    uint64_t value[2] = {0, 0};
    get_register(HV_SELF_VP, REGISTER_CS, value);
    report(value[0] == 0 && value[1] == ((uint64_t)SEGMENT_CODE64 << 48 | (uint64_t)SELECTOR_CODE64 << 32 | 0xffffffff),
           "CS as TLFS lays it out: 0x%lx", value[1]);
    report(register_of(HV_SELF_VP, REGISTER_CR3) == read_cr3() &&
           register_of(HV_SELF_VP, REGISTER_EFER) == rdmsr(MSR_EFER) &&
               register_of(HV_SELF_VP, REGISTER_PAT) == rdmsr(MSR_PAT) &&
               register_of(HV_SELF_VP, REGISTER_APIC_SPURIOUS) == apic_read(APIC_SPURIOUS),
           "CR3, EFER, PAT and SPIV are the processor's");
    set_register(HV_SELF_VP, REGISTER_KERNEL_GS_BASE, 0x1234, 0);
    report(rdmsr(0xc0000102) == 0x1234, "a written MSR is written");
}

void check_refusals(void)
{
    uint64_t value[2] = {0, 0};
    report(get_register(HV_SELF_VP, 0xacacacac, value) == HV_STATUS_INVALID_PARAMETER, "an unknown register");
    report(get_register(HV_SELF_VP, REGISTER_VSM_VINA, value) == HV_STATUS_INVALID_PARAMETER, "a register of VTL1");
    report(get_register(0xacacacac, REGISTER_CR3, value) == HV_STATUS_INVALID_VP_INDEX, "a VP that is not there");
    report(set_register(HV_SELF_VP, REGISTER_VP_INDEX, 1, 0) == HV_STATUS_INVALID_PARAMETER,
           "a register that is read only");
    report(set_register(HV_SELF_VP, REGISTER_CR0, 1u << 31, 0) == HV_STATUS_INVALID_REGISTER_VALUE,
           "paging without protection");
    report(set_register(HV_SELF_VP, REGISTER_PAT, 2, 0) == HV_STATUS_INVALID_REGISTER_VALUE,
           "a memory type that is none");
    report(set_register(HV_SELF_VP, REGISTER_CR4, 1ull << 63, 0) == HV_STATUS_INVALID_REGISTER_VALUE,
           "a bit of CR4 that is none");
    memset(input, 0, 64);
    input[0] = 42, input[1] = HV_SELF_VP;
    report(hv_call(HV_CALL_GET_REGISTERS | HV_REPS(1),
           (uintptr_t)input, (uintptr_t)output) == HV_STATUS_INVALID_PARTITION_ID,
           "another partition");
}

void check_extended(void)
{
    output[0] = ~0ull;
    uint64_t result = hv_call(HV_CALL_QUERY_CAPABILITIES, 0, (uintptr_t)output);
    report(result == 0 && output[0] == 0, "extended capabilities: 0x%lx", output[0]);
    report(cpuid(HV_LEAF_FEATURES, 0).ebx >> 20 & 1, "announced");
    report(hv_call(0x8002, 0, (uintptr_t)output) == HV_STATUS_INVALID_CODE, "no other extended call");
}

void check_switch(void)
{
    uint64_t *copy = page_alloc();
    uint64_t cr3 = read_cr3();
    memcpy(copy, (void *)(uintptr_t)(cr3 & PTE_ADDRESS), PAGE_SIZE);
    uint64_t result = hv_call(HV_CALL_SWITCH_ADDRESS_SPACE | HV_FAST, (uintptr_t)copy, 0);
    uint64_t switched = read_cr3();
    write_cr3(cr3);
    report(result == 0 && switched == (uintptr_t)copy, "address space switched: 0x%lx, CR3 0x%lx", result, switched);
    report(hv_call(HV_CALL_SWITCH_ADDRESS_SPACE | HV_FAST, 1ull << 60, 0) == HV_STATUS_INVALID_PARAMETER &&
           read_cr3() == cr3,
           "none beyond physical memory");
}
