/* SPDX-License-Identifier: Apache-2.0 */
/* MSRs: those that each VTL has its own of, and those that they share. */
#include "parts.h"

#define EFER_SCE 1ull
#define MSR_MTRR_CAP 0xfe
#define MSR_MCG_CAP 0x179
#define MSR_MTRR_BASE0 0x200
#define REGISTER_MTRR_BASE0 0x80010
#define REGISTER_MTRR_MASK0 0x80040
#define MTRR_REGISTERS 16 /* of each kind */
#define MSR_TSC_AUX 0xc0000103
#define SINT 4

struct msr_values {
    uint32_t msr;
    uint64_t vtl0, vtl1;
};

static uint8_t pages0[4][4096] __attribute__((aligned(4096)));
static uint8_t pages1[4][4096] __attribute__((aligned(4096)));
#define PAGE(n) (uint64_t) pages0[n], (uint64_t)pages1[n]

static struct msr_values own_msrs[] = {
    {0x174, 0x10, 0x20},
    {0x175, 0x1750, 0x1751},
    {0x176, 0x1760, 0x1761},
    {0x277, 0x0007040600070406, 0x0007040601070406},
    {0xc0000081, 0x0023001000000000, 0x0013000800000000},
    {0xc0000082, 0x820, 0x821},
    {0xc0000083, 0x830, 0x831},
    {0xc0000084, 0x40, 0x700},
    {0xc0000102, 0x1020, 0x1021},
    {HV_MSR_SIEFP, 0, 0},
    {HV_MSR_SIMP, 0, 0},
    {HV_MSR_REFERENCE_TSC, 0, 0},
    {HV_MSR_SINT0 + SINT, 0x55, SINT_MASKED | 0x66},
    {HV_MSR_STIMER0_CONFIG + 2, STIMER_AUTO_ENABLE | STIMER_SINT(SINT), STIMER_PERIODIC | STIMER_SINT(5)},
    {HV_MSR_TPR, 0x20, 0x30},
    {HV_MSR_GUEST_OS_ID, 0x8f00123400000000, 0x8f00123400000001},
};

static uint64_t write_msrs_of_vtl1(void *argument)
{
    (void)argument;
    uint64_t seen = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(own_msrs); i++) {
        uint64_t now = rdmsr(own_msrs[i].msr);
        if (now == own_msrs[i].vtl0 && own_msrs[i].msr != HV_MSR_GUEST_OS_ID && own_msrs[i].msr != 0x277) {
            report_info("MSR 0x%x shows VTL0's value in VTL1: 0x%lx", own_msrs[i].msr, now);
            seen++;
        }
        wrmsr(own_msrs[i].msr, own_msrs[i].vtl1);
    }
    return seen;
}

static uint64_t wrong_msrs(uint64_t vtl)
{
    uint64_t wrong = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(own_msrs); i++) {
        uint64_t now = rdmsr(own_msrs[i].msr), wanted = vtl ? own_msrs[i].vtl1 : own_msrs[i].vtl0;
        if (now != wanted) {
            report_info("MSR 0x%x of VTL%lu is 0x%lx instead of 0x%lx", own_msrs[i].msr, vtl, now, wanted);
            wrong++;
        }
    }
    return wrong;
}

static uint64_t wrong_msrs_of_vtl1(void *argument)
{
    uint64_t wrong = wrong_msrs((uint64_t)argument);
    wrmsr(HV_MSR_TPR, 0);
    wrmsr(HV_MSR_SIMP, 0), wrmsr(HV_MSR_SIEFP, 0), wrmsr(HV_MSR_REFERENCE_TSC, 0);
    return wrong;
}

static uint64_t toggle_syscall(void *argument)
{
    (void)argument;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) ^ EFER_SCE);
    return rdmsr(MSR_EFER);
}

static uint64_t assist_msr(void *argument)
{
    (void)argument;
    return rdmsr(HV_MSR_VP_ASSIST_PAGE);
}

static uint64_t hypercall_msr(void *argument)
{
    (void)argument;
    return rdmsr(HV_MSR_HYPERCALL);
}

void check_own_msrs(void)
{
    for (unsigned i = 0, page = 0; i < ARRAY_SIZE(own_msrs); i++)
        if (!own_msrs[i].vtl0) {
            own_msrs[i].vtl0 = (uint64_t)pages0[page] | 1;
            own_msrs[i].vtl1 = (uint64_t)pages1[page++] | 1;
        }
    for (unsigned i = 0; i < ARRAY_SIZE(own_msrs); i++)
        wrmsr(own_msrs[i].msr, own_msrs[i].vtl0);
    uint64_t seen = vsm_run(write_msrs_of_vtl1, NULL), wrong = wrong_msrs(0), wrong1 = vsm_run(wrong_msrs_of_vtl1, (void *)1);
    report(seen == 0 && wrong == 0 && wrong1 == 0, "%u MSRs are each VTL's own: %lu shown, %lu and %lu changed",
           (unsigned)ARRAY_SIZE(own_msrs), seen, wrong, wrong1);
    wrmsr(HV_MSR_TPR, 0);
    wrmsr(HV_MSR_SIMP, 0), wrmsr(HV_MSR_SIEFP, 0), wrmsr(HV_MSR_REFERENCE_TSC, 0);

    uint64_t efer = rdmsr(MSR_EFER), other = vsm_run(toggle_syscall, NULL);
    report(rdmsr(MSR_EFER) == efer && other == (efer ^ EFER_SCE), "EFER too: 0x%lx 0x%lx", rdmsr(MSR_EFER), other);
    report(!(rdmsr(HV_MSR_VP_ASSIST_PAGE) & 1) && vsm_run(assist_msr, NULL) & 1, "and the VP assist page");
    report((rdmsr(HV_MSR_HYPERCALL) ^ vsm_run(hypercall_msr, NULL)) & ~0xfffull, "and the hypercall page");
    if (cpuid(0x80000001, 0).edx >> 27 & 1) {
        wrmsr(MSR_TSC_AUX, 7);
        struct msr_values saved = own_msrs[0];
        own_msrs[0] = (struct msr_values){MSR_TSC_AUX, 7, 8};
        uint64_t shown = vsm_run(write_msrs_of_vtl1, NULL);
        report(shown == 0 && rdmsr(MSR_TSC_AUX) == 7, "and TSC_AUX: %lu", rdmsr(MSR_TSC_AUX));
        own_msrs[0] = saved;
        vsm_run(wrong_msrs_of_vtl1, NULL); /* takes the pages away again */
    }
}

static uint64_t read_msr(void *argument)
{
    return rdmsr((uint32_t)(uint64_t)argument);
}

static uint64_t write_mtrr(void *argument)
{
    wrmsr(MSR_MTRR_BASE0, (uint64_t)argument);
    return 0;
}

/* Registers of MTRRs whose answer is not that of one that is there, or that is not there. */
static uint64_t wrong_mtrr_registers(void *input_vtl)
{
    static const uint32_t first[] = {REGISTER_MTRR_BASE0, REGISTER_MTRR_MASK0};
    uint64_t count = rdmsr(MSR_MTRR_CAP) & 0xff, wrong = 0, value[2];
    for (unsigned i = 0; i < 2 * MTRR_REGISTERS; i++) {
        uint64_t number = i / 2, expected = number < count ? HV_REPS(1) : HV_STATUS_INVALID_PARAMETER;
        uint32_t name = first[i % 2] + (uint32_t)number;
        value[0] = 0;
        uint64_t get = hv_get_register(HV_SELF_VP, (uint8_t)(uint64_t)input_vtl, name, value);
        uint64_t set = hv_set_register(HV_SELF_VP, (uint8_t)(uint64_t)input_vtl, name, value[0], 0);
        if (get != expected || set != expected) {
            report_info("register 0x%x: 0x%lx read, 0x%lx written, 0x%lx expected", name, get, set, expected);
            wrong++;
        }
    }
    return wrong;
}

void check_shared_msrs(void)
{
    static const uint32_t same[] = {HV_MSR_VP_INDEX, HV_MSR_TSC_FREQUENCY};
    for (unsigned i = 0; i < ARRAY_SIZE(same); i++) {
        uint64_t msr = same[i];
        report(rdmsr(same[i]) == vsm_run(read_msr, (void *)msr), "MSR 0x%x is the same", same[i]);
    }
    struct cpuid features = cpuid(1, 0);
    if (features.edx >> 14 & 1)
        report(rdmsr(MSR_MCG_CAP) == vsm_run(read_msr, (void *)MSR_MCG_CAP), "MCG_CAP is the same");
    if (features.edx >> 12 & 1 && rdmsr(MSR_MTRR_CAP) & 0xff) {
        uint64_t was = rdmsr(MSR_MTRR_BASE0), in_vtl1;
        wrmsr(MSR_MTRR_BASE0, 0x100006);
        in_vtl1 = vsm_run(read_msr, (void *)MSR_MTRR_BASE0);
        vsm_run(write_mtrr, (void *)0x200006);
        report(in_vtl1 == 0x100006 && rdmsr(MSR_MTRR_BASE0) == 0x200006, "an MTRR is shared: 0x%lx 0x%lx", in_vtl1,
               rdmsr(MSR_MTRR_BASE0));
        wrmsr(MSR_MTRR_BASE0, was);
        report(!wrong_mtrr_registers((void *)HV_OWN_VTL) && !vsm_run(wrong_mtrr_registers, (void *)HV_OWN_VTL) &&
                   !vsm_run(wrong_mtrr_registers, (void *)HV_VTL(0)),
               "VP registers of MTRRs: those that MTRRCAP counts, no others");
    } else {
        report_skip("no MTRRs");
    }
}
