/* SPDX-License-Identifier: Apache-2.0 */
/* The hypercall page. TLFS chapter 3. */
#include "hyperv.h"

#include "cpu.h"

#define OS_ID 0x8f00123400000000ull /* open source, a type that nobody has */

static uint8_t pages[VTLS][4096] __attribute__((aligned(4096)));

void hv_init(void)
{
    wrmsr(HV_MSR_GUEST_OS_ID, OS_ID);
    wrmsr(HV_MSR_HYPERCALL, hv_page() | 1);
}

uint64_t hv_page(void)
{
    return (uint64_t)pages[this_cpu()->vtl];
}

uint64_t hv_call(uint64_t control, uint64_t first, uint64_t second)
{
    uint64_t rax, page = hv_page();
    register uint64_t r8 asm("r8") = second;
    asm volatile("call *%[page]"
                 : "=a"(rax), "+c"(control), "+d"(first), "+r"(r8)
                 : [page] "r"(page)
                 : "memory", "cc");
    return rax;
}
