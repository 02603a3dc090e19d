/* SPDX-License-Identifier: Apache-2.0 */
/* Memory protections and their intercepts, rule by rule: who may protect, what each right allows, what VTL1 is told of an
 * access and what it can do about it. Some parts need a second processor. TLFS 15.5.1, 15.9, 15.13, 15.15.2.
 *
 * mask=N    the default protection mask (15); with 3 VTL1 gives all but a page their other rights
 * reboot    resets the machine after that: protections are gone, and memory is zeroed
 * keep      with reboot: VTL1 says that memory is to stay
 */
#include "protect.h"
#include "runtime.h"

#define LIMIT_MS 3000
#define DATA 0xda7ada7ada7ada7aull
#define MARK(n) (0x0101010101010101ull * (n))
#define CODE_OFFSET 0x100 /* in the page under test */
#define DATA_OFFSET 0x234
#define NO_PAGE 0xfffffff0ull /* no RAM is there */
#define ANOTHER_PARTITION 42
#define RFLAGS_RF (1ull << 16)
#define GP_CODE 0x18
#define VECTOR_TICK 0x61

#define PENDING 1ull
#define WITH_ERROR_CODE (1ull << 8)
#define PENDING_GP (PENDING | WITH_ERROR_CODE | (uint64_t)VECTOR_GP << 16 | (uint64_t)GP_CODE << 32)

#define CAPABILITY_INTERCEPT_PAGE (1ull << 27)
#define CONFIG_INTERCEPT_PAGE (1ull << 12)

#define CMOS_MARK 0x7d
#define KEPT_PAGE 0x1800000ull /* RAM that no part of the guest lies in */

static uint8_t *pages; /* of the tests: PAGES of them */
#define PAGES 512
static uint64_t scratch[64];

/* mov $0x777, %eax; mov %rax, (%rsi); ret */
static const uint8_t code[] = {0xb8, 0x77, 0x07, 0, 0, 0x48, 0x89, 0x06, 0xc3};
#define CODE_RESULT 0x777

static void *data_of(unsigned page)
{
    return pages + page * PAGE_SIZE + DATA_OFFSET;
}

static uint16_t set_rights(unsigned page, uint32_t rights)
{
    return protect((uint64_t)pages + page * PAGE_SIZE, 1, rights);
}

/* VTL0 has all rights to the page then. */
static void fill(unsigned page)
{
    set_rights(page, RIGHTS_ALL);
    memcpy(pages + page * PAGE_SIZE + CODE_OFFSET, code, sizeof code);
    *(uint64_t *)data_of(page) = DATA;
    memset(scratch, 0, sizeof scratch);
}

/* ---- accesses ---- */

#define ACCESS(name, instructions)                                  \
    void name(void *target, void *to);                              \
    asm(".text\n" #name ":\n\t" instructions "\n\tret")

ACCESS(access_read, "movq (%rdi), %rax\n\tmovq %rax, (%rsi)");
ACCESS(access_write, "movl $0x5a5a5a5a, %eax\n\tmovq %rax, (%rdi)");
ACCESS(access_execute, "call *%rdi");
ACCESS(access_copy, "movq (%rdi), %rax\n\tmovq %rax, 4096(%rdi)");
#define WRITTEN 0x5a5a5a5aull

static const struct {
    const char *name;
    attempted function;
    uint32_t right;
    uint8_t access;
} accesses[] = {
    {"read", access_read, RIGHT_READ, ACCESS_READ},
    {"write", access_write, RIGHT_WRITE, ACCESS_WRITE},
    {"execute", access_execute, RIGHT_EXECUTE, ACCESS_EXECUTE},
};

static void *target_of(unsigned access, unsigned page)
{
    return accesses[access].access == ACCESS_EXECUTE ? pages + page * PAGE_SIZE + CODE_OFFSET : data_of(page);
}

/* Whether the access had its effect. VTL1 looks, which may read the page whatever VTL0 may. */
static uint64_t look(void *argument)
{
    return *(volatile uint64_t *)argument;
}

static bool happened(unsigned access, unsigned page)
{
    switch (accesses[access].access) {
    case ACCESS_READ:
        return scratch[0] == DATA;
    case ACCESS_WRITE:
        return vsm_run(look, data_of(page)) == WRITTEN;
    default:
        return scratch[0] == CODE_RESULT;
    }
}

/* VTL0 reads a page: whether that comes to VTL1. */
static bool intercepted(unsigned page)
{
    warden_clear(POLICY_SKIP);
    attempt(access_read, data_of(page), scratch);
    return warden()->count == 1;
}

/* ---- HvCallModifyVtlProtectionMask ---- */

static uint64_t call_by(unsigned vtl, struct protect_call call)
{
    return vtl ? vsm_run(protect_call_in_vtl1, &call) : protect_call(&call);
}

static uint64_t page_number(unsigned page)
{
    return (uint64_t)pages / PAGE_SIZE + page;
}

static void check_before(void)
{
    uint64_t number = page_number(0);
    struct protect_call call = {HV_SELF_PARTITION, RIGHTS_R, HV_VTL(0), false, 0, 1, &number};
    hv_expect(call_by(1, call), HV_STATUS_ACCESS_DENIED, "VTL1, before protection is enabled");
    hv_expect(call_by(0, call), HV_STATUS_ACCESS_DENIED, "VTL0");
}

static void check_callers(void)
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

static void check_lists(void)
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

static void check_masks(void)
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

/* ---- HvRegisterVsmPartitionConfig ---- */

static uint64_t config_of_vtl1(void *argument)
{
    (void)argument;
    return hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG);
}

static uint64_t set_config(void *config)
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

/* ---- rights ---- */

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

static void check_rights(void)
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

static void check_own(void)
{
    fill(0);
    set_rights(0, RIGHTS_NONE);
    warden_clear(POLICY_ABANDON);
    report(vsm_run(look, data_of(0)) == DATA && vsm_run(use_in_vtl1, data_of(0)) == CODE_RESULT && warden()->count == 0,
           "VTL1 reads, writes and executes what VTL0 may not");
    set_rights(0, RIGHTS_ALL);
    report(*(uint64_t *)data_of(0) == MARK(9), "which VTL0 sees once it may");
}

/* ---- messages ---- */

/* Each has marks in all registers but RDI, which has the address, and RSP. */
static volatile uint64_t access_rsp, access_rflags;

#define MARKED(name, instruction)                                                                                   \
    ACCESS(name, "movq %rsp, access_rsp\n\t"                                                                        \
                 "movabs $0x0101010101010101, %rax; movabs $0x0202020202020202, %rcx\n\t"                           \
                 "movabs $0x0303030303030303, %rdx; movabs $0x0404040404040404, %rbx\n\t"                           \
                 "movabs $0x0606060606060606, %rbp; movabs $0x0707070707070707, %rsi\n\t"                           \
                 "movabs $0x0808080808080808, %r8;  movabs $0x0909090909090909, %r9\n\t"                            \
                 "movabs $0x0a0a0a0a0a0a0a0a, %r10; movabs $0x0b0b0b0b0b0b0b0b, %r11\n\t"                           \
                 "movabs $0x0c0c0c0c0c0c0c0c, %r12; movabs $0x0d0d0d0d0d0d0d0d, %r13\n\t"                           \
                 "movabs $0x0e0e0e0e0e0e0e0e, %r14; movabs $0x0f0f0f0f0f0f0f0f, %r15\n\t"                           \
                 "cmpq %rax, %rcx; stc; pushfq; popq access_rflags\n"                                               \
                 ".globl " #name "_at\n" #name "_at:\n\t" instruction);                                             \
    extern const char name##_at[]
MARKED(marked_read, "movq (%rdi), %rax");
MARKED(marked_write, "movq %rax, (%rdi)");
MARKED(marked_locked, "lock; xaddl %eax, (%rdi)");
MARKED(marked_execute, "call *%rdi");

static bool same_registers(const struct memory_intercept *m, uint64_t rsp, uint64_t target)
{
    const uint64_t seen[] = {m->rax, m->rcx, m->rdx, m->rbx, m->rsp, m->rbp, m->rsi, m->rdi,
                             m->r8,  m->r9,  m->r10, m->r11, m->r12, m->r13, m->r14, m->r15};
    for (unsigned i = 0; i < ARRAY_SIZE(seen); i++) {
        uint64_t wanted = i == 4 ? rsp : i == 7 ? target : MARK(i < 8 ? i + 1 : i);
        if (seen[i] != wanted) {
            report_info("register %u: 0x%lx instead of 0x%lx", i, seen[i], wanted);
            return false;
        }
    }
    return true;
}

static bool is_segment(const uint32_t segment[4], uint16_t selector, uint16_t attributes)
{
    return !segment[0] && !segment[1] && segment[2] == 0xffffffff && segment[3] == ((uint32_t)attributes << 16 | selector);
}

static const struct {
    const char *name;
    attempted function;
    const char *at; /* the instruction */
    uint8_t access, length, bytes[4];
} marked[] = {
    {"read", marked_read, marked_read_at, ACCESS_READ, 3, {0x48, 0x8b, 0x07}},
    {"write", marked_write, marked_write_at, ACCESS_WRITE, 3, {0x48, 0x89, 0x07}},
    {"locked write", marked_locked, marked_locked_at, ACCESS_WRITE, 4, {0xf0, 0x0f, 0xc1, 0x07}},
    {"execute", marked_execute, NULL, ACCESS_EXECUTE, 0, {0}},
};

static void check_message(unsigned i, bool user)
{
    const struct memory_intercept *m = intercept(0);
    bool execute = marked[i].access == ACCESS_EXECUTE;
    uint64_t target = (uint64_t)(execute ? pages + CODE_OFFSET : (uint8_t *)data_of(0));
    fill(0);
    set_rights(0, RIGHTS_NONE);
    warden_clear(POLICY_ABANDON);
    memset(&warden()->log[0], 0xee, sizeof warden()->log[0]);
    enum outcome outcome = (user ? attempt_in_user_mode : attempt)(marked[i].function, (void *)target, scratch);
    set_rights(0, RIGHTS_ALL);
    const struct hv_message *message = &warden()->log[0];
    report_prefix_push(marked[i].name);
    report(outcome == OUTCOME_ABANDONED && warden()->count == 1 && warden()->status == 0, "VTL1 ends it: %u intercepts, status 0x%x",
           warden()->count, warden()->status);
    report(message->type == MESSAGE_MEMORY && message->size == MESSAGE_PAYLOAD && message->flags == 0,
           "message: type 0x%x, %u bytes", message->type, message->size);
    report(m->gpa == target, "GPA: 0x%lx", m->gpa);
    report(m->info & INFO_GVA_VALID && m->gva == target, "GVA: 0x%lx", m->gva);
    report(m->vp == 0 && m->access == marked[i].access && m->cache_type == 6 && m->tpr == 0 && m->reserved == 0,
           "VP %u, access %u, cache type %u", m->vp, m->access, m->cache_type);
    report(m->rip == (execute ? target : (uint64_t)marked[i].at), "RIP: 0x%lx", m->rip);
    report(m->length_cr8 == marked[i].length && (execute ? m->byte_count == 0 : m->byte_count >= marked[i].length) &&
               !memcmp(m->bytes, marked[i].bytes, marked[i].length),
           "instruction: length %u, %u bytes", m->length_cr8 & 15, m->byte_count);
    /* Where the host runs ring 3 on its own, PUSHF shows the host's IF there. */
    uint64_t seen = user ? access_rflags & ~(uint64_t)RFLAGS_IF : access_rflags;
    report(m->rflags == seen, "RFLAGS: 0x%lx instead of 0x%lx", m->rflags, seen);
    report(m->state == (STATE_PE | STATE_LMA | (user ? 3 : 0)), "execution state: 0x%x", m->state);
    report(is_segment(m->cs, user ? SELECTOR_USER_CODE64 | 3 : SELECTOR_CODE64, user ? 0xa0fb : 0xa09b) &&
               is_segment(m->ss, user ? SELECTOR_USER_DATA | 3 : SELECTOR_DATA, user ? 0xc0f3 : 0xc093) &&
               (user || is_segment(m->ds, SELECTOR_DATA, 0xc093)),
           "segments: CS 0x%x, SS 0x%x, DS 0x%x", m->cs[3], m->ss[3], m->ds[3]);
    report(same_registers(m, execute ? access_rsp - 8 : access_rsp, target), "registers");
    report_prefix_pop();
}

static void check_messages(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(marked); i++)
        check_message(i, false);
    report_prefix_push("ring 3");
    for (unsigned i = 0; i < ARRAY_SIZE(marked); i++)
        check_message(i, true);
    report_prefix_pop();
}

/* ---- several ---- */

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

static void check_several(void)
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

static void check_processors(void)
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

static void check_intercept_page(void)
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
    memcpy(pages + last * PAGE_SIZE + CODE_OFFSET, code, sizeof code);
    *(uint64_t *)data_of(last) = DATA;
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
