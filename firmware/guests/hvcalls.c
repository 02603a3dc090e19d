/* SPDX-License-Identifier: Apache-2.0 */
/* Hypercalls about processors: their registers, page tables, start; and what interrupts by MSR do. Needs three
 * processors, which nothing but these calls starts. Structures: TLFS.
 *
 * idle      no checks but that the idle MSR sleeps
 */
#include "hyperv.h"
#include "runtime.h"

#define REGISTER_ACTIVITY 0x00000004
#define REGISTER_FEATURES 0x00000200
#define REGISTER_PENDING_INTERRUPTION 0x00010002
#define REGISTER_INTERRUPT_STATE 0x00010003
#define REGISTER_PENDING_EVENT 0x00010004
#define REGISTER_RAX 0x00020000
#define REGISTER_RBX 0x00020003
#define REGISTER_RIP 0x00020010
#define REGISTER_RFLAGS 0x00020011
#define REGISTER_XMM0 0x00030000
#define REGISTER_FP_MMX0 0x00030010
#define REGISTER_FP_CONTROL 0x00030018
#define REGISTER_XMM_CONTROL 0x00030019
#define REGISTER_CR0 0x00040000
#define REGISTER_CR2 0x00040001
#define REGISTER_CR3 0x00040002
#define REGISTER_CR4 0x00040003
#define REGISTER_CR8 0x00040004
#define REGISTER_DR0 0x00050000
#define REGISTER_DR6 0x00050004
#define REGISTER_DR7 0x00050005
#define REGISTER_ES 0x00060000
#define REGISTER_CS 0x00060001
#define REGISTER_TR 0x00060007
#define REGISTER_IDTR 0x00070000
#define REGISTER_GDTR 0x00070001
#define REGISTER_TSC 0x00080000
#define REGISTER_EFER 0x00080001
#define REGISTER_KERNEL_GS_BASE 0x00080002
#define REGISTER_APIC_BASE 0x00080003
#define REGISTER_PAT 0x00080004
#define REGISTER_SYSENTER_CS 0x00080005
#define REGISTER_SFMASK 0x0008000b
#define REGISTER_INITIAL_APIC_ID 0x0008000c
#define REGISTER_MTRR_CAP 0x0008000d
#define REGISTER_MTRR_DEF_TYPE 0x0008000e
#define REGISTER_APIC_ID 0x00084802
#define REGISTER_APIC_SPURIOUS 0x0008480f
#define REGISTER_VP_INDEX 0x00090003
#define REGISTER_VSM_VINA 0x000d0005

#define TRANSLATE_READ 1u
#define TRANSLATE_WRITE 2u
#define TRANSLATE_EXECUTE 4u
#define TRANSLATE_SET_BITS 0x10u
#define TRANSLATE_USER 0x80u
#define NOT_PRESENT 1
#define PRIVILEGE_VIOLATION 2
#define GPA_UNMAPPED 4
#define ILLEGAL_OVERLAY 7
#define WRITE_BACK 6

#define SEGMENT_CODE64 0xa09b
#define SEGMENT_DATA 0xc093
#define SEGMENT_TASK 0x008b

#define SINT 3
#define SINT_VECTOR 0x50
#define SELF_VECTOR 0x53

extern struct cpu *ap_cpus[MAX_CPUS];
void ap_main(struct cpu *cpu);

static uint64_t input[512] __attribute__((aligned(4096)));
static uint64_t output[512] __attribute__((aligned(4096)));
static uint8_t message_page[4096] __attribute__((aligned(4096)));
static uint8_t assist_page[4096] __attribute__((aligned(4096)));
static const uint64_t probe_gva = 0x200000000000ull; /* no identity there */

static uint64_t get_register(uint32_t vp, uint32_t name, uint64_t value[2])
{
    memset(input, 0, 64);
    input[0] = HV_SELF_PARTITION;
    input[1] = vp;
    ((uint32_t *)input)[4] = name;
    uint64_t result = hv_call(HV_CALL_GET_REGISTERS | HV_REPS(1), (uintptr_t)input, (uintptr_t)output);
    value[0] = output[0], value[1] = output[1];
    return result;
}

static uint64_t set_register(uint32_t vp, uint32_t name, uint64_t low, uint64_t high)
{
    memset(input, 0, 64);
    input[0] = HV_SELF_PARTITION;
    input[1] = vp;
    ((uint32_t *)input)[4] = name;
    input[4] = low, input[5] = high;
    return hv_call(HV_CALL_SET_REGISTERS | HV_REPS(1), (uintptr_t)input, 0);
}

static uint64_t register_of(uint32_t vp, uint32_t name)
{
    uint64_t value[2] = {0, 0};
    return get_register(vp, name, value) == HV_REPS(1) ? value[0] : ~0ull;
}

/* ---- one's own registers ---- */

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

static void check_all_registers(void)
{
    uint32_t unread = 0, unwritten = 0, count = 0;
    for (unsigned group = 0; group < ARRAY_SIZE(groups); group++)
        for (uint32_t name = groups[group].first; name <= groups[group].last; name++) {
            uint64_t value[2], again[2];
            count++;
            if (get_register(HV_SELF_VP, name, value) != HV_REPS(1)) {
                report_info("register 0x%x cannot be read", name);
                unread++;
            } else if (groups[group].written_back) {
                bool set = set_register(HV_SELF_VP, name, value[0], value[1]) == HV_REPS(1);
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
    uint64_t value[2];
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

static void check_refusals(void)
{
    uint64_t value[2];
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

static void check_extended(void)
{
    output[0] = ~0ull;
    uint64_t result = hv_call(HV_CALL_QUERY_CAPABILITIES, 0, (uintptr_t)output);
    report(result == 0 && output[0] == 0, "extended capabilities: 0x%lx", output[0]);
    report(cpuid(HV_LEAF_FEATURES, 0).ebx >> 20 & 1, "announced");
    report(hv_call(0x8002, 0, (uintptr_t)output) == HV_STATUS_INVALID_CODE, "no other extended call");
}

static void check_switch(void)
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

/* ---- page tables ---- */

static struct {
    uint64_t status, page;
    uint32_t code;
    uint8_t cache, overlay;
} found;

static uint32_t translate(uint32_t vp, uint64_t flags, uint64_t address)
{
    input[0] = HV_SELF_PARTITION;
    input[1] = vp;
    input[2] = flags;
    input[3] = address >> 12;
    memset(output, 0xff, 64);
    found.status = hv_call(HV_CALL_TRANSLATE, (uintptr_t)input, (uintptr_t)output);
    found.code = (uint32_t)output[0];
    found.cache = output[0] >> 32 & 0xff;
    found.overlay = output[0] >> 40 & 1;
    found.page = output[1];
    return found.status ? ~0u : found.code;
}

static void check_translation(uint32_t vp)
{
    uint64_t *page = page_alloc();
    uint64_t frame = (uintptr_t)page >> 12;
    page_map(probe_gva, (uintptr_t)page, PTE_PRESENT | PTE_WRITE);
    uint64_t *entry = page_entry(probe_gva);
    translate(vp, TRANSLATE_READ | TRANSLATE_WRITE | TRANSLATE_EXECUTE, probe_gva);
    report(!found.status && !found.code && found.page == frame && found.cache == WRITE_BACK && !found.overlay,
           "a page: code %u, page 0x%lx, cache type %u", found.code, found.page, found.cache);
    report(!(*entry & (PTE_ACCESSED | PTE_DIRTY)), "looking sets no bits");
    translate(vp, TRANSLATE_WRITE | TRANSLATE_SET_BITS, probe_gva);
    report((*entry & (PTE_ACCESSED | PTE_DIRTY)) == (PTE_ACCESSED | PTE_DIRTY), "unless asked to");
    report(translate(vp, TRANSLATE_READ | TRANSLATE_USER, probe_gva) == PRIVILEGE_VIOLATION,
           "user mode may not read it");
    page_protect(probe_gva, PTE_PRESENT);
    report(translate(vp, TRANSLATE_WRITE, probe_gva) == (read_cr0() & CR0_WP ? PRIVILEGE_VIOLATION : 0),
           "nor anybody write it");
    page_map(probe_gva, 0xfed0000000ull, PTE_PRESENT);
    report(translate(vp, TRANSLATE_READ, probe_gva) == GPA_UNMAPPED && found.page == 0xfed0000,
           "a page that is no memory");
    page_unmap(probe_gva);
    report(translate(vp, TRANSLATE_READ, probe_gva) == NOT_PRESENT, "a page that is not there");
    uint64_t code = rdmsr(HV_MSR_HYPERCALL) & ~0xfffull;
    report(translate(vp, TRANSLATE_EXECUTE, code) == 0 && found.overlay && found.page == code >> 12,
           "the hypercall page is an overlay");
    report(translate(vp, TRANSLATE_WRITE, code) == ILLEGAL_OVERLAY, "that nobody writes");
    report(translate(vp, 0, code) == ~0u && found.status == HV_STATUS_INVALID_PARAMETER,
           "nothing to validate is an error");
    input[2] = TRANSLATE_READ;
    memset(output, 0xff, 128);
    uint64_t result = hv_call(HV_CALL_TRANSLATE_EX, (uintptr_t)input, (uintptr_t)output);
    report(result == 0 && output[0] == ((uint64_t)WRITE_BACK << 32 | 1ull << 40) && output[6] == code >> 12 &&
           output[8] == ~0ull,
           "the Ex form: 0x%lx, page 0x%lx", output[0], output[6]);
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
        report(now >= due && now < due + 500 * MS_100NS && reads < 20,
           "slept until the timer, interrupts %s: %lu us, %u reads",
               enabled ? "on" : "off", (now - begin) / 10, reads);
        report(sint_count == before + enabled, "the interrupt is %s", enabled ? "taken" : "still to come");
        report(rdmsr(HV_MSR_VP_RUNTIME) - run < 40 * MS_100NS,
           "without running: %lu us", (rdmsr(HV_MSR_VP_RUNTIME) - run) / 10);
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
