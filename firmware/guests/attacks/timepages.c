/* SPDX-License-Identifier: Apache-2.0 */
/* Reference TSC pages. VTL0 sees VTL1's, may not write it whatever it tries, and what it may do with it VTL1 decides. VTL0's
 * own is nothing that VTL1 ever sees. And what VTL1 is told of overlays of VTL0's. TLFS 5.2, 9.4, 12.7, 15.9. */
#include "attacks.h"

#define WORDS (PAGE_SIZE / 8)
#define MARK_WORD 500 /* the hypervisor writes the first three only */
#define MARK 0x2e4b52414d2e2e2eull
#define VECTOR_DF 8
#define VECTOR_GP 13

/* HvCallTranslateVirtualAddress */
#define VALIDATE_READ 1u
#define VALIDATE_WRITE 2u
#define VALIDATE_EXECUTE 4u
#define CODE_ILLEGAL_OVERLAY 7u
#define CODE_INTERCEPT 8u

A(time_add, "addq %rsi, (%rdi)");
A(time_xadd, "lock; xaddq %rsi, (%rdi)");
A(time_push, "movq %rsp, %r11; leaq 8(%rdi), %rsp; pushq $0x41; movq %r11, %rsp");
A(time_stos, "xorl %eax, %eax; movl $4, %ecx; rep stosq");

static volatile uint64_t *shared; /* where VTL1 puts its page; VTL0 may use the RAM there */
static uint64_t kept[WORDS];      /* what the page holds, marks and all */

static uint64_t time_page_in_vtl1(void *argument)
{
    wrmsr(HV_MSR_REFERENCE_TSC, (uint64_t)argument | (argument ? 1 : 0));
    if (argument) {
        for (unsigned i = MARK_WORD; i < WORDS; i++)
            ((volatile uint64_t *)argument)[i] = MARK; /* its own page it may write */
        memcpy(kept, argument, PAGE_SIZE);
    }
    return 0;
}

static uint64_t differs_in_vtl1(void *argument)
{
    (void)argument;
    return (uint64_t)memcmp((const void *)shared, kept, PAGE_SIZE);
}

static bool as_it_was(void)
{
    return vsm_run(differs_in_vtl1, NULL) == 0;
}

/* VTL0's page lies over memory of VTL1's, which looks at it meanwhile. */
static void over(unsigned place)
{
    char name[80];
    snprintf(name, sizeof name, "reference TSC page over %s, and VTL1 looks", place_names[place]);
    uint64_t old = rdmsr(HV_MSR_REFERENCE_TSC);
    wrmsr(HV_MSR_REFERENCE_TSC, (uint64_t)place_at[place] | 1);
    bool same = intact(place);
    wrmsr(HV_MSR_REFERENCE_TSC, old);
    row(same && intact(place), name, same ? "it sees its own" : "CHANGED for VTL1");
}

static void over_the_time(const char *name, uint32_t msr)
{
    uint64_t old = rdmsr(msr);
    wrmsr(msr, (uint64_t)shared | 1);
    shared[MARK_WORD] = FILL;
    bool own = shared[MARK_WORD] == FILL, same = as_it_was();
    wrmsr(msr, old);
    row(own && same && shared[MARK_WORD] == MARK, name, same ? "not changed for VTL1" : "CHANGED for VTL1");
}

static void try_to_write(const char *name, attempted function, bool user, unsigned vector)
{
    warden_clear(POLICY_ABANDON);
    void *target = (void *)(shared + MARK_WORD);
    enum outcome outcome = user ? attempt_in_user_mode(function, target, scratch) : attempt(function, target, scratch);
    bool faults = outcome == OUTCOME_EXCEPTION && warden()->vector == vector && !warden()->count;
    char full[96], detail[96];
    snprintf(full, sizeof full, "VTL1's reference TSC page, %s", name);
    snprintf(detail, sizeof detail, "ends by %u, exception %u, %u intercepts, %s", outcome,
             outcome == OUTCOME_EXCEPTION ? warden()->vector : 0, warden()->count, as_it_was() ? "not changed" : "CHANGED");
    row(faults && as_it_was() && shared[MARK_WORD] == MARK, full, detail);
}

/* VTL1 has given VTL0 `rights` to the page: the access is told, or done. */
static void with_rights(const char *name, uint32_t rights, attempted function, uint8_t wanted)
{
    char full[96];
    snprintf(full, sizeof full, "VTL1's reference TSC page, %s", name);
    uint16_t status = protect((uint64_t)shared, PAGE_SIZE, rights);
    if (status) {
        row_skipped(full, "VTL1 cannot protect it so", status);
        return;
    }
    warden_clear(POLICY_ABANDON);
    clear_scratch();
    void *target = (void *)(shared + MARK_WORD);
    enum outcome outcome = attempt(function, target, scratch);
    bool right;
    if (wanted)
        right = told(outcome, wanted, (uint64_t)target, (uint64_t)target, true) && scratch[0] == FILL;
    else
        right = outcome == OUTCOME_RETURNED && scratch[0] == MARK && !warden()->count;
    right &= as_it_was();
    protect((uint64_t)shared, PAGE_SIZE, RIGHTS_ALL);
    told_row(full, right && shared[MARK_WORD] == MARK, outcome);
}

/* ---- what the hypervisor does for VTL0 ---- */

struct translation {
    uint64_t address, flags;
    uint64_t status;
    uint32_t code;
    bool overlay;
};

static void put_translation(uint64_t *input, uint64_t flags, uint64_t address)
{
    input[0] = HV_SELF_PARTITION;
    input[1] = HV_SELF_VP;
    input[2] = flags;
    input[3] = address / PAGE_SIZE;
}

static uint64_t translate(void *argument)
{
    struct translation *asked = argument;
    uint64_t *output = hv_output();
    put_translation(hv_input(), asked->flags | (this_cpu()->vtl ? (uint64_t)HV_VTL(0) << 56 : 0), asked->address);
    output[0] = ~0ull;
    asked->status = hv_call(HV_CALL_TRANSLATE, (uint64_t)hv_input(), (uint64_t)output);
    asked->code = (uint32_t)output[0];
    asked->overlay = output[0] >> 40 & 1;
    return asked->status;
}

/* A hypercall with its input where VTL1's page will be. */
static uint64_t call_from_there(void)
{
    return hv_call(HV_CALL_TRANSLATE, (uint64_t)shared, (uint64_t)hv_output());
}

/* from_ram: what that call says of the input in the RAM below. */
static void by_hypercall(uint64_t from_ram)
{
    put_translation(hv_input(), VALIDATE_READ, (uint64_t)shared);
    uint64_t into = hv_call(HV_CALL_TRANSLATE, (uint64_t)hv_input(), (uint64_t)shared);
    char detail[80];
    snprintf(detail, sizeof detail, "status 0x%lx, %s", into, as_it_was() ? "not changed" : "CHANGED");
    row(into == HV_STATUS_INVALID_ALIGNMENT && as_it_was(), "a hypercall's output into VTL1's reference TSC page", detail);
    uint64_t from = call_from_there();
    snprintf(detail, sizeof detail, "status 0x%lx, and 0x%lx from memory", from, from_ram);
    row(from && !from_ram, "a hypercall's input in it is what VTL0 sees", detail);
    uint32_t end = dma_into((uint64_t)(shared + MARK_WORD), 8);
    snprintf(detail, sizeof detail, "control 0x%x, %s", end, as_it_was() ? "not changed" : "CHANGED");
    row(end == 1 && as_it_was(), "fw_cfg into VTL1's reference TSC page", detail);
}

static void told_of_overlays(void)
{
    char detail[80];
    struct translation own = {(uint64_t)shared, VALIDATE_WRITE, 0, 0, false};
    translate(&own);
    snprintf(detail, sizeof detail, "status 0x%lx, code %u", own.status, own.code);
    row(!own.status && own.code == CODE_ILLEGAL_OVERLAY, "VTL0 asks whether it may write VTL1's reference TSC page", detail);

    /* VTL1 finds RAM where VTL0 has its hypercall page, and would write that for VTL0. */
    uint64_t all = VALIDATE_READ | VALIDATE_WRITE | VALIDATE_EXECUTE;
    struct translation open = {hv_page(), all, 0, 0, false}, closed = open, read = {hv_page(), VALIDATE_READ, 0, 0, false};
    protect(hv_page(), PAGE_SIZE, RIGHTS_ALL);
    vsm_run(translate, &open);
    snprintf(detail, sizeof detail, "status 0x%lx, code %u", open.status, open.code);
    row(!open.status && !open.code && open.overlay, "VTL1 asks about VTL0's hypercall page", detail);
    uint16_t status = protect(hv_page(), PAGE_SIZE, RIGHTS_RX);
    vsm_run(translate, &closed), vsm_run(translate, &read);
    protect(hv_page(), PAGE_SIZE, ordinary);
    snprintf(detail, sizeof detail, "codes %u, %u", closed.code, read.code);
    row(!status && closed.code == CODE_INTERCEPT && !read.code && read.overlay,
        "VTL1 asks about VTL0's hypercall page over RAM that VTL0 may not write", detail);
}

void time_page_rows(void)
{
    over(SECRETS);
    over(CODE);
    uint8_t *page = page_alloc();
    shared = (volatile uint64_t *)page;
    protect((uint64_t)page, PAGE_SIZE, RIGHTS_ALL);
    for (unsigned i = 0; i < WORDS; i++)
        shared[i] = FILL;
    put_translation((uint64_t *)page, VALIDATE_READ, (uint64_t)page);
    uint64_t from_ram = call_from_there();
    vsm_run(time_page_in_vtl1, page);
    with_rights("read", RIGHTS_ALL, load, 0);
    try_to_write("written", store, false, VECTOR_GP);
    try_to_write("added to", time_add, false, VECTOR_GP);
    try_to_write("added to with LOCK", time_xadd, false, VECTOR_GP);
    try_to_write("pushed on", time_push, false, VECTOR_DF); /* nor can the first fault be pushed */
    try_to_write("filled", time_stos, false, VECTOR_GP);
    try_to_write("written in ring 3", store, true, VECTOR_GP);
    try_to_write("added to with LOCK in ring 3", time_xadd, true, VECTOR_GP);
    with_rights("read where VTL1 allows nothing", RIGHTS_NONE, load, R);
    with_rights("written where VTL1 allows nothing", RIGHTS_NONE, store, W);
    with_rights("read where VTL1 allows to read", RIGHTS_R, load, 0);
    with_rights("written where VTL1 allows to read and execute", RIGHTS_RX, store, W);
    with_rights("read where VTL1 allows to read and write", RIGHTS_RW, load, 0);
    with_rights("executed where VTL1 allows to read and write", RIGHTS_RW, call_into, X);
    by_hypercall(from_ram);
    told_of_overlays();
    over_the_time("VTL0's reference TSC page over VTL1's, changed", HV_MSR_REFERENCE_TSC);
    over_the_time("VTL0's SIMP over VTL1's reference TSC page, changed", HV_MSR_SIMP);
    vsm_run(time_page_in_vtl1, NULL);
    bool back = shared[MARK_WORD] == FILL;
    shared[MARK_WORD] = MARK;
    row(back && shared[MARK_WORD] == MARK, "VTL1's reference TSC page goes", back ? "memory is VTL0's again" : "still seen");
    protect((uint64_t)page, PAGE_SIZE, ordinary);
}
