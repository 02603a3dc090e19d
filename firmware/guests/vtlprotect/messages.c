/* SPDX-License-Identifier: Apache-2.0 */
/* What VTL1 is told of an access: each field of the message. */
#include "parts.h"

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

void check_messages(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(marked); i++)
        check_message(i, false);
    report_prefix_push("ring 3");
    for (unsigned i = 0; i < ARRAY_SIZE(marked); i++)
        check_message(i, true);
    report_prefix_pop();
}
