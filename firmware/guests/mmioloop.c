/* SPDX-License-Identifier: Apache-2.0 */
/* Leaves the guest by loads or stores to an address without memory. For benchmarks.
 *
 * address=0xff000000  4-byte aligned; the default is the test device's
 * access=write|read
 * count=N             accesses, then a line "cycles per exit"; without it: for ever
 */
#include "runtime.h"

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t address = argument_number("address", 0xff000000);
    uint64_t count = argument_number("count", 0);
    bool write = !strcmp(argument("access", "write"), "write");
    uint64_t left = count ? count : ~0ull;

    identity_map(address, 4);
    printf("mmioloop: %s address 0x%lx\n", write ? "writes to" : "reads from", address);
    uint64_t start = rdtsc();
    if (write)
        asm volatile("1: movl %%eax, (%1)\n"
                     "   decq %0\n"
                     "   jnz 1b"
                     : "+r"(left)
                     : "r"(address), "a"(0)
                     : "cc", "memory");
    else
        asm volatile("1: movl (%1), %%eax\n"
                     "   decq %0\n"
                     "   jnz 1b"
                     : "+r"(left)
                     : "r"(address)
                     : "cc", "memory", "eax");
    uint64_t cycles = rdtsc() - start;
    printf("%lu exits, %lu cycles per exit\n", count, cycles / count);
    report(true, "%lu accesses", count);
    return report_summary();
}
