/* SPDX-License-Identifier: Apache-2.0 */
/* POPCNT and CMPXCHG16B, which Linux uses wherever CPUID has them. */
#include "ringzero.h"
#include "runtime.h"

#define FLAGS_ARITHMETIC 0x8d5ul
#define RFLAGS_ZF (1ul << 6)
#define ADDITIONS 300

struct pair {
    uint64_t low, high;
} __attribute__((aligned(16)));

static struct pair counter;

#define POPCNT(instruction, in, out, flags)                     \
    asm volatile("stc\n" instruction " %2, %0\npushfq\npop %1" \
                 : "+r"(out), "=&r"(flags)                      \
                 : "rm"(in)                                     \
                 : "cc")

void test_population_count(void)
{
    if (!(cpuid(1, 0).ecx >> 23 & 1)) {
        report_skip("no POPCNT");
        return;
    }
    volatile uint64_t in = 0xf0f0000000000001;
    uint64_t flags, value = ~0ul;
    POPCNT("popcntq", in, value, flags);
    report(value == 9 && !(flags & FLAGS_ARITHMETIC), "POPCNT of 64 bits clears the arithmetic flags");
    uint32_t value32 = ~0u, in32 = 0;
    POPCNT("popcntl", in32, value32, flags);
    report(value32 == 0 && (flags & FLAGS_ARITHMETIC) == RFLAGS_ZF, "POPCNT of 0 sets ZF alone");
    uint16_t in16 = 0xffff;
    uint64_t destination = 0x1122334455667788;
    asm volatile("popcntw %w1, %w0" : "+r"(destination) : "r"(in16) : "cc");
    report(destination == 0x1122334455660010, "POPCNT of 16 bits keeps the rest of the register");
}

/* True when `new` was stored; else *expected is what was found. */
static bool compare_exchange(struct pair *at, struct pair *expected, struct pair new)
{
    bool done;
    asm volatile(FAULT_GUARD("lock cmpxchg16b %1") "sete %0"
                 : "=q"(done), "+m"(*at), "+a"(expected->low), "+d"(expected->high)
                 : "b"(new.low), "c"(new.high)
                 : "memory", "cc");
    return done;
}

static void count(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < ADDITIONS; i++) {
        struct pair seen = {0, 0};
        while (!compare_exchange(&counter, &seen, (struct pair){seen.low + 1, seen.high - 1}))
            ;
    }
}

void test_compare_exchange(void)
{
    if (!(cpuid(1, 0).ecx >> 13 & 1)) {
        report_skip("no CMPXCHG16B");
        return;
    }
    struct pair two[2] = {{1, 2}}, expected = {1, 3};
    bool done = compare_exchange(two, &expected, (struct pair){7, 8});
    report(!done && expected.low == 1 && expected.high == 2 && two->low == 1 && two->high == 2,
           "CMPXCHG16B that does not match loads what is there");
    done = compare_exchange(two, &expected, (struct pair){7, 8});
    report(done && two->low == 7 && two->high == 8, "CMPXCHG16B that matches stores");
    fault_clear();
    compare_exchange((struct pair *)&two->high, &expected, *two);
    report(faulted(VECTOR_GP, 0), "CMPXCHG16B of an address that is not aligned: #GP(0)");

    counter = (struct pair){0, 0};
    unsigned cpus = smp_start();
    smp_run_all(count, NULL);
    report(counter.low == (uint64_t)cpus * ADDITIONS && counter.high == -counter.low,
           "CMPXCHG16B by %u processors at once loses nothing", cpus);
}
