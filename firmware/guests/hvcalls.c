/* SPDX-License-Identifier: Apache-2.0 */
/* Hypercalls about processors: their registers, page tables, start; and what interrupts by MSR do. Needs three
 * processors, which nothing but these calls starts. Structures: TLFS.
 *
 * idle      no checks but that the idle MSR sleeps
 */
#include "hvcalls/parts.h"

#define SEGMENT_TASK 0x008b

#define SINT 3
#define SINT_VECTOR 0x50
#define SELF_VECTOR 0x53

extern struct cpu *ap_cpus[MAX_CPUS];
void ap_main(struct cpu *cpu);

uint64_t input[512] __attribute__((aligned(4096)));
uint64_t output[512] __attribute__((aligned(4096)));
static uint8_t message_page[4096] __attribute__((aligned(4096)));
static uint8_t assist_page[4096] __attribute__((aligned(4096)));
const uint64_t probe_gva = 0x200000000000ull;

uint64_t access_register(uint64_t code, uint32_t vp, uint32_t name, uint64_t value[2])
{
    memset(input, 0, 64);
    input[0] = HV_SELF_PARTITION;
    input[1] = vp;
    ((uint32_t *)input)[4] = name;
    input[4] = value[0], input[5] = value[1];
    uint64_t result = hv_call(code | HV_REPS(1), (uintptr_t)input, (uintptr_t)output);
    if (code == HV_CALL_GET_REGISTERS)
        value[0] = output[0], value[1] = output[1];
    return result;
}

uint64_t get_register(uint32_t vp, uint32_t name, uint64_t value[2])
{
    return access_register(HV_CALL_GET_REGISTERS, vp, name, value);
}

uint64_t set_register(uint32_t vp, uint32_t name, uint64_t low, uint64_t high)
{
    return access_register(HV_CALL_SET_REGISTERS, vp, name, (uint64_t[2]){low, high});
}

uint64_t register_of(uint32_t vp, uint32_t name)
{
    uint64_t value[2] = {0, 0};
    return get_register(vp, name, value) == HV_REPS(1) ? value[0] : ~0ull;
}

/* ---- start ---- */

static struct {
    uint64_t cr0, cr3, cr4, efer, rflags, pat, gs;
    struct table_pointer gdt;
} seen;

uint64_t first_stack;
void record_start(void);
extern const char first_instruction[];

/* The stack is as the context gave it, and GS base too. */
asm(".text\n"
    "first_instruction:\n\t"
    "mov %rsp, first_stack(%rip)\n\t"
    "xor %ebp, %ebp\n\t"
    "call record_start\n");

void record_start(void)
{
    seen.cr0 = read_cr0(), seen.cr3 = read_cr3(), seen.cr4 = read_cr4();
    seen.efer = rdmsr(MSR_EFER), seen.rflags = read_rflags(), seen.pat = rdmsr(MSR_PAT), seen.gs = rdmsr(MSR_GS_BASE);
    asm volatile("sgdt %0" : "=m"(seen.gdt));
    ap_main(this_cpu());
}

static void woken(struct frame *frame)
{
    (void)frame;
    apic_eoi();
}

static struct hv_context *prepare(uint32_t vp, struct cpu *cpu)
{
    struct hv_context *context = (struct hv_context *)(input + 2);
    struct table_pointer gdt, idt;
    asm volatile("sgdt %0" : "=m"(gdt));
    asm volatile("sidt %0" : "=m"(idt));
    memset(input, 0, sizeof input);
    input[0] = HV_SELF_PARTITION;
    input[1] = vp;
    struct hv_segment data = {0, 0xffffffff, SELECTOR_DATA, SEGMENT_DATA};
    context->rip = (uintptr_t)first_instruction;
    context->rsp = cpu ? cpu->stack_top : 0;
    context->rflags = 2;
    context->cs = (struct hv_segment){0, 0xffffffff, SELECTOR_CODE64, SEGMENT_CODE64};
    context->ds = context->es = context->fs = context->gs = context->ss = data;
    context->gs.base = (uintptr_t)cpu;
    context->tr = (struct hv_segment){0, 0xffff, 0, SEGMENT_TASK};
    context->idtr.limit = idt.limit, context->idtr.base = idt.base;
    context->gdtr.limit = gdt.limit, context->gdtr.base = gdt.base;
    context->efer = rdmsr(MSR_EFER) & ~(uint64_t)EFER_LMA;
    context->cr0 = read_cr0(), context->cr3 = read_cr3(), context->cr4 = read_cr4();
    context->pat = rdmsr(MSR_PAT);
    return context;
}

static uint64_t start(void)
{
    return hv_call(HV_CALL_START_VP, (uintptr_t)input, 0);
}

static void check_start(void)
{
    struct cpu *cpu = page_alloc();
    cpu->self = cpu, cpu->index = 1;
    cpu->stack_top = (uint64_t)pages_alloc(4) + 4 * PAGE_SIZE;
    ap_cpus[1] = cpu;
    interrupt_set_handler(VECTOR_CALL, woken);

    report(register_of(1, REGISTER_ACTIVITY) == 1, "the second processor waits for its start");
    prepare(1, cpu)->cr0 = 1u << 31;
    report(start() == HV_STATUS_INVALID_REGISTER_VALUE, "no processor starts with paging and without protection");
    prepare(1, cpu)->tr.attributes = 0;
    report(start() == HV_STATUS_INVALID_REGISTER_VALUE, "nor without a task register");
    prepare(1, cpu)->cr4 |= 1ull << 30;
    report(start() == HV_STATUS_INVALID_REGISTER_VALUE, "nor with bits of CR4 that are none");
    prepare(0, cpu);
    report(start() == HV_STATUS_INVALID_VP_INDEX, "nobody starts itself");
    prepare(3, cpu);
    report(start() == HV_STATUS_INVALID_VP_INDEX, "nor a processor that is not there");
    prepare(1, cpu);
    input[0] = 42;
    report(start() == HV_STATUS_INVALID_PARTITION_ID, "nor another partition's");
    prepare(1, cpu);
    ((uint8_t *)input)[12] = 1;
    report(start() == HV_STATUS_ACCESS_DENIED, "nor one in VTL1");

    struct hv_context wanted = *prepare(1, cpu);
    uint64_t result = start();
    report(result == 0, "start: 0x%lx", result);
    report(WAIT_FOR(load_acquire(&cpu->online), 5000), "the second processor runs");
    report(seen.cr3 == wanted.cr3 && seen.cr4 == wanted.cr4 && (seen.cr0 & ~0x8ull) == (wanted.cr0 & ~0x8ull),
           "its control registers: 0x%lx 0x%lx 0x%lx", seen.cr0, seen.cr3, seen.cr4);
    report(seen.efer == (wanted.efer | EFER_LMA), "LMA is set: 0x%lx", seen.efer);
    report(first_stack == wanted.rsp && seen.gs == (uintptr_t)cpu, "its stack and GS base");
    report(!(seen.rflags & RFLAGS_IF) && seen.pat == wanted.pat,
           "its flags and PAT: 0x%lx 0x%lx", seen.rflags, seen.pat);
    report(seen.gdt.base == wanted.gdtr.base && seen.gdt.limit == wanted.gdtr.limit, "its GDT");
    prepare(1, cpu);
    result = start();
    report(result == HV_STATUS_INVALID_VP_STATE, "a processor that runs is not started: 0x%lx", result);
    report(register_of(2, REGISTER_ACTIVITY) == 1, "the third still waits");
}

/* ---- another processor's registers ---- */

#define MARK 0x1111222233334444ull
#define CHANGED 0x5555666677778888ull

static volatile uint64_t left_with, loop_rip;

static void __attribute__((noinline)) turn(void *argument)
{
    (void)argument;
    uint64_t rbx = MARK;
    asm volatile("lea 1f(%%rip), %%rax\n\t"
                 "mov %%rax, %1\n"
                 "1: pause\n\t"
                 "cmp %2, %0\n\t"
                 "je 1b"
                 : "+&b"(rbx), "=m"(loop_rip)
                 : "r"(MARK)
                 : "rax", "cc", "memory");
    left_with = rbx;
}

static volatile uint64_t gp_code, gp_cpu;

static void general_protection(struct frame *frame)
{
    gp_code = frame->error_code, gp_cpu = this_cpu()->index;
    frame->rbx = 0; /* out of the loop */
}

static void check_other_registers(void)
{
    smp_run_async(1, turn, NULL);
    WAIT_FOR(loop_rip, 1000);
    uint64_t rip = register_of(1, REGISTER_RIP);
    report(register_of(1, REGISTER_RBX) == MARK && rip >= loop_rip && rip < loop_rip + 16,
           "its RBX and RIP, while it runs");
    report(register_of(1, REGISTER_VP_INDEX) == 1 && register_of(1, REGISTER_CR3) == read_cr3(),
           "its VP index and CR3");
    report(register_of(1, REGISTER_INITIAL_APIC_ID) == ap_cpus[1]->apic_id, "its APIC id");
    check_translation(1);
    uint64_t result = set_register(1, REGISTER_RBX, CHANGED, 0);
    report(result == HV_REPS(1), "set its RBX: 0x%lx", result);
    smp_wait(1);
    report(left_with == CHANGED, "it saw the change");

    loop_rip = 0;
    interrupt_set_handler(VECTOR_GP, general_protection);
    smp_run_async(1, turn, NULL);
    WAIT_FOR(loop_rip, 1000);
    result = set_register(1, REGISTER_PENDING_EVENT, 1 | 1u << 8 | (uint64_t)VECTOR_GP << 16 | 0x28ull << 32, 0);
    report(result == HV_REPS(1), "an exception for it: 0x%lx", result);
    smp_wait(1);
    report(gp_code == 0x28 && gp_cpu == 1, "it took the exception: error code 0x%lx", gp_code);
    interrupt_set_handler(VECTOR_GP, NULL);
    report(set_register(1, REGISTER_PENDING_EVENT, 1 | 6u << 16 | 1u << 8, 0) == HV_STATUS_INVALID_REGISTER_VALUE,
           "no error code for an exception without one");

    input[0] = HV_SELF_PARTITION, input[1] = 0;
    ((uint32_t *)input)[4] = ap_cpus[1]->apic_id, ((uint32_t *)input)[5] = apic_id();
    result = hv_call(HV_CALL_VP_INDEX_FROM_APIC_ID | HV_REPS(2), (uintptr_t)input, (uintptr_t)output);
    report(result == HV_REPS(2) && output[0] == 1, "VP indices of two APIC ids: 0x%lx", output[0]);
}

/* ---- interrupts ---- */

static volatile uint32_t self_count, sint_count;

static void self_handler(struct frame *frame)
{
    (void)frame;
    self_count++;
    apic_eoi();
}

/* An interrupt by AutoEoi is over when it is taken: no EOI. */
static void sint_handler(struct frame *frame)
{
    (void)frame;
    sint_count++;
}

static void check_interrupts(void)
{
    interrupt_set_handler(SELF_VECTOR, self_handler);
    interrupts_on();
    uint32_t late = 0;
    for (unsigned i = 0; i < 100; i++) {
        uint32_t before = self_count;
        uint32_t after;
        asm volatile("wrmsr\n\t"
                     "nop\n\t"
                     "mov %[count], %[after]"
                     : [after] "=r"(after)
                     : "c"(HV_MSR_ICR), "a"(SELF_VECTOR | APIC_SHORTHAND_SELF | APIC_LEVEL_ASSERT), "d"(0),
                     [count] "m"(self_count)
                     : "memory");
        late += after != before + 1;
    }
    report(late == 0, "an IPI to oneself by the ICR's MSR comes before the next instruction: %u times not", late);
    interrupts_off();
    wrmsr(HV_MSR_TPR, 0x60);
    wrmsr(HV_MSR_ICR, SELF_VECTOR | APIC_SHORTHAND_SELF | APIC_LEVEL_ASSERT);
    interrupts_on();
    wait_us(1000);
    bool held = self_count == 100;
    wrmsr(HV_MSR_TPR, 0);
    report(held && WAIT_FOR(self_count == 101, 1000), "the TPR's MSR holds an interrupt back");
    uint64_t icr = rdmsr(HV_MSR_ICR);
    report((icr & 0xff) == SELF_VECTOR, "the ICR's MSR reads 0x%lx", icr);
}

static void check_auto_eoi(void)
{
    interrupt_set_handler(SINT_VECTOR, sint_handler);
    wrmsr(HV_MSR_SIMP, (uint64_t)(uintptr_t)message_page | 1);
    wrmsr(HV_MSR_SCONTROL, 1);
    wrmsr(HV_MSR_SINT0 + SINT, SINT_VECTOR | SINT_AUTO_EOI);
    bool came = true, in_service = false;
    for (uint32_t i = 1; i <= 5 && came; i++) {
        wrmsr(HV_MSR_STIMER0_COUNT, rdmsr(HV_MSR_TIME_REF_COUNT) + MS_100NS);
        wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_ENABLED | STIMER_SINT(SINT));
        came = WAIT_FOR(sint_count == i, 1000);
        in_service |= !WAIT_FOR(!apic_isr(SINT_VECTOR), 1000);
        *(uint32_t *)(message_page + SINT * 256) = 0;
        wrmsr(HV_MSR_EOM, 0);
    }
    report(came, "the same vector again and again without an EOI: %u times", sint_count);
    report(!in_service, "none stays in service");
    wrmsr(HV_MSR_SINT0 + SINT, 1 << 16);
}

static void check_eoi_assist(void)
{
    wrmsr(HV_MSR_VP_ASSIST_PAGE, (uint64_t)(uintptr_t)assist_page | 1);
    volatile uint32_t *assist = (volatile uint32_t *)assist_page;
    uint32_t before = self_count, offered = 0;
    for (unsigned i = 0; i < 100; i++) {
        apic_send_self(SELF_VECTOR);
        WAIT_FOR(self_count == before + i + 1, 1000);
        offered += *assist & 1;
    }
    report(self_count == before + 100 && !offered, "no EOI is said to be needless: all %u are made",
           self_count - before);
    wrmsr(HV_MSR_VP_ASSIST_PAGE, 0);
    interrupts_off();
}

/* ---- the rest ---- */

static void check_misc(void)
{
    struct cpuid unused = cpuid(0x40000080, 0), stack = cpuid(0x40000081, 0);
    report(cpuid(1, 0).ecx >> 31 & 1, "a hypervisor is present");
    report(!(unused.eax | unused.ebx | unused.ecx | unused.edx | stack.eax),
           "no virtualization stack: 0x%x 0x%x", unused.eax, stack.eax);
    report(wrmsr_safe(HV_MSR_NPIEP, 1) == VECTOR_GP, "no NPIEP: its MSR faults");
    uint64_t first = rdmsr(HV_MSR_VP_RUNTIME), value;
    wait_us(20000);
    uint64_t second = rdmsr(HV_MSR_VP_RUNTIME);
    report(second > first && second - first < 100 * MS_100NS && wrmsr_safe(HV_MSR_VP_RUNTIME, 1) == VECTOR_GP,
           "run time grows: %lu", second - first);
    volatile uint64_t *data = page_alloc();
    for (unsigned i = 0; i < 512; i++)
        data[i] = MARK + i;
    asm volatile("invd" : : : "memory");
    uint32_t lost = 0;
    for (unsigned i = 0; i < 512; i++)
        lost += data[i] != MARK + i;
    report(lost == 0, "INVD loses nothing: %u", lost);
    report(rdmsr_safe(HV_MSR_GUEST_IDLE, &value) == VECTOR_GP, "no idle MSR unless it is announced");
}

static void tick(struct frame *frame)
{
    (void)frame;
    sint_count++;
    apic_eoi();
}

/* With interrupts off the timer's interrupt waits, and ends the sleep all the same. */
static void sleep_by_msr(void)
{
    report(cpuid(HV_LEAF_FEATURES, 0).eax >> 10 & 1 && cpuid(HV_LEAF_FEATURES, 0).edx >> 5 & 1, "idling is announced");
    interrupt_set_handler(SINT_VECTOR, tick);
    wrmsr(HV_MSR_SCONTROL, 1);
    for (unsigned enabled = 0; enabled < 2; enabled++) {
        if (enabled)
            interrupts_on();
        uint32_t before = sint_count;
        uint64_t begin = rdmsr(HV_MSR_TIME_REF_COUNT), due = begin + 50 * MS_100NS;
        wrmsr(HV_MSR_STIMER0_COUNT, due);
        wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_ENABLED | STIMER_DIRECT(SINT_VECTOR));
        uint64_t run = rdmsr(HV_MSR_VP_RUNTIME);
        unsigned reads = 0;
        uint64_t now;
        do {
            rdmsr(HV_MSR_GUEST_IDLE);
            now = rdmsr(HV_MSR_TIME_REF_COUNT);
            reads++;
        } while (now < due && reads < 1000);
        uint64_t ran = rdmsr(HV_MSR_VP_RUNTIME) - run;
        report(now >= due && reads < 20, "slept until the timer, interrupts %s: %lu us, %u reads",
               enabled ? "on" : "off", (now - begin) / 10, reads);
        report(sint_count == before + enabled, "the interrupt is %s", enabled ? "taken" : "still to come");
        report(ran * 5 < (now - begin) * 4, "without running: %lu us", ran / 10);
        interrupts_on();
        WAIT_FOR(sint_count == before + 1, 1000);
        interrupts_off();
    }
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    if (cpuid(HV_LEAF_VENDOR, 0).ebx != 0x7263694d) {
        report_skip("no Hyper-V interface");
        return report_summary();
    }
    if (argument_given("idle")) {
        sleep_by_msr();
        return report_summary();
    }
    write_cr4(read_cr4() | 1u << 9); /* OSFXSR */
    hv_init();
    check_misc();
    check_all_registers();
    check_refusals();
    check_extended();
    check_switch();
    check_translation(HV_SELF_VP);
    check_start();
    check_other_registers();
    check_interrupts();
    check_auto_eoi();
    check_eoi_assist();
    return report_summary();
}
