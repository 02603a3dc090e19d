/* SPDX-License-Identifier: Apache-2.0 */
/* What instructions do that some KVM hosts cannot emulate in ring 0 and leave to the VMM: effects, return
 * addresses, and faults with their error codes. badinsn.c asks only whether they go on.
 */
#include "ringzero/ringzero.h"
#include "runtime.h"

#define CR4_OSFXSR (1u << 9)
#define CR4_OSXSAVE (1u << 18)
#define CR0_TS (1u << 3)
#define RFLAGS_AC (1u << 18)
#define XCR0_X87_SSE 3
#define XCR0_X87_SSE_AVX 7
#define VECTOR_NM 7
#define VECTOR_NP 11
#define VECTOR_SS 12
#define TEST_VECTOR 0x40
#define NOT_CANONICAL (1ull << 63)
#define UNMAPPED (0x7000ull << 32)
#define GATE_PRESENT (1u << 15)

static struct frame seen;
static uint64_t flags_inside;
static uint8_t from[64] __attribute__((aligned(32))), to[64] __attribute__((aligned(32)));

static void remember(struct frame *frame)
{
    seen = *frame;
    flags_inside = read_rflags();
}

static struct {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed)) idtr;

static volatile uint32_t *gate(unsigned vector)
{
    asm volatile("sidt %0" : "=m"(idtr));
    return (volatile uint32_t *)(idtr.base + 16 * vector);
}

bool faulted(int vector, uint64_t error_code)
{
    bool right = fault_vector() == vector && this_cpu()->fault.error_code == error_code;
    if (!right)
        printf("vector %d, error code 0x%lx; expected %d, 0x%lx\n", fault_vector(),
               (unsigned long)this_cpu()->fault.error_code, vector, (unsigned long)error_code);
    return right;
}

static void test_interrupt(void)
{
    uint64_t behind, rsp;
    interrupt_set_handler(TEST_VECTOR, remember);
    interrupts_on();
    asm volatile("mov %%rsp, %1\n"
                 "lea 1f(%%rip), %0\n"
                 "int %2\n"
                 "1:"
                 : "=&r"(behind), "=&r"(rsp)
                 : "i"(TEST_VECTOR)
                 : "memory");
    bool on = read_rflags() & RFLAGS_IF;
    interrupts_off();
    report(seen.vector == TEST_VECTOR && seen.rip == behind, "INT n returns behind itself");
    report(seen.rsp == rsp && seen.cs == SELECTOR_CODE64, "INT n saves stack and code segment");
    report(seen.rflags & RFLAGS_IF && !(flags_inside & RFLAGS_IF) && on, "INT n through an interrupt gate");

    volatile uint32_t *test_gate = gate(TEST_VECTOR);
    test_gate[1] &= ~GATE_PRESENT;
    fault_clear();
    asm volatile(FAULT_GUARD("int $0x40") : : : "memory");
    report(faulted(VECTOR_NP, TEST_VECTOR << 3 | 2), "INT n through an absent gate: #NP of the IDT's entry");
    test_gate[1] |= GATE_PRESENT;

    uint32_t selector = test_gate[0];
    test_gate[0] = (selector & 0xffff) | SELECTOR_DATA << 16;
    fault_clear();
    asm volatile(FAULT_GUARD("int $0x40") : : : "memory");
    report(faulted(VECTOR_GP, SELECTOR_DATA), "INT n to a data segment: #GP of its selector");
    test_gate[0] = selector;
}

static void test_alignment_check_flag(void)
{
    if (!(cpuid(7, 0).ebx >> 20 & 1)) {
        report_skip("CLAC and STAC: no SMAP");
        return;
    }
    uint64_t set, cleared;
    asm volatile("stac; pushfq; popq %0; clac; pushfq; popq %1" : "=r"(set), "=r"(cleared) : : "memory", "cc");
    report(set & RFLAGS_AC && !(cleared & RFLAGS_AC), "STAC sets RFLAGS.AC, CLAC clears it");
}

static uint64_t xgetbv(void)
{
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int xsetbv(uint32_t index, uint64_t value)
{
    fault_clear();
    asm volatile(FAULT_GUARD("xsetbv")
                 :
                 : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                 : "memory");
    return fault_vector();
}

static void test_vector_moves(void)
{
    memset(to, 0, sizeof(to));
    for (unsigned i = 0; i < sizeof(from); i++)
        from[i] = (uint8_t)(i + 1);
    asm volatile("vmovdqa (%0), %%ymm1; vmovdqa %%ymm1, %%ymm9; vmovdqu %%ymm9, 1(%1)"
                 : : "r"(from), "r"(to) : "memory");
    report(to[0] == 0 && !memcmp(to + 1, from, 32) && to[33] == 0, "a YMM register keeps 32 bytes");
    asm volatile("vzeroupper; vmovdqu %%ymm9, (%0)" : : "r"(to) : "memory");
    report(!memcmp(to, from, 16) && !to[16] && !to[31], "VZEROUPPER clears the upper half only");
    fault_clear();
    asm volatile(FAULT_GUARD("vmovdqa (%0), %%ymm1") : : "r"(from + 16) : "memory");
    report(faulted(VECTOR_GP, 0), "VMOVDQA of a misaligned operand: #GP(0)");
    write_cr0(read_cr0() | CR0_TS);
    fault_clear();
    asm volatile(FAULT_GUARD("vzeroall") : : : "memory");
    report(faulted(VECTOR_NM, 0), "VZEROALL with CR0.TS: #NM");
    write_cr0(read_cr0() & ~(uint64_t)CR0_TS);
}

static void test_extended_state(void)
{
    if (!(cpuid(1, 0).ecx >> 26 & 1)) {
        report_skip("XGETBV and XSETBV: no XSAVE");
        return;
    }
    uint64_t cr4 = read_cr4();
    write_cr4(cr4 & ~(uint64_t)CR4_OSXSAVE);
    fault_clear();
    asm volatile(FAULT_GUARD("xgetbv") : : "c"(0) : "eax", "edx");
    report(faulted(VECTOR_UD, 0), "XGETBV without CR4.OSXSAVE: #UD");
    write_cr4(cr4 | CR4_OSXSAVE | CR4_OSFXSR);
    report(xsetbv(0, XCR0_X87_SSE) == FAULT_NONE && xgetbv() == XCR0_X87_SSE, "XGETBV reads what XSETBV wrote");
    report(xsetbv(0, 2) == VECTOR_GP && xsetbv(1, 1) == VECTOR_GP && xgetbv() == XCR0_X87_SSE,
           "XSETBV refuses XCR0 without x87, and XCR1");
    if (cpuid(1, 0).ecx >> 28 & 1 && cpuid(0xd, 0).eax >> 2 & 1) {
        report(xsetbv(0, XCR0_X87_SSE_AVX) == FAULT_NONE, "XSETBV enables AVX");
        test_vector_moves();
    } else
        report_skip("YMM registers: no AVX");
    test_saved_state(xgetbv());
    xsetbv(0, 1);
    write_cr4(cr4);
}

static void test_cache_line(void)
{
    if (!(cpuid(7, 0).ebx >> 24 & 1)) {
        report_skip("CLWB: not there");
        return;
    }
    fault_clear();
    asm volatile(FAULT_GUARD("clwb (%0)") : : "r"(UNMAPPED) : "memory");
    report(faulted(VECTOR_PF, 0) && read_cr2() == UNMAPPED, "CLWB of an absent page: #PF, a read's");
    fault_clear();
    asm volatile(FAULT_GUARD("clwb (%0)") : : "r"(NOT_CANONICAL) : "memory");
    report(faulted(VECTOR_GP, 0), "CLWB of an address that is not canonical: #GP(0)");
    uint64_t rbp;
    fault_clear();
    asm volatile("mov %%rbp, %0; mov %1, %%rbp\n" FAULT_GUARD("clwb (%%rbp)") "mov %0, %%rbp"
                 : "=&r"(rbp) : "r"(NOT_CANONICAL) : "memory");
    report(faulted(VECTOR_SS, 0), "the same through RBP: #SS(0)");
}

int main(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    test_interrupt();
    test_alignment_check_flag();
    test_extended_state();
    test_cache_line();
    test_population_count();
    test_compare_exchange();
    return report_summary();
}
