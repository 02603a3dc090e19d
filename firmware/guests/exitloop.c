/* SPDX-License-Identifier: Apache-2.0 */
/* Leaves the guest as often as it can: OUT %al, %dx in a loop. For benchmarks.
 *
 * port=0x80   the port
 * count=N     exits per processor, then a line "cycles per exit" each; without it: for ever
 * cpus=N      this many processors at once (1)
 */
#include "runtime.h"

static uint16_t port;
static uint64_t count;

static void for_ever(void)
{
    asm volatile("1: outb %%al, %%dx\n"
                 "   jmp 1b"
                 :
                 : "a"(0), "d"(port));
    __builtin_unreachable();
}

static void loop(void *argument)
{
    (void)argument;
    if (!count)
        for_ever();
    uint64_t left = count, start = rdtsc();
    asm volatile("1: outb %%al, %%dx\n"
                 "   decq %0\n"
                 "   jnz 1b"
                 : "+r"(left)
                 : "a"(0), "d"(port)
                 : "cc");
    uint64_t cycles = rdtsc() - start;
    printf("CPU %u: %lu exits, %lu cycles per exit\n", this_cpu()->index, count, cycles / count);
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    port = (uint16_t)argument_number("port", 0x80);
    count = argument_number("count", 0);
    unsigned wanted = (unsigned)argument_number("cpus", 1);
    unsigned online = wanted > 1 ? smp_start() : 1;
    if (wanted > online || !wanted)
        abort_run("cpus=%u, but there are %u", wanted, online);

    printf("exitloop: port 0x%x, %u processors\n", port, wanted);
    for (unsigned i = 1; i < wanted; i++)
        smp_run_async(i, loop, NULL);
    loop(NULL);
    for (unsigned i = 1; i < wanted; i++)
        smp_wait(i);
    report(true, "%lu exits on each of %u processors", count, wanted);
    return report_summary();
}
