/* SPDX-License-Identifier: Apache-2.0 */
/* VTL1's warden: protections, the handler of intercepts, and VTL0's attempts at what it may not do. TLFS 15.9, 15.13. */
#include "protect.h"

#include "apic.h"
#include "console.h"
#include "exit.h"
#include "interrupts.h"
#include "paging.h"
#include "smp.h"
#include "string.h"
#include "user.h"

#define CR4_OSFXSR (1u << 9)
#define CONFIG_MASK_SHIFT 1
#define ATTRIBUTES_CODE64 0xa09bull
#define ATTRIBUTES_DATA 0xc093ull
#define SEGMENT(selector, attributes) ((attributes) << 48 | (uint64_t)(selector) << 32 | 0xffffffff)
#define RFLAGS_FIXED 2
#define USER_STACK_BYTES 4096
#define MESSAGE_PENDING 1

_Static_assert(sizeof(struct memory_intercept) == MESSAGE_PAYLOAD, "the longer form fills the payload");
_Static_assert(offsetof(struct memory_intercept, gpa) == 56 && offsetof(struct memory_intercept, rax) == 112, "layout");
_Static_assert(sizeof(struct hv_message) == 256, "HV_MESSAGE");

extern const char attempt_escape[], attempt_user_end[];
uint64_t attempt_call(attempted function, void *target, void *scratch, uint64_t *stack);
uint64_t attempt_user_call(attempted function, void *target, void *scratch, uint64_t *stack, void *user_stack);

static struct warden *wardens[MAX_CPUS];

struct warden *warden_of(unsigned cpu)
{
    assert(cpu < MAX_CPUS && wardens[cpu]);
    return wardens[cpu];
}

struct warden *warden(void)
{
    return warden_of(this_cpu()->index);
}

void warden_clear(uint32_t policy)
{
    struct warden *self = warden();
    self->count = 0;
    self->status = 0;
    self->given = RIGHTS_ALL;
    self->skipped = 0;
    self->cr3 = 0;
    self->policy = policy;
}

/* ---- protections ---- */

static uint64_t call_fast(uint64_t control, const uint64_t header[2], const uint64_t pages[PROTECT_FAST_PAGES])
{
    uint64_t rax, page = hv_page(), first = header[0];
    register uint64_t r8 asm("r8") = header[1];
    asm volatile("movdqu 0(%[pages]), %%xmm0\n\t"
                 "movdqu 16(%[pages]), %%xmm1\n\t"
                 "movdqu 32(%[pages]), %%xmm2\n\t"
                 "movdqu 48(%[pages]), %%xmm3\n\t"
                 "movdqu 64(%[pages]), %%xmm4\n\t"
                 "movdqu 80(%[pages]), %%xmm5\n\t"
                 "call *%[page]"
                 : "=a"(rax), "+c"(control), "+d"(first), "+r"(r8)
                 : [page] "r"(page), [pages] "r"(pages)
                 : "memory", "cc");
    return rax;
}

uint64_t protect_call(const struct protect_call *call)
{
    uint64_t control = HV_CALL_MODIFY_PROTECTION | HV_REPS(call->count) | (uint64_t)call->first << 48;
    uint64_t header[2] = {call->partition, (uint64_t)call->input_vtl << 32 | call->flags};
    if (call->fast) {
        uint64_t pages[PROTECT_FAST_PAGES] = {0};
        memcpy(pages, call->pages, call->count * sizeof *pages);
        return call_fast(control | HV_FAST, header, pages);
    }
    uint64_t *input = hv_input();
    memcpy(input, header, sizeof header);
    memcpy(input + 2, call->pages, call->count * sizeof *input);
    return hv_call(control, (uint64_t)input, 0);
}

uint64_t protect_call_in_vtl1(void *call)
{
    return protect_call(call);
}

struct range {
    uint64_t gpa, bytes;
    uint32_t rights;
};

static uint64_t protect_range(void *argument)
{
    const struct range *range = argument;
    uint64_t page = range->gpa / PAGE_SIZE, end = (range->gpa + range->bytes + PAGE_SIZE - 1) / PAGE_SIZE;
    uint64_t *input = hv_input();
    while (page < end) {
        uint64_t count = end - page < PROTECT_SLOW_PAGES ? end - page : PROTECT_SLOW_PAGES;
        input[0] = HV_SELF_PARTITION;
        input[1] = (uint64_t)HV_VTL(0) << 32 | range->rights;
        for (uint64_t i = 0; i < count; i++)
            input[2 + i] = page + i;
        uint64_t result = hv_call(HV_CALL_MODIFY_PROTECTION | HV_REPS(count), (uint64_t)input, 0);
        if ((uint16_t)result)
            return (uint16_t)result;
        page += count;
    }
    return 0;
}

static uint64_t in_vtl1(vtl1_function function, void *argument)
{
    return this_cpu()->vtl ? function(argument) : vsm_run(function, argument);
}

uint16_t protect(uint64_t gpa, uint64_t bytes, uint32_t rights)
{
    struct range range = {gpa, bytes, rights};
    return (uint16_t)in_vtl1(protect_range, &range);
}

static uint64_t enable(void *argument)
{
    uint64_t config = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG);
    config = (config & ~VSM_CONFIG_ALL_ACCESS) | (uint64_t)argument << CONFIG_MASK_SHIFT | VSM_CONFIG_ENABLE_PROTECTION;
    return hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, config, 0);
}

uint16_t protect_enable(uint32_t default_rights)
{
    return (uint16_t)in_vtl1(enable, (void *)(uint64_t)default_rights);
}

/* ---- intercepts, in VTL1 ---- */

static void set_of_vtl0(struct warden *self, uint32_t name, uint64_t low, uint64_t high)
{
    uint16_t status = (uint16_t)hv_set_register(HV_SELF_VP, HV_VTL(0), name, low, high);
    if (status && !self->status)
        self->status = status;
}

static void skip(struct warden *self, const struct memory_intercept *memory)
{
    uint64_t length = self->skipped ? self->skipped : memory->length_cr8 & 15;
    if (length && memory->access != ACCESS_EXECUTE) {
        set_of_vtl0(self, HV_REGISTER_RIP, memory->rip + length, 0);
        return;
    }
    /* Not even read: the instruction before it was a call, whose return address is on VTL0's stack. */
    uint64_t stack = hv_register(HV_SELF_VP, HV_VTL(0), HV_REGISTER_RSP);
    set_of_vtl0(self, HV_REGISTER_RIP, *(uint64_t *)stack, 0);
    set_of_vtl0(self, HV_REGISTER_RSP, stack + 8, 0);
}

static void abandon(struct warden *self, const struct memory_intercept *memory)
{
    if (!self->escape)
        abort_run("an intercept outside any attempt: access %u to 0x%lx by 0x%lx", memory->access, memory->gpa,
                  memory->rip);
    if (memory->state & STATE_CPL) {
        set_of_vtl0(self, HV_REGISTER_CS, 0, SEGMENT(SELECTOR_CODE64, ATTRIBUTES_CODE64));
        set_of_vtl0(self, HV_REGISTER_CS + 1, 0, SEGMENT(SELECTOR_DATA, ATTRIBUTES_DATA)); /* SS */
    }
    if (self->cr3)
        set_of_vtl0(self, HV_REGISTER_CR3, self->cr3, 0);
    set_of_vtl0(self, HV_REGISTER_RIP, (uint64_t)attempt_escape, 0);
    set_of_vtl0(self, HV_REGISTER_RSP, self->escape, 0);
    set_of_vtl0(self, HV_REGISTER_RFLAGS, RFLAGS_FIXED, 0);
}

/* Takes the message at `slot` away, once VTL1 has dealt with it. */
static void deal_with(struct warden *self, volatile struct hv_message *slot)
{
    struct hv_message *message = &self->log[self->count < INTERCEPTS_LOGGED ? self->count : INTERCEPTS_LOGGED - 1];
    memcpy(message, (const void *)slot, sizeof *message);
    self->count++;
    const struct memory_intercept *memory = &message->memory;
    switch (self->policy) {
    case POLICY_OPEN: {
        uint16_t status = protect(memory->gpa, 1, self->given);
        if (status)
            abort_run("VTL1 cannot give rights to 0x%lx back: status 0x%x", memory->gpa, status);
        break;
    }
    case POLICY_SKIP:
        skip(self, memory);
        break;
    case POLICY_INJECT:
        set_of_vtl0(self, HV_REGISTER_PENDING_EVENT, self->event[0], self->event[1]);
        break;
    case POLICY_ABANDON:
        abandon(self, memory);
        break;
    case POLICY_LEAVE:
        self->policy = POLICY_OPEN;
        return;
    }
    slot->type = 0;
    if (message->flags & MESSAGE_PENDING)
        wrmsr(HV_MSR_EOM, 0);
}

static void take_message(struct frame *frame)
{
    (void)frame;
    struct warden *self = warden();
    if (self->slot->type)
        deal_with(self, self->slot);
    apic_eoi();
}

static void take_from_assist_page(struct vtl1 *self, struct vtl_frame *frame)
{
    (void)frame;
    deal_with(warden_of(self->cpu.index), (volatile struct hv_message *)self->assist->message);
}

static uint64_t listen(void *argument)
{
    write_cr4(read_cr4() | CR4_OSFXSR); /* hypercalls with XMM input */
    wrmsr(HV_MSR_SCONTROL, 1);
    wrmsr(HV_MSR_SIMP, (uint64_t)argument | 1);
    wrmsr(HV_MSR_SINT0, VECTOR_INTERCEPT);
    return 0;
}

static void listen_on_each(void *argument)
{
    (void)argument;
    vsm_run(listen, (void *)warden()->slot);
}

/* ---- attempts, in VTL0 ---- */

/* RSP behind the pushes is what VTL0 needs to find its way back; the escape is where VTL1 or an exception sends it. */
asm(".text\n"
    "attempt_call:\n\t"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n\t"
    "mov %rsp, (%rcx)\n\t"
    "mov %rdi, %rax\n\t"
    "mov %rsi, %rdi\n\t"
    "mov %rdx, %rsi\n\t"
    "call *%rax\n\t"
    "xor %eax, %eax\n\t"
    "jmp 1f\n"
    "attempt_escape:\n\t"
    "mov $1, %eax\n"
    "1:\n\t"
    "cld\n\t"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n\t"
    "ret\n"
    "attempt_user_call:\n\t"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n\t"
    "mov %rsp, (%rcx)\n\t"
    "push $0x23; push %r8; push $2; push $0x2b; push %rdi\n\t" /* SS, RSP, RFLAGS, CS, RIP of ring 3 */
    "mov %rsi, %rdi\n\t"
    "mov %rdx, %rsi\n\t"
    "iretq\n"
    "attempt_user_end:\n\t" /* where the function returns to; an exception leads to the escape */
    "ud2");
_Static_assert((SELECTOR_USER_DATA | 3) == 0x23 && (SELECTOR_USER_CODE64 | 3) == 0x2b, "selectors of ring 3");

static void end_attempt(struct frame *frame)
{
    struct warden *self = warden();
    if (!self->escape) {
        frame_print(frame);
        abort_run("exception %lu outside any attempt, on CPU %u", frame->vector, this_cpu()->index);
    }
    self->vector = frame->rip == (uint64_t)attempt_user_end ? 0 : (uint32_t)frame->vector;
    self->error_code = frame->error_code;
    frame->rip = (uint64_t)attempt_escape;
    frame->rsp = self->escape;
    frame->rflags = RFLAGS_FIXED;
    frame->cs = SELECTOR_CODE64, frame->ss = SELECTOR_DATA;
}

#define NO_EXCEPTION 0xff /* 0 is ring 3's usual end, by #UD behind the function */

static enum outcome ended(struct warden *self, uint64_t escaped)
{
    self->escape = 0;
    if (!escaped || self->vector == 0)
        return OUTCOME_RETURNED;
    return self->vector == NO_EXCEPTION ? OUTCOME_ABANDONED : OUTCOME_EXCEPTION;
}

enum outcome attempt(attempted function, void *target, void *scratch)
{
    struct warden *self = warden();
    bool interrupts = read_rflags() & RFLAGS_IF;
    self->vector = NO_EXCEPTION;
    uint64_t escaped = attempt_call(function, target, scratch, &self->escape);
    if (interrupts)
        interrupts_on();
    return ended(self, escaped);
}

enum outcome attempt_in_user_mode(attempted function, void *target, void *scratch)
{
    static uint64_t user_stack[USER_STACK_BYTES / 8], kernel_stack[USER_STACK_BYTES / 8] __attribute__((aligned(16)));
    struct warden *self = warden();
    uint64_t stack = this_cpu()->tss.rsp[0];
    user_mode_allow();
    uint64_t *top = user_stack + USER_STACK_BYTES / 8 - 1;
    *top = (uint64_t)attempt_user_end;
    this_cpu()->tss.rsp[0] = (uint64_t)kernel_stack + USER_STACK_BYTES; /* VTL0's own is in use */
    self->vector = NO_EXCEPTION;
    uint64_t escaped = attempt_user_call(function, target, scratch, &self->escape, top);
    this_cpu()->tss.rsp[0] = stack;
    return ended(self, escaped);
}

void protect_listen(void)
{
    static const uint8_t ends[] = {VECTOR_UD, VECTOR_DF, 10 /* #TS */, 11 /* #NP */, 12 /* #SS */, VECTOR_GP, VECTOR_PF};
    for (unsigned i = 0; i < smp_count(); i++) {
        wardens[i] = page_alloc();
        _Static_assert(sizeof(struct warden) <= PAGE_SIZE, "a warden is one page");
        wardens[i]->slot = page_alloc();
        wardens[i]->given = RIGHTS_ALL;
    }
    for (unsigned i = 0; i < sizeof ends; i++)
        interrupt_set_handler_of(0, ends[i], end_attempt);
    interrupt_set_handler_of(1, VECTOR_INTERCEPT, take_message);
    vsm_set_intercepted(take_from_assist_page);
    write_cr4(read_cr4() | CR4_OSFXSR);
    smp_run_all(listen_on_each, NULL);
}
