/* SPDX-License-Identifier: Apache-2.0 */
/* Instructions that may fault.
 *
 * FAULT_GUARD("insn") in an asm statement: when `insn` raises an exception, execution goes on behind it and
 * this_cpu()->fault says what happened. Call fault_clear() before, look at fault_vector() after.
 */
#pragma once

#include <stdint.h>

#include "cpu.h"

#define FAULT_NONE (-1)

#define FAULT_GUARD(instruction)               \
    "771: " instruction "\n"                   \
    "772:\n"                                   \
    ".pushsection .fixups, \"a\", @progbits\n" \
    ".balign 8\n"                              \
    ".quad 771b, 772b\n"                       \
    ".popsection\n"

static inline void fault_clear(void)
{
    this_cpu()->fault.happened = false;
}

/* The vector of the exception since fault_clear(), or FAULT_NONE. */
static inline int fault_vector(void)
{
    return this_cpu()->fault.happened ? (int)this_cpu()->fault.vector : FAULT_NONE;
}

/* Like rdmsr and wrmsr, but the answer is the exception's vector or FAULT_NONE. */
static inline int rdmsr_safe(uint32_t msr, uint64_t *value)
{
    uint32_t low = 0, high = 0;
    fault_clear();
    asm volatile(FAULT_GUARD("rdmsr") : "+a"(low), "+d"(high) : "c"(msr) : "memory");
    *value = (uint64_t)high << 32 | low;
    return fault_vector();
}

static inline int wrmsr_safe(uint32_t msr, uint64_t value)
{
    fault_clear();
    asm volatile(FAULT_GUARD("wrmsr")
                 :
                 : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                 : "memory");
    return fault_vector();
}
