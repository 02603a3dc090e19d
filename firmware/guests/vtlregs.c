/* SPDX-License-Identifier: Apache-2.0 */
/* Which registers the VTLs of a processor share and which each has of its own, MSRs, CPUID and overlay pages included.
 * TLFS 15.11. */
#include "vtlregs/parts.h"

#define CR4_DE (1u << 3)
#define CR4_OSFXSR (1u << 9)
#define DR7_FIXED 0x400
#define RFLAGS_AC (1ull << 18)
#define CAPABILITY_DR6_SHARED 1ull
#define APIC_BASE_ENABLED (1ull << 11)

#define SERVICE_REGISTERS 0x5e7 /* RDI is a mark too */

/* ---- general registers ---- */

void call_with_registers(struct vtl_frame *registers, uint64_t entry);

/* All as `registers` has them but RCX, which is the control value; what the call leaves goes back there. */
asm(".text\n"
    "call_with_registers:\n\t"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n\t"
    "push %rdi; push %rsi\n\t"
    "mov 0(%rdi), %r15; mov 8(%rdi), %r14; mov 16(%rdi), %r13; mov 24(%rdi), %r12\n\t"
    "mov 32(%rdi), %r11; mov 40(%rdi), %r10; mov 48(%rdi), %r9; mov 56(%rdi), %r8\n\t"
    "mov 72(%rdi), %rsi; mov 80(%rdi), %rbp; mov 88(%rdi), %rbx; mov 96(%rdi), %rdx\n\t"
    "mov 112(%rdi), %rax; xor %ecx, %ecx; mov 64(%rdi), %rdi\n\t"
    "call *(%rsp)\n\t"
    "push %rdi; mov 16(%rsp), %rdi\n\t"
    "mov %r15, 0(%rdi); mov %r14, 8(%rdi); mov %r13, 16(%rdi); mov %r12, 24(%rdi)\n\t"
    "mov %r11, 32(%rdi); mov %r10, 40(%rdi); mov %r9, 48(%rdi); mov %r8, 56(%rdi)\n\t"
    "mov %rsi, 72(%rdi); mov %rbp, 80(%rdi); mov %rbx, 88(%rdi); mov %rdx, 96(%rdi)\n\t"
    "mov %rcx, 104(%rdi); mov %rax, 112(%rdi)\n\t"
    "pop 64(%rdi)\n\t"
    "add $16, %rsp\n\t"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n\t"
    "ret\n");

#define FRAME_WORDS (sizeof(struct vtl_frame) / 8)
#define WORD_RDI 8
#define WORD_RCX 13
#define WORD_RAX 14

static volatile uint32_t wrong_in_vtl1;

static void serve(struct vtl1 *self, struct vtl_frame *frame)
{
    uint64_t *words = (uint64_t *)frame;
    (void)self;
    for (unsigned i = 0; i < FRAME_WORDS; i++) {
        if (i != WORD_RDI && i != WORD_RCX && i != WORD_RAX)
            wrong_in_vtl1 += words[i] != MARK(i + 1);
        words[i] = OTHER_MARK(i + 1);
    }
}

static void check_general(void)
{
    struct vtl_frame registers;
    uint64_t *words = (uint64_t *)&registers, wrong = 0;
    for (unsigned i = 0; i < FRAME_WORDS; i++)
        words[i] = i == WORD_RDI ? SERVICE_REGISTERS : MARK(i + 1);
    uint64_t stack_before, stack_after;
    asm volatile("mov %%rsp, %0" : "=r"(stack_before));
    call_with_registers(&registers, vsm_call_entry());
    asm volatile("mov %%rsp, %0" : "=r"(stack_after));
    for (unsigned i = 0; i < FRAME_WORDS; i++)
        wrong += words[i] != OTHER_MARK(i + 1);
    report(wrong_in_vtl1 == 0, "VTL1 sees VTL0's general registers: %u not", wrong_in_vtl1);
    report(wrong == 0, "VTL0 sees what VTL1 made of them: %lu not", wrong);
    report(stack_before == stack_after, "each has a stack of its own");
}

/* ---- control, debug ---- */

#define DEBUG_REGISTER(n)                                                            \
    static uint64_t read_dr##n(void)                                                 \
    {                                                                                \
        uint64_t value;                                                              \
        asm volatile("mov %%dr" #n ", %0" : "=r"(value));                             \
        return value;                                                                \
    }                                                                                \
    static void write_dr##n(uint64_t value)                                          \
    {                                                                                \
        asm volatile("mov %0, %%dr" #n : : "r"(value));                               \
    }
DEBUG_REGISTER(0)
DEBUG_REGISTER(1)
DEBUG_REGISTER(2)
DEBUG_REGISTER(3)
DEBUG_REGISTER(6)
DEBUG_REGISTER(7)

static void write_cr2(uint64_t value)
{
    asm volatile("mov %0, %%cr2" : : "r"(value));
}

struct shared {
    uint64_t cr2, dr[4];
};

static uint64_t shared_in_vtl1(void *argument)
{
    *(struct shared *)argument = (struct shared){read_cr2(), {read_dr0(), read_dr1(), read_dr2(), read_dr3()}};
    write_cr2(0x2222), write_dr0(0x5000), write_dr1(0x5001), write_dr2(0x5002), write_dr3(0x5003);
    return 0;
}

static void check_shared(void)
{
    struct shared seen;
    write_cr2(0x1111), write_dr0(0x4000), write_dr1(0x4001), write_dr2(0x4002), write_dr3(0x4003);
    vsm_run(shared_in_vtl1, &seen);
    report(seen.cr2 == 0x1111 && read_cr2() == 0x2222, "CR2 is shared: 0x%lx 0x%lx", seen.cr2, read_cr2());
    report(seen.dr[0] == 0x4000 && seen.dr[1] == 0x4001 && seen.dr[2] == 0x4002 && seen.dr[3] == 0x4003 &&
               read_dr0() == 0x5000 && read_dr1() == 0x5001 && read_dr2() == 0x5002 && read_dr3() == 0x5003,
           "DR0 to DR3 are shared: 0x%lx 0x%lx", seen.dr[3], read_dr3());
}

struct own {
    uint64_t cr0, cr3, cr4, cr8, dr6, dr7, rflags, fs, gs;
    uint16_t es, tr, ldtr;
    struct table_pointer gdt, idt;
};

static struct own read_own(void)
{
    struct own own = {.cr0 = read_cr0(), .cr3 = read_cr3(), .cr4 = read_cr4(), .cr8 = read_cr8(), .dr6 = read_dr6(),
                      .dr7 = read_dr7(), .rflags = read_rflags(), .fs = rdmsr(0xc0000100), .gs = rdmsr(MSR_GS_BASE)};
    asm volatile("mov %%es, %0" : "=r"(own.es));
    asm volatile("str %0" : "=r"(own.tr));
    asm volatile("sldt %0" : "=r"(own.ldtr));
    asm volatile("sgdt %0" : "=m"(own.gdt));
    asm volatile("sidt %0" : "=m"(own.idt));
    return own;
}

static uint64_t own_in_vtl1(void *argument)
{
    *(struct own *)argument = read_own();
    write_cr0(read_cr0() ^ CR0_WP);
    write_cr4(read_cr4() ^ CR4_DE);
    write_cr8(5);
    write_dr7(DR7_FIXED | 0xd0000);
    wrmsr(0xc0000100, 0x7000);
    return 0;
}

static uint64_t own_again(void *argument)
{
    *(struct own *)argument = read_own();
    write_cr8(0);
    write_dr7(DR7_FIXED);
    wrmsr(0xc0000100, 0);
    return 0;
}

static void check_own(void)
{
    struct own vtl1, again;
    write_cr8(3);
    write_dr7(DR7_FIXED | 0x30000);
    wrmsr(0xc0000100, 0x6000);
    asm volatile("mov %0, %%es" : : "r"(0));
    struct own before = read_own();
    asm volatile("pushfq; orq %0, (%%rsp); popfq" : : "i"(RFLAGS_AC) : "memory", "cc");
    vsm_run(own_in_vtl1, &vtl1);
    uint64_t flags = read_rflags();
    asm volatile("pushfq; andq %0, (%%rsp); popfq" : : "i"(~RFLAGS_AC) : "memory", "cc");
    struct own after = read_own();
    vsm_run(own_again, &again);
    asm volatile("mov %0, %%es" : : "r"(SELECTOR_DATA));

    report(before.cr0 == after.cr0 && again.cr0 == (vtl1.cr0 ^ CR0_WP), "CR0: 0x%lx 0x%lx", after.cr0, again.cr0);
    report(before.cr3 == after.cr3 && vtl1.cr3 != before.cr3 && again.cr3 == vtl1.cr3, "CR3: 0x%lx 0x%lx", after.cr3,
           again.cr3);
    report(before.cr4 == after.cr4 && again.cr4 == (vtl1.cr4 ^ CR4_DE), "CR4: 0x%lx 0x%lx", after.cr4, again.cr4);
    report(vtl1.cr8 == 0 && after.cr8 == 3 && again.cr8 == 5, "CR8: %lu in VTL1, %lu in VTL0, %lu in VTL1", vtl1.cr8,
           after.cr8, again.cr8);
    report(vtl1.dr7 == DR7_FIXED && after.dr7 == before.dr7 && again.dr7 == (DR7_FIXED | 0xd0000),
           "DR7: 0x%lx 0x%lx 0x%lx", vtl1.dr7, after.dr7, again.dr7);
    report(flags & RFLAGS_AC && !(vtl1.rflags & RFLAGS_AC), "RFLAGS: 0x%lx 0x%lx", flags, vtl1.rflags);
    report(vtl1.fs != 0x6000 && after.fs == 0x6000 && again.fs == 0x7000 && before.gs == after.gs &&
               vtl1.gs != before.gs && vtl1.gs == again.gs,
           "FS and GS base: 0x%lx 0x%lx", after.fs, again.fs);
    report(vtl1.es == SELECTOR_DATA && after.es == 0 && vtl1.tr == SELECTOR_TSS, "segment registers: ES 0x%x 0x%x",
           vtl1.es, after.es);
    report(before.gdt.base == after.gdt.base && vtl1.gdt.base != after.gdt.base && before.idt.base == after.idt.base &&
               vtl1.idt.base != after.idt.base,
           "GDT and IDT: 0x%lx 0x%lx", vtl1.gdt.base, vtl1.idt.base);
    write_cr8(0);
    write_dr7(DR7_FIXED);
    wrmsr(0xc0000100, 0);
}

static uint64_t dr6_in_vtl1(void *argument)
{
    uint64_t was = read_dr6();
    write_dr6((uint64_t)argument);
    return was;
}

static void check_dr6(void)
{
    bool shared = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CAPABILITIES) & CAPABILITY_DR6_SHARED;
    uint64_t clear = read_dr6() & ~0xful;
    write_dr6(clear | 5);
    uint64_t in_vtl1 = vsm_run(dr6_in_vtl1, (void *)(clear | 2)) & 15, after = read_dr6() & 15;
    report(shared ? in_vtl1 == 5 && after == 2 : in_vtl1 != 5 && after == 5, "DR6 is %s, as announced: %lu %lu",
           shared ? "shared" : "each VTL's own", in_vtl1, after);
    write_dr6(clear);
}

/* ---- CPUID, overlays, the local APIC ---- */

struct leaves {
    struct cpuid hypervisor[7], features, extended;
};

static uint64_t read_leaves(void *argument)
{
    struct leaves *leaves = argument;
    for (unsigned i = 0; i < ARRAY_SIZE(leaves->hypervisor); i++)
        leaves->hypervisor[i] = cpuid(HV_LEAF_VENDOR + i, 0);
    leaves->features = cpuid(1, 0);
    leaves->features.ecx &= ~(1u << 27); /* CR4.OSXSAVE */
    leaves->extended = cpuid(0x80000001, 0);
    return 0;
}

static void check_cpuid(void)
{
    struct leaves vtl0, vtl1;
    memset(&vtl0, 0, sizeof vtl0), memset(&vtl1, 1, sizeof vtl1);
    read_leaves(&vtl0);
    vsm_run(read_leaves, &vtl1);
    report(!memcmp(&vtl0, &vtl1, sizeof vtl0), "CPUID says the same to both");
}

static uint64_t messages_over(void *argument)
{
    wrmsr(HV_MSR_SIMP, (uint64_t)argument | 1);
    uint64_t in_overlay = *(volatile uint64_t *)argument;
    *(volatile uint64_t *)((uint64_t)argument + 0xf00) = OTHER_MARK(3);
    return in_overlay;
}

static uint64_t messages_off(void *argument)
{
    wrmsr(HV_MSR_SIMP, 0);
    return *(volatile uint64_t *)argument;
}

static void check_overlays(void)
{
    volatile uint64_t *ram = page_alloc();
    ram[0] = MARK(1);
    uint64_t in_vtl1 = vsm_run(messages_over, (void *)ram), in_vtl0 = ram[0];
    ram[1] = MARK(2);
    uint64_t below = vsm_run(messages_off, (void *)ram);
    report(in_vtl1 == 0, "a message page of VTL1 hides memory from VTL1: 0x%lx", in_vtl1);
    report(in_vtl0 == MARK(1) && ram[0xf00 / 8] == 0, "and not from VTL0: 0x%lx", in_vtl0);
    report(below == MARK(1) && ram[1] == MARK(2), "which is there when it is gone: 0x%lx", below);
}

static uint64_t apic_off(void *argument)
{
    (void)argument;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~APIC_BASE_ENABLED);
    return rdmsr(MSR_APIC_BASE);
}

static uint64_t apic_on(void *argument)
{
    (void)argument;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_ENABLED);
    apic_init();
    return rdmsr(MSR_APIC_BASE);
}

static void check_apic(void)
{
    uint32_t id = apic_id();
    uint64_t off = vsm_run(apic_off, NULL);
    report(!(off & APIC_BASE_ENABLED) && rdmsr(MSR_APIC_BASE) & APIC_BASE_ENABLED && cpuid(1, 0).edx >> 9 & 1 &&
               apic_id() == id,
           "VTL1 switches its local APIC off, VTL0's stays: 0x%lx 0x%lx", off, rdmsr(MSR_APIC_BASE));
    report(vsm_run(apic_on, NULL) & APIC_BASE_ENABLED, "and on again");
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    write_cr4(read_cr4() | CR4_OSFXSR);
    vsm_start();
    vsm_set_service(serve);
    report_prefix_push("shared");
    check_general();
    check_vectors();
    check_x87();
    check_xcr0();
    check_shared();
    check_shared_msrs();
    report_prefix_pop();
    report_prefix_push("own");
    check_own();
    check_dr6();
    check_own_msrs();
    report_prefix_pop();
    check_cpuid();
    check_overlays();
    check_apic();
    return report_summary();
}
