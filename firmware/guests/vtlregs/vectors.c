/* SPDX-License-Identifier: Apache-2.0 */
/* Vector registers, x87 and XCR0, which VTLs share. */
#include "parts.h"

#define CR4_OSXSAVE (1u << 18)

static uint64_t vectors[32] __attribute__((aligned(16)));

#define EACH_XMM(do) do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7) do(8) do(9) do(10) do(11) do(12) do(13) do(14) do(15)
#define LOAD_XMM(n) "movdqu 16*" #n "(%[from]), %%xmm" #n "\n\t"
#define STORE_XMM(n) "movdqu %%xmm" #n ", 16*" #n "(%[to])\n\t"

/* The compiler uses no vector registers. */
static void load_vectors(const uint64_t *from)
{
    asm volatile(EACH_XMM(LOAD_XMM) : : [from] "r"(from) : "memory");
}

static void store_vectors(uint64_t *to)
{
    asm volatile(EACH_XMM(STORE_XMM) : : [to] "r"(to) : "memory");
}

static uint64_t vectors_in_vtl1(void *argument)
{
    (void)argument;
    uint64_t wrong = 0;
    store_vectors(vectors);
    for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++) {
        wrong += vectors[i] != MARK(i + 1);
        vectors[i] = OTHER_MARK(i + 1);
    }
    load_vectors(vectors);
    return wrong;
}

void check_vectors(void)
{
    uint64_t wrong = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
        vectors[i] = MARK(i + 1);
    load_vectors(vectors);
    uint64_t wrong1 = vsm_run(vectors_in_vtl1, NULL);
    memset(vectors, 0, sizeof vectors);
    store_vectors(vectors);
    for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
        wrong += vectors[i] != OTHER_MARK(i + 1);
    report(wrong1 == 0 && wrong == 0, "XMM registers: %lu wrong in VTL1, %lu in VTL0", wrong1, wrong);
}

static uint64_t x87_in_vtl1(void *argument)
{
    uint64_t *value = argument;
    hv_get_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_FP_MMX0 + 3, value);
    hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_FP_MMX0 + 3, OTHER_MARK(1), 0x4001);
    return 0;
}

void check_x87(void)
{
    uint64_t in_vtl1[2], after[2];
    hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_FP_MMX0 + 3, MARK(1), 0x3fff);
    vsm_run(x87_in_vtl1, in_vtl1);
    hv_get_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_FP_MMX0 + 3, after);
    report(in_vtl1[0] == MARK(1) && after[0] == OTHER_MARK(1) && after[1] == 0x4001, "x87 registers: 0x%lx 0x%lx",
           in_vtl1[0], after[0]);
}

static uint64_t xgetbv(void)
{
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static void xsetbv(uint64_t value)
{
    asm volatile("xsetbv" : : "c"(0), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static uint64_t xcr0_in_vtl1(void *argument)
{
    write_cr4(read_cr4() | CR4_OSXSAVE);
    uint64_t was = xgetbv();
    xsetbv((uint64_t)argument);
    return was;
}

static uint64_t half_in_vtl1(void *argument)
{
    asm volatile("vmovdqu %%ymm7, (%0)" : : "r"(argument) : "memory");
    return 0;
}

void check_xcr0(void)
{
    if (!(cpuid(1, 0).ecx >> 26 & 1)) {
        report_skip("XCR0, YMM: no XSAVE");
        return;
    }
    write_cr4(read_cr4() | CR4_OSXSAVE);
    xsetbv(3);
    bool avx = cpuid(1, 0).ecx >> 28 & 1 && cpuid(0xd, 0).eax >> 2 & 1;
    uint64_t next = avx ? 7 : 1, was = vsm_run(xcr0_in_vtl1, (void *)next);
    report(was == 3 && xgetbv() == next, "XCR0: 0x%lx in VTL1, then 0x%lx", was, xgetbv());
    if (!avx) {
        report_skip("YMM: no AVX");
        return;
    }
    uint64_t ymm[4] = {MARK(1), MARK(2), MARK(3), MARK(4)}, seen[4] = {0};
    asm volatile("vmovdqu (%0), %%ymm7" : : "r"(ymm) : "memory");
    vsm_run(half_in_vtl1, seen);
    report(!memcmp(ymm, seen, sizeof ymm), "YMM registers: upper half 0x%lx", seen[2]);
    asm volatile("vzeroupper");
}
