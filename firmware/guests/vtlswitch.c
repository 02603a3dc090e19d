/* SPDX-License-Identifier: Apache-2.0 */
/* VTL call and return: registers of the sequence, fast return, #UD where there is nothing to switch to, entry reasons,
 * where each VTL goes on. TLFS 15.6 to 15.8.
 *
 * calls=N   of the loop that counts (200)
 */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define SERVICE_MARK 1  /* other values for RAX and RCX */
#define SERVICE_FAST 2  /* the same, but returns fast */
#define SERVICE_COUNT 3
#define SERVICE_STATUS 4
#define MARK_RAX 0xaaaa1111aaaa1111ull
#define MARK_RCX 0xcccc2222cccc2222ull
#define TIMER_VECTOR 0x61
#define REGISTER_RIP 0x20010
#define OPCODE_RET 0xc3

static uint64_t apic_frequency;
static volatile uint64_t ud_count, ud_rip, ud_rcx, ud_rax, ud_vtl;

/* The page's entries are called: the stack has the address to go on at. */
static void refused(struct frame *frame)
{
    ud_count++;
    ud_rip = frame->rip, ud_rcx = frame->rcx, ud_rax = frame->rax, ud_vtl = this_cpu()->vtl;
    frame->rip = *(uint64_t *)frame->rsp;
    frame->rsp += 8;
}

struct result {
    uint64_t rax, rcx;
};

static struct result call_at(uint64_t entry, uint64_t rax, uint64_t rcx, uint64_t service)
{
    uint64_t rsi = 0, rdx = 0;
    asm volatile("call *%[entry]"
                 : "+a"(rax), "+c"(rcx), "+D"(service), "+S"(rsi), "+d"(rdx)
                 : [entry] "r"(entry)
                 : "memory", "cc", "r8", "r9", "r10", "r11");
    return (struct result){rax, rcx};
}

/* Was `entry` refused with an RIP in the hypercall page, and no other? */
static bool refuses(uint64_t entry, uint64_t rax, uint64_t rcx)
{
    uint64_t before = ud_count;
    call_at(entry, rax, rcx, SERVICE_COUNT);
    return ud_count == before + 1 && (ud_rip & ~0xfffull) == hv_page() && ud_vtl == this_cpu()->vtl;
}

static volatile uint64_t counted;

static void serve(struct vtl1 *self, struct vtl_frame *frame)
{
    self->return_fast = false;
    switch (frame->rdi) {
    case SERVICE_FAST:
        self->return_fast = true;
        /* fall through */
    case SERVICE_MARK:
        frame->rax = MARK_RAX;
        frame->rcx = MARK_RCX;
        break;
    case SERVICE_COUNT:
        counted++;
        break;
    case SERVICE_STATUS:
        frame->rax = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS);
        break;
    }
}

static void check_before(void)
{
    report(refuses(vsm_call_entry(), 0, 0), "a VTL call with nothing above");
    report(refuses(vsm_return_entry(), 0, 0), "a VTL return with nothing below");
    report(refuses(vsm_return_entry(), 0, 1), "a fast one");
}

static void check_refused_calls(void)
{
    uint64_t before = counted;
    report(refuses(vsm_call_entry(), 0, 1), "a VTL call with control 1");
    report(refuses(vsm_call_entry(), 0, 1ull << 63), "with control bit 63");
    report(refuses(hv_page(), 0, HV_CALL_VTL_CALL | HV_FAST), "with the fast bit");
    report(refuses(hv_page(), 0, HV_CALL_VTL_CALL | HV_REPS(1)), "with a repetition count");
    report(refuses(hv_page(), 1, HV_CALL_VTL_CALL), "made by hand, with control 1");
    report(ud_rcx == HV_CALL_VTL_CALL && ud_rax == 1, "leaves the registers: 0x%lx 0x%lx", ud_rax, ud_rcx);
    report(refuses(vsm_return_entry(), 0, 0), "a VTL return of VTL0");
    report(counted == before, "VTL1 did not run");
    call_at(hv_page(), 0, HV_CALL_VTL_CALL, SERVICE_COUNT);
    report(counted == before + 1, "a VTL call made by hand");
}

static uint64_t refused_in_vtl1(void *argument)
{
    (void)argument;
    report(refuses(vsm_call_entry(), 0, 0), "a VTL call of VTL1");
    report(refuses(vsm_return_entry(), 0, 2), "a VTL return of VTL1 with control 2");
    report(refuses(vsm_return_entry(), 0, 1ull << 32), "with control bit 32");
    report(refuses(hv_page(), 0, HV_CALL_VTL_RETURN | HV_FAST), "with the fast bit of the call");
    return 7;
}

static uint64_t rip_of_vtl0(void *argument)
{
    (void)argument;
    return hv_register(HV_SELF_VP, HV_VTL(0), REGISTER_RIP);
}

/* VTL0 has left the page's trap behind before VTL1 runs: what comes next is the entry's RET. */
static void check_rip(void)
{
    uint64_t rip = vsm_run(rip_of_vtl0, NULL);
    report((rip & ~0xfffull) == hv_page() && *(const uint8_t *)rip == OPCODE_RET,
           "VTL1 sees VTL0's RIP behind its call: 0x%lx, page 0x%lx", rip, hv_page());
}

/* Who hashes the page must always find the same. */
static uint64_t sum_of_page(void *argument)
{
    const volatile uint8_t *page = (const volatile uint8_t *)hv_page();
    uint64_t sum = 0;
    (void)argument;
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        sum = (sum << 7 | sum >> 57) ^ page[i];
    return sum;
}

static void check_registers(void)
{
    struct result result = call_at(vsm_call_entry(), 0x1234, 0, SERVICE_MARK);
    report(result.rax == MARK_RAX && result.rcx == MARK_RCX, "a return loads RAX and RCX: 0x%lx 0x%lx", result.rax,
           result.rcx);
    result = call_at(vsm_call_entry(), 0x1234, 0, SERVICE_FAST);
    report(result.rax != MARK_RAX && result.rcx != MARK_RCX, "a fast one does not: 0x%lx 0x%lx", result.rax, result.rcx);
    result = call_at(vsm_call_entry(), 0x1234, 0, SERVICE_MARK);
    report(result.rax == MARK_RAX && result.rcx == MARK_RCX, "the next one does again");
    call_at(vsm_call_entry(), 0x1234, 0, SERVICE_COUNT);
    report(vtl1_of(0)->rax == 0, "VTL1 finds the control value in RAX: 0x%lx", vtl1_of(0)->rax);
    check_rip();
}

static uint64_t read_reason(void *argument)
{
    (void)argument;
    return vtl1_self()->assist->entry_reason;
}

static uint64_t read_offsets(void *argument)
{
    (void)argument;
    return hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CODE_PAGE_OFFSETS);
}

static void check_entries(uint64_t calls)
{
    struct vtl1 *vtl1 = vtl1_of(0);
    report(vtl1->entries[ENTRY_FIRST] == 1, "VTL1 started once");
    report(vsm_run(read_reason, NULL) == ENTRY_CALL, "the entry reason of a call");
    uint64_t entries = vtl1->entries[ENTRY_CALL], before = counted, start = rdtsc();
    for (uint64_t i = 0; i < calls; i++)
        vsm_call(SERVICE_COUNT, 0, 0, 0);
    uint64_t ns = tsc_to_ns(rdtsc() - start);
    report(counted == before + calls && vtl1->entries[ENTRY_CALL] == entries + calls, "%lu calls, as many entries",
           calls);
    report_info("a call and return: %lu ns", ns / calls);
    report(vsm_call(SERVICE_STATUS, 0, 0, 0) == 0x30001 &&
               hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS) == 0x30000,
           "each VTL sees that it is the active one");
    report(read_offsets(NULL) == vsm_run(read_offsets, NULL), "the entries lie at the same places in both");
}

static volatile uint32_t taken;
static volatile uint8_t seen;

static void take(struct frame *frame)
{
    (void)frame;
    taken++;
    seen = 1;
    apic_eoi();
}

static uint64_t start_timer(void *argument)
{
    (void)argument;
    apic_timer_start(APIC_TIMER_ONE_SHOT, TIMER_VECTOR, (uint32_t)(apic_frequency / 500));
    return 0;
}

/* All general registers over an entry that VTL1's timer makes at any instruction. */
static void check_interrupted(void)
{
    uint64_t marks[15], now[15], lost = 0;
    apic_frequency = apic_timer_frequency();
    interrupt_set_handler_of(1, TIMER_VECTOR, take);
    uint64_t entries = vtl1_of(0)->entries[ENTRY_INTERRUPT];
    for (unsigned i = 0; i < ARRAY_SIZE(marks); i++)
        marks[i] = 0x0101010101010101ull * (i + 1);
    for (unsigned round = 0; round < 5; round++) {
        seen = 0;
        vsm_run(start_timer, NULL);
        uint64_t flags, *from = marks, *to = now;
        asm volatile("push %%rbx; push %%rbp; push %%rdi\n\t"
                     "mov %%rsi, %%rax\n\t"
                     "mov 8(%%rax), %%rbx; mov 16(%%rax), %%rcx; mov 24(%%rax), %%rdx; mov 32(%%rax), %%rsi\n\t"
                     "mov 40(%%rax), %%rdi; mov 48(%%rax), %%rbp; mov 56(%%rax), %%r8; mov 64(%%rax), %%r9\n\t"
                     "mov 72(%%rax), %%r10; mov 80(%%rax), %%r11; mov 88(%%rax), %%r12; mov 96(%%rax), %%r13\n\t"
                     "mov 104(%%rax), %%r14; mov 112(%%rax), %%r15\n\t"
                     "mov 0(%%rax), %%rax\n"
                     "1: pause; testb $1, %[seen]; jz 1b\n\t"
                     "stc\n\t"
                     "xchg %%rax, (%%rsp)\n\t" /* where to; RAX goes to the stack */
                     "mov %%rbx, 8(%%rax); mov %%rcx, 16(%%rax); mov %%rdx, 24(%%rax); mov %%rsi, 32(%%rax)\n\t"
                     "mov %%rdi, 40(%%rax); mov %%rbp, 48(%%rax); mov %%r8, 56(%%rax); mov %%r9, 64(%%rax)\n\t"
                     "mov %%r10, 72(%%rax); mov %%r11, 80(%%rax); mov %%r12, 88(%%rax); mov %%r13, 96(%%rax)\n\t"
                     "mov %%r14, 104(%%rax); mov %%r15, 112(%%rax)\n\t"
                     "pop 0(%%rax)\n\t"
                     "pushfq; pop %%rcx\n\t"
                     "pop %%rbp; pop %%rbx"
                     : "=&c"(flags), "+S"(from), "+D"(to)
                     : [seen] "m"(seen)
                     : "rax", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
        for (unsigned i = 0; i < ARRAY_SIZE(marks); i++)
            lost += now[i] != marks[i];
        lost += !(flags & 1);
    }
    report(taken == 5 && vtl1_of(0)->entries[ENTRY_INTERRUPT] >= entries + 5, "its timer enters VTL1: %u times", taken);
    report(lost == 0, "all registers of VTL0 are as before: %lu are not", lost);
    report(vsm_run(read_reason, NULL) == ENTRY_CALL, "a call after it has its own reason");
}

/* ---- ring 3 ---- */

static void check_user_mode(void)
{
    uint64_t before = vtl1_of(0)->entries[ENTRY_CALL];
    struct user_call call = {0};
    user_mode_call((const void *)vsm_call_entry(), &call);
    interrupt_set_handler(VECTOR_UD, refused);
    report(call.cs == (SELECTOR_USER_CODE64 | 3) && vtl1_of(0)->entries[ENTRY_CALL] == before,
           "a VTL call from ring 3, by exception %lu", call.vector);
}

static void count_calls(void *argument)
{
    for (uint64_t i = 0; i < (uint64_t)argument; i++)
        vsm_call(SERVICE_MARK, 0, 0, 0);
}

static void check_all_processors(uint64_t calls)
{
    uint64_t before[MAX_CPUS], wrong = 0;
    for (unsigned i = 0; i < smp_count(); i++)
        before[i] = vtl1_of(i)->entries[ENTRY_CALL];
    smp_run_all(count_calls, (void *)calls);
    for (unsigned i = 0; i < smp_count(); i++)
        wrong += vtl1_of(i)->entries[ENTRY_CALL] != before[i] + calls;
    report(wrong == 0, "%lu calls on each of %u processors at once", calls, smp_count());
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    uint64_t calls = argument_number("calls", 200);
    interrupt_set_handler_of(0, VECTOR_UD, refused);
    interrupt_set_handler_of(1, VECTOR_UD, refused);
    report_prefix_push("before VTL1 is there");
    check_before();
    report_prefix_pop();
    smp_start();
    vsm_start();
    vsm_set_service(serve);
    uint64_t sums[VTLS] = {sum_of_page(NULL), vsm_run(sum_of_page, NULL)};

    report_prefix_push("refused");
    check_refused_calls();
    report(vsm_run(refused_in_vtl1, NULL) == 7, "and VTL1 goes on");
    check_user_mode();
    report_prefix_pop();
    report_prefix_push("registers");
    check_registers();
    report_prefix_pop();
    report_prefix_push("entries");
    check_entries(calls);
    check_interrupted();
    check_all_processors(calls / 4);
    report_prefix_pop();
    report(sum_of_page(NULL) == sums[0] && vsm_run(sum_of_page, NULL) == sums[1],
           "the hypercall pages have the bytes they had: 0x%lx 0x%lx", sums[0], sums[1]);
    return report_summary();
}
