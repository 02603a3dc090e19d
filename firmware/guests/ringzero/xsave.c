/* SPDX-License-Identifier: Apache-2.0 */
/* XSAVE, XSAVEOPT, XSAVEC and XRSTOR of x87, SSE and AVX state. */
#include "ringzero.h"
#include "runtime.h"

#define X87 1u
#define SSE 2u
#define AVX 4u
#define MXCSR_AT 24
#define XMM_AT 160
#define HEADER_AT 512
#define COMPACTED (1ull << 63)
#define CR0_TS (1u << 3)
#define VECTOR_NM 7
#define UNTOUCHED 0xa5

static uint8_t area[4096] __attribute__((aligned(64)));
static uint8_t pattern[64] __attribute__((aligned(64)));

#define SAVE(instruction, components)                          \
    asm volatile(FAULT_GUARD(instruction " (%0)")              \
                 :                                             \
                 : "r"(area), "a"(components), "d"(0)          \
                 : "memory")

static uint64_t header(unsigned index)
{
    return ((uint64_t *)(area + HEADER_AT))[index];
}

static void clear_area(uint8_t byte)
{
    memset(area, byte, sizeof(area));
    memset(area + HEADER_AT, 0, 64);
}

/* XMM3 and the upper half of YMM3 get `pattern`, from `seed` on. */
static void load_registers(uint8_t seed, uint64_t components)
{
    for (unsigned i = 0; i < sizeof(pattern); i++)
        pattern[i] = (uint8_t)(seed + i);
    if (components & AVX)
        asm volatile("vmovdqu (%0), %%ymm3" : : "r"(pattern));
    else
        asm volatile("movdqu (%0), %%xmm3" : : "r"(pattern));
}

static bool registers_hold(uint8_t seed, uint64_t components)
{
    uint8_t found[32] = {0};
    if (components & AVX)
        asm volatile("vmovdqu %%ymm3, (%0)" : : "r"(found) : "memory");
    else
        asm volatile("movdqu %%xmm3, (%0)" : : "r"(found) : "memory");
    for (unsigned i = 0; i < (components & AVX ? 32 : 16); i++)
        if (found[i] != (uint8_t)(seed + i))
            return false;
    return true;
}

static void test_round_trip(const char *name, bool compacted, uint64_t components)
{
    report(header(0) == components && header(1) == (compacted ? components | COMPACTED : 0),
           "%s: XSTATE_BV 0x%lx, XCOMP_BV 0x%lx", name, (unsigned long)header(0), (unsigned long)header(1));
    unsigned upper = !(components & AVX) ? 0 : compacted ? HEADER_AT + 64 : cpuid(0xd, 2).ebx;
    report(!memcmp(area + XMM_AT + 3 * 16, pattern, 16) && (!upper || !memcmp(area + upper + 3 * 16, pattern + 16, 16)),
           "%s: XMM3 and the rest of YMM3 are where they belong", name);
    load_registers(0x80, components);
    SAVE("xrstor64", components);
    report(registers_hold(1, components), "XRSTOR behind %s", name);
}

void test_saved_state(uint64_t components)
{
    uint32_t more = cpuid(0xd, 1).eax;
    uint16_t control = 0x027f; /* not the initial one */
    components &= X87 | SSE | AVX;
    fault_clear();
    clear_area(0);
    *(uint16_t *)area = control;
    ((uint64_t *)(area + HEADER_AT))[0] = X87;
    SAVE("xrstor64", X87);
    load_registers(1, components);

    clear_area(UNTOUCHED);
    SAVE("xsave64", components);
    test_round_trip("XSAVE", false, components);

    clear_area(UNTOUCHED);
    SAVE("xsave64", X87);
    report(*(uint16_t *)area == control && area[XMM_AT] == UNTOUCHED && area[MXCSR_AT] == UNTOUCHED && header(0) == X87,
           "XSAVE of x87 state alone leaves the rest as it is");
    if (more & 1) {
        clear_area(0);
        load_registers(1, components);
        SAVE("xsaveopt64", components);
        test_round_trip("XSAVEOPT", false, components);
    }
    if (more & 2) {
        clear_area(UNTOUCHED);
        load_registers(1, components);
        SAVE("xsavec64", components);
        test_round_trip("XSAVEC", true, components);
    }
    clear_area(0);
    *(uint32_t *)(area + MXCSR_AT) = 0x1f80;
    SAVE("xrstor64", components);
    SAVE("xsave64", components);
    uint8_t zero[16] = {0};
    report(*(uint16_t *)area == 0x037f && !memcmp(area + XMM_AT + 3 * 16, zero, 16),
           "XRSTOR of what is not there: initial state");
    report(fault_vector() == FAULT_NONE, "none of it faults");

    clear_area(0);
    ((uint64_t *)(area + HEADER_AT))[0] = 1ull << 62;
    fault_clear();
    SAVE("xrstor64", components);
    report(faulted(VECTOR_GP, 0), "XRSTOR of an unknown component: #GP(0)");
    clear_area(0);
    *(uint32_t *)(area + MXCSR_AT) = ~0u;
    fault_clear();
    SAVE("xrstor64", components);
    report(faulted(VECTOR_GP, 0), "XRSTOR of a reserved bit of MXCSR: #GP(0)");
    fault_clear();
    asm volatile(FAULT_GUARD("xsave64 (%0)") : : "r"(area + 16), "a"(X87), "d"(0) : "memory");
    report(faulted(VECTOR_GP, 0), "XSAVE to an address that is not aligned: #GP(0)");
    write_cr0(read_cr0() | CR0_TS);
    fault_clear();
    SAVE("xsave64", X87);
    report(faulted(VECTOR_NM, 0), "XSAVE with CR0.TS: #NM");
    write_cr0(read_cr0() & ~CR0_TS);
}
