/* SPDX-License-Identifier: Apache-2.0 */
/* Registers across VTLs and processors: VTL1 reads and changes VTL0's on the same and on other processors, injects
 * exceptions, holds TLB flushes back; nobody gets at a higher VTL's. Some parts need a second processor. TLFS 7.10, 15.5.2,
 * 15.13.3.
 */
#include "vtlaccess/parts.h"

#define ANOTHER_PARTITION 42
#define NO_VP 0xacacacacu
#define NO_REGISTER 0xacacacacu
#define MBEC_ENABLED 1
#define RFLAGS_CF 1ull
#define SINT 6
#define VECTOR_TICK 0x61

#define PENDING 1ull
#define WITH_ERROR_CODE (1ull << 8)
#define VECTOR(v) ((uint64_t)(v) << 16)
#define ERROR_CODE(e) ((uint64_t)(e) << 32)

/* One access in VTL1: a register of a processor's VTL, read or written. */
struct access {
    uint32_t vp, name;
    uint8_t input_vtl;
    uint64_t value[2];
    uint64_t result;
};

static uint64_t read_in_vtl1(void *argument)
{
    struct access *access = argument;
    access->result = hv_get_register(access->vp, access->input_vtl, access->name, access->value);
    return access->value[0];
}

static uint64_t write_in_vtl1(void *argument)
{
    struct access *access = argument;
    access->result = hv_set_register(access->vp, access->input_vtl, access->name, access->value[0], access->value[1]);
    return access->result & 0xffff;
}

/* By VTL1, of VTL0 of this processor unless said otherwise. */
uint64_t get_of(uint32_t vp, uint8_t input_vtl, uint32_t name)
{
    struct access access = {.vp = vp, .name = name, .input_vtl = input_vtl};
    vsm_run(read_in_vtl1, &access);
    return access.result == HV_REPS(1) ? access.value[0] : ~0ull;
}

uint64_t set_of(uint32_t vp, uint8_t input_vtl, uint32_t name, uint64_t low, uint64_t high)
{
    struct access access = {.vp = vp, .name = name, .input_vtl = input_vtl, .value = {low, high}};
    return vsm_run(write_in_vtl1, &access);
}

static uint64_t get(uint32_t name)
{
    return get_of(HV_SELF_VP, HV_VTL(0), name);
}

static uint64_t set(uint32_t name, uint64_t value)
{
    return set_of(HV_SELF_VP, HV_VTL(0), name, value, 0);
}

/* ---- refused ---- */

static uint64_t get_from_another_partition(void *argument)
{
    uint64_t *input = hv_input();
    (void)argument;
    memset(input, 0, 48);
    input[0] = ANOTHER_PARTITION, input[1] = HV_SELF_VP, input[2] = HV_REGISTER_CR3;
    return hv_call(HV_CALL_GET_REGISTERS | HV_REPS(1), (uint64_t)input, (uint64_t)hv_output()) & 0xffff;
}

static void check_refused(void)
{
    uint64_t value[2];
    hv_expect(hv_get_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_CR3, value), HV_STATUS_ACCESS_DENIED,
              "VTL0 does not read VTL1's registers");
    hv_expect(hv_set_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_LSTAR, 0, 0), HV_STATUS_ACCESS_DENIED, "nor writes them");
    hv_expect(hv_set_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0, TLB_LOCKED, 0),
              HV_STATUS_ACCESS_DENIED, "nor locks its own TLB in VTL1's name");
    hv_expect(hv_get_register(HV_SELF_VP, 0x40, HV_REGISTER_CR3, value), HV_STATUS_INVALID_PARAMETER,
              "reserved bits of a target VTL");
    hv_expect(hv_get_register(NO_VP, HV_OWN_VTL, HV_REGISTER_CR3, value), HV_STATUS_INVALID_VP_INDEX, "no such VP");
    hv_expect(get_from_another_partition(NULL), HV_STATUS_INVALID_PARTITION_ID, "another partition");
    hv_expect(vsm_run(get_from_another_partition, NULL), HV_STATUS_INVALID_PARTITION_ID, "another partition, by VTL1");
    hv_expect(set(NO_REGISTER, 0), HV_STATUS_INVALID_PARAMETER, "an unknown register");
    hv_expect(set_of(HV_SELF_VP, HV_VTL(2), HV_REGISTER_CR3, 0, 0), HV_STATUS_ACCESS_DENIED, "VTL2's registers, by VTL1");
    hv_expect(set(HV_REGISTER_CR0, CR0_PG), HV_STATUS_INVALID_REGISTER_VALUE, "paging without protection for VTL0");
    hv_expect(set(HV_REGISTER_CR4, 1ull << 63), HV_STATUS_INVALID_REGISTER_VALUE, "bits of CR4 that are none");
    hv_expect(set(HV_REGISTER_PAT, 2), HV_STATUS_INVALID_REGISTER_VALUE, "a memory type that is none");
    hv_expect(set(HV_REGISTER_EFER, 1ull << 40), HV_STATUS_INVALID_REGISTER_VALUE, "bits of EFER that are none");
    hv_expect(set(HV_REGISTER_LSTAR, 1ull << 62), HV_STATUS_INVALID_REGISTER_VALUE, "an LSTAR that is not canonical");
    hv_expect(set(HV_REGISTER_VP_INDEX, 1), HV_STATUS_INVALID_PARAMETER, "another VP index");
}

/* ---- VTL0's registers ---- */

static void check_reading(void)
{
    struct table_pointer gdt, idt;
    uint64_t stack;
    asm volatile("sgdt %0" : "=m"(gdt));
    asm volatile("sidt %0" : "=m"(idt));
    asm volatile("mov %%rsp, %0" : "=r"(stack));
    wrmsr(0xc0000102, 0x1234);
    wrmsr(HV_MSR_SINT0 + SINT, 0x77);
    report(get(HV_REGISTER_CR3) == read_cr3() && get(HV_REGISTER_CR0) == read_cr0() && get(HV_REGISTER_CR4) == read_cr4(),
           "VTL1 reads VTL0's control registers");
    report(get(HV_REGISTER_EFER) == rdmsr(MSR_EFER) && get(HV_REGISTER_PAT) == rdmsr(MSR_PAT) &&
               get(HV_REGISTER_KERNEL_GS_BASE) == 0x1234 && get(HV_REGISTER_APIC_BASE) == rdmsr(MSR_APIC_BASE),
           "its MSRs");
    report(get(HV_REGISTER_GUEST_OS_ID) == rdmsr(HV_MSR_GUEST_OS_ID) && get(HV_REGISTER_SINT0 + SINT) == 0x77 &&
               get(HV_REGISTER_VP_ASSIST_PAGE) == rdmsr(HV_MSR_VP_ASSIST_PAGE),
           "its synthetic MSRs");
    uint64_t rsp = get(HV_REGISTER_RSP), rip = get(HV_REGISTER_RIP);
    report(rsp < stack + 256 && rsp + 512 > stack, "its stack: 0x%lx", rsp);
    report((rip & ~0xfffull) == hv_page(), "its RIP, which is in the hypercall page: 0x%lx", rip);
    struct access access = {.vp = HV_SELF_VP, .name = HV_REGISTER_CS, .input_vtl = HV_VTL(0)};
    vsm_run(read_in_vtl1, &access);
    report(access.value[1] == (0xa09bull << 48 | (uint64_t)SELECTOR_CODE64 << 32 | 0xffffffff), "its CS: 0x%lx",
           access.value[1]);
    access.name = HV_REGISTER_GDTR;
    vsm_run(read_in_vtl1, &access);
    report(access.value[1] == gdt.base && access.value[0] >> 48 == gdt.limit, "its GDTR: 0x%lx", access.value[1]);
    access.name = HV_REGISTER_IDTR;
    vsm_run(read_in_vtl1, &access);
    report(access.value[1] == idt.base && access.value[0] >> 48 == idt.limit, "its IDTR: 0x%lx", access.value[1]);
    interrupts_on();
    bool on = get(HV_REGISTER_RFLAGS) & RFLAGS_IF;
    interrupts_off();
    report(on && !(get(HV_REGISTER_RFLAGS) & RFLAGS_IF), "its RFLAGS");
    uint64_t own = get_of(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_CR3), named = get_of(HV_SELF_VP, HV_VTL(1), HV_REGISTER_CR3);
    report(own == named && own != read_cr3(), "and its own: 0x%lx", own);
    wrmsr(0xc0000102, 0);
    wrmsr(HV_MSR_SINT0 + SINT, SINT_MASKED);
}

static uint64_t dr3_in_both(void *argument)
{
    uint64_t *seen = argument;
    hv_set_register(HV_SELF_VP, HV_VTL(0), HV_REGISTER_DR3, 0x3333, 0);
    asm volatile("mov %%dr3, %0" : "=r"(*seen));
    return 0;
}

static void check_writing(void)
{
    uint64_t cr4 = read_cr4();
    report(set(HV_REGISTER_KERNEL_GS_BASE, 0x4321) == 0 && rdmsr(0xc0000102) == 0x4321, "VTL1 writes VTL0's MSRs");
    report(set(HV_REGISTER_LSTAR, 0x5678) == 0 && rdmsr(0xc0000082) == 0x5678, "LSTAR");
    report(set(HV_REGISTER_SINT0 + SINT, 0x88) == 0 && rdmsr(HV_MSR_SINT0 + SINT) == 0x88, "a SINT");
    report(set(HV_REGISTER_CR8, 7) == 0 && read_cr8() == 7, "CR8");
    write_cr8(0);
    report(set(HV_REGISTER_CR4, cr4 ^ 8) == 0 && read_cr4() == (cr4 ^ 8), "CR4");
    write_cr4(cr4);
    uint64_t dr7;
    report(set(HV_REGISTER_DR7, 0x400 | 0xd0000) == 0, "DR7");
    asm volatile("mov %%dr7, %0" : "=r"(dr7));
    report(dr7 == (0x400 | 0xd0000), "as VTL0 reads it: 0x%lx", dr7);
    set(HV_REGISTER_DR7, 0x400);
    uint64_t in_vtl1 = 0, in_vtl0;
    vsm_run(dr3_in_both, &in_vtl1);
    asm volatile("mov %%dr3, %0" : "=r"(in_vtl0));
    report(in_vtl1 == 0x3333 && in_vtl0 == 0x3333, "a register that they share is written for both: 0x%lx 0x%lx", in_vtl1,
           in_vtl0);
    wrmsr(0xc0000102, 0);
    wrmsr(HV_MSR_SINT0 + SINT, SINT_MASKED);
}

/* VTL1 sends VTL0 somewhere else: its call comes back at another place. */
static uint64_t redirect(void *argument)
{
    return hv_set_register(HV_SELF_VP, HV_VTL(0), HV_REGISTER_RIP, (uint64_t)argument, 0) & 0xffff;
}

static void check_rip(void)
{
    uint64_t where = 0, control = 0, entry = vsm_call_entry(), service = 0, function = (uint64_t)redirect, target;
    asm volatile("mov %%rsp, %%rbx\n\t"
                 "lea 1f(%%rip), %%rdx\n\t"
                 "call *%[entry]\n\t"
                 "mov $1, %[where]\n\t"
                 "jmp 2f\n"
                 "1: mov $2, %[where]\n\t"
                 "mov %%rbx, %%rsp\n" /* the page did not return */
                 "2:"
                 : [where] "+&r"(where), "+c"(control), "+D"(service), "+S"(function), "=&d"(target)
                 : [entry] "r"(entry)
                 : "rax", "rbx", "r8", "r9", "r10", "r11", "memory", "cc");
    report(where == 2, "VTL1 sets VTL0's RIP: VTL0 goes on there");
}

static void check_flags(void)
{
    uint64_t flags = get(HV_REGISTER_RFLAGS);
    uint64_t after, control = 0, entry = vsm_call_entry(), service = 0, function = (uint64_t)write_in_vtl1;
    struct access access = {.vp = HV_SELF_VP, .name = HV_REGISTER_RFLAGS, .input_vtl = HV_VTL(0),
                            .value = {flags | RFLAGS_CF}};
    uint64_t argument = (uint64_t)&access;
    asm volatile("clc\n\t"
                 "call *%[entry]\n\t"
                 "pushfq; pop %[after]"
                 : [after] "=r"(after), "+c"(control), "+D"(service), "+S"(function), "+d"(argument)
                 : [entry] "r"(entry)
                 : "rax", "r8", "r9", "r10", "r11", "memory", "cc");
    report(access.result == HV_REPS(1) && after & RFLAGS_CF, "and its RFLAGS: 0x%lx", after);
}

/* ---- exceptions ---- */

static volatile uint64_t exception_code, exception_cr2, exceptions;

static void take_exception(struct frame *frame)
{
    exceptions++;
    exception_code = frame->error_code;
    exception_cr2 = read_cr2();
}

static volatile uint64_t wakeups;

/* VTL1's timer finds VTL0 in HLT with interrupts off: nothing but this ends that. */
static volatile bool waking;

static void wake_by_exception(struct frame *frame)
{
    (void)frame;
    wakeups++;
    if (waking)
        hv_set_register(HV_SELF_VP, HV_VTL(0), HV_REGISTER_PENDING_EVENT, PENDING | WITH_ERROR_CODE | VECTOR(VECTOR_GP), 0);
    apic_eoi();
}

static uint64_t frequency;

/* Periodic: on a slow machine the first tick comes before VTL0 has halted. */
static uint64_t start_timer(void *argument)
{
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_TICK, (uint32_t)(frequency / 1000 * (uint64_t)argument));
    return 0;
}

static uint64_t stop_timer(void *argument)
{
    (void)argument;
    apic_timer_start(APIC_TIMER_ONE_SHOT, VECTOR_TICK, 0);
    return 0;
}

static void check_exceptions(void)
{
    interrupt_set_handler(VECTOR_GP, take_exception);
    interrupt_set_handler(VECTOR_PF, take_exception);
    hv_expect(set_of(HV_SELF_VP, HV_VTL(0), HV_REGISTER_PENDING_EVENT,
                     PENDING | WITH_ERROR_CODE | VECTOR(VECTOR_GP) | ERROR_CODE(0x28), 0),
              0, "VTL1 injects #GP");
    report(exceptions == 1 && exception_code == 0x28, "VTL0 takes it: error code 0x%lx", exception_code);
    set_of(HV_SELF_VP, HV_VTL(0), HV_REGISTER_PENDING_EVENT, PENDING | WITH_ERROR_CODE | VECTOR(VECTOR_PF) | ERROR_CODE(2),
           0xabcd000);
    report(exceptions == 2 && exception_code == 2 && exception_cr2 == 0xabcd000, "and #PF with its address: 0x%lx",
           exception_cr2);
    hv_expect(set_of(HV_SELF_VP, HV_VTL(0), HV_REGISTER_PENDING_EVENT, PENDING | WITH_ERROR_CODE | VECTOR(VECTOR_UD), 0),
              HV_STATUS_INVALID_REGISTER_VALUE, "an error code that #UD does not have");
    hv_expect(hv_set_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_PENDING_EVENT, PENDING | VECTOR(VECTOR_UD), 0),
              HV_STATUS_ACCESS_DENIED, "VTL0 injects none into VTL1");

    interrupt_set_handler_of(1, VECTOR_TICK, wake_by_exception);
    waking = true;
    vsm_run(start_timer, (void *)300); /* two in a row would make a double fault */
    for (unsigned i = 1; i <= 3; i++) {
        asm volatile("cli; hlt" : : : "memory");
        while (exceptions < 2 + i) /* a switch of VTLs may end an HLT too (VSM-059) */
            asm volatile("cli; hlt" : : : "memory");
    }
    waking = false; /* a last tick may still come */
    vsm_run(stop_timer, NULL);
    report(wakeups >= 3 && exceptions >= 5, "an exception ends VTL0's HLT with interrupts off: %lu times", wakeups);
    interrupt_set_handler(VECTOR_GP, NULL);
    interrupt_set_handler(VECTOR_PF, NULL);
}

/* ---- secure configuration ---- */

static void check_secure_config(void)
{
    hv_expect(set_of(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0, MBEC_ENABLED, 0),
              HV_STATUS_INVALID_REGISTER_VALUE, "mode-based execute control that the partition has not");
    hv_expect(set_of(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0, 1ull << 20, 0),
              HV_STATUS_INVALID_REGISTER_VALUE, "unknown bits");
    hv_expect_either(set_of(HV_SELF_VP, HV_VTL(0), HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0, TLB_LOCKED, 0),
                     HV_STATUS_ACCESS_DENIED, HV_STATUS_INVALID_PARAMETER, "VTL0 as the owner");
    hv_expect_either(set_of(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0 + 1, TLB_LOCKED, 0),
                     HV_STATUS_ACCESS_DENIED, HV_STATUS_INVALID_PARAMETER, "VTL1 locking itself");
}

static volatile uint64_t flush_done, flush_result;
static volatile bool flushing;

static void flush(void *argument)
{
    uint64_t *input = hv_input();
    input[0] = read_cr3();
    input[1] = 0;
    input[2] = (uint64_t)argument;
    flushing = true;
    flush_result = hv_call(HV_CALL_FLUSH_SPACE, (uint64_t)input, 0);
    flush_done = 1;
}

struct lock_result {
    uint64_t set, meanwhile, cleared, after;
};

/* VTL1 locks VTL0's TLB here and has the other processor's VTL0 try to flush it. */
static uint64_t hold_flush(void *argument)
{
    struct lock_result *result = argument;
    result->set = hv_set_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0, TLB_LOCKED, 0);
    flushing = false, flush_done = 0;
    store_release(&smp_cpu(1)->argument, (void *)1);
    store_release(&smp_cpu(1)->function, flush);
    hv_send_ipi(HV_VTL(0), VECTOR_CALL, 2);
    WAIT_FOR(flushing, LIMIT_MS);
    wait_us(20000);
    result->meanwhile = flush_done;
    return 0;
}

static uint64_t hold_and_release(void *argument)
{
    struct lock_result *result = argument;
    hold_flush(result);
    result->cleared = hv_set_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0, 0, 0);
    WAIT_FOR(flush_done, LIMIT_MS);
    result->after = flush_done;
    return 0;
}

static void check_tlb_lock(void)
{
    struct lock_result result;
    memset(&result, 0, sizeof result);
    vsm_run(hold_and_release, &result);
    smp_wait(1);
    report(result.set == HV_REPS(1) && flushing && result.meanwhile == 0, "a flush of a locked TLB waits");
    report(result.cleared == HV_REPS(1) && result.after == 1 && flush_result == 0, "until it is unlocked: 0x%lx",
           flush_result);
    vsm_run(hold_flush, &result);
    report(result.set == HV_REPS(1) && result.meanwhile == 0 && WAIT_FOR(flush_done, LIMIT_MS) && flush_result == 0,
           "or VTL1 returns");
    smp_wait(1);
    report(hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS) == 0x30000, "both go on");
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    smp_start();
    vsm_start();
    frequency = apic_timer_frequency();
    report_prefix_push("refused");
    check_refused();
    report_prefix_pop();
    report_prefix_push("same processor");
    check_reading();
    check_writing();
    check_rip();
    check_flags();
    check_exceptions();
    report_prefix_pop();
    report_prefix_push("secure configuration");
    check_secure_config();
    report_prefix_pop();
    if (smp_count() > 1) {
        report_prefix_push("another processor");
        check_other();
        check_both();
        check_tlb_lock();
        report_prefix_pop();
    } else {
        report_skip("another processor: there is none");
    }
    return report_summary();
}
