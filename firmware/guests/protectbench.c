/* SPDX-License-Identifier: Apache-2.0 */
/* What memory protections cost, in TSC cycles: "NAME: N cycles", or "NAME: not here" with the status VTL1 was told.
 *
 * rounds=N   of what is fast (200); large ranges are done once
 * mib=N      of the largest (1024)
 * mask       only: a default mask over all RAM, and what it takes
 */
#include "protect.h"
#include "runtime.h"

#define SCATTERED 1000
#define LARGE_START (1ull << 30)
#define EXECUTIONS 50

static uint64_t rounds, large_pages;
static uint8_t *page;
static uint64_t scratch[8];

static void result(const char *name, uint64_t cycles)
{
    printf("%s: %lu cycles\n", name, cycles);
}

static void not_here(const char *name, uint16_t status)
{
    printf("%s: not here, status 0x%x\n", name, status);
}

/* ---- in VTL1, so that no VTL switch is measured with it ---- */

struct measured {
    uint64_t cycles;
    uint16_t status;
};

/* Rights for `count` pages from `first` on, each `step` after the one before: cycles of the hypercalls alone. */
static struct measured change(uint64_t first, uint64_t step, uint64_t count, uint32_t rights)
{
    struct measured sum = {0, 0};
    uint64_t *input = hv_input();
    input[0] = HV_SELF_PARTITION;
    input[1] = (uint64_t)HV_VTL(0) << 32 | rights;
    for (uint64_t done = 0; done < count && !sum.status;) {
        uint64_t now = count - done < PROTECT_SLOW_PAGES ? count - done : PROTECT_SLOW_PAGES;
        for (uint64_t i = 0; i < now; i++)
            input[2 + i] = first + (done + i) * step;
        uint64_t begin = rdtsc();
        sum.status = (uint16_t)hv_call(HV_CALL_MODIFY_PROTECTION | HV_REPS(now), (uint64_t)input, 0);
        sum.cycles += rdtsc() - begin;
        done += now;
    }
    return sum;
}

static uint64_t measure_calls(void *argument)
{
    (void)argument;
    uint64_t number = (uint64_t)page / PAGE_SIZE, begin = rdtsc();
    for (uint64_t i = 0; i < rounds; i++)
        hv_call(HV_CALL_SPIN_WAIT | HV_FAST, 0, 0);
    result("null", (rdtsc() - begin) / rounds);

    uint64_t taken = 0, given = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        taken += change(number, 1, 1, RIGHTS_NONE).cycles;
        given += change(number, 1, 1, RIGHTS_ALL).cycles;
    }
    result("protect-page", taken / rounds);
    result("unprotect-page", given / rounds);

    uint64_t scattered = LARGE_START / PAGE_SIZE;
    result("protect-scattered", change(scattered, 3, SCATTERED, RIGHTS_NONE).cycles);
    result("unprotect-scattered", change(scattered, 3, SCATTERED, RIGHTS_ALL).cycles);
    struct measured large = change(scattered, 1, large_pages, RIGHTS_NONE);
    if (large.status)
        return large.status;
    result("protect-gib", large.cycles);
    result("unprotect-gib", change(scattered, 1, large_pages, RIGHTS_ALL).cycles);
    return 0;
}

static uint64_t measure_mask(void *argument)
{
    (void)argument;
    uint64_t begin = rdtsc();
    uint16_t status = protect_enable(RIGHTS_RW);
    uint64_t cycles = rdtsc() - begin;
    if (status) {
        not_here("default-mask", status);
        begin = rdtsc();
        status = protect_enable(RIGHTS_ALL); /* restricts nothing */
        result("default-mask-of-all", rdtsc() - begin);
        return 0;
    }
    result("default-mask", cycles);
    protect(0, 0xa0000, RIGHTS_ALL);
    protect(0x100000, heap_end() - 0x100000, RIGHTS_ALL); /* VTL0 has to go on */
    return 0;
}

/* ---- in VTL0 ---- */

#define A(name, instructions)              \
    void name(void *target, void *memory); \
    asm(".text\n" #name ":\n\t" instructions "\n\tret")
A(load, "movq (%rdi), %rax");
A(run, "call *%rdi");

static uint64_t take_away(void *argument)
{
    struct measured taken = change((uint64_t)argument / PAGE_SIZE, 1, 1, RIGHTS_NONE);
    return taken.status;
}

/* Taken away, missed, given back, had: a turn of the minimal C loop. And of that what the access takes. */
static void measure_intercepts(void)
{
    static const struct {
        const char *turn, *access;
        uint32_t policy;
    } ways[] = {{"open-turn", "open", POLICY_OPEN}, {"skip-turn", "skip", POLICY_SKIP}};
    for (unsigned way = 0; way < ARRAY_SIZE(ways); way++) {
        uint64_t access = 0, begin = rdtsc();
        for (uint64_t i = 0; i < rounds; i++) {
            vsm_run(take_away, page);
            warden_clear(ways[way].policy);
            uint64_t then = rdtsc();
            load(page, scratch);
            access += rdtsc() - then;
            if (warden()->count != 1)
                abort_run("%u intercepts instead of one", warden()->count);
        }
        result(ways[way].turn, (rdtsc() - begin) / rounds);
        result(ways[way].access, access / rounds);
    }
    protect((uint64_t)page, 1, RIGHTS_ALL);
    uint64_t begin = rdtsc();
    for (uint64_t i = 0; i < rounds; i++)
        load(page, scratch);
    result("load", (rdtsc() - begin) / rounds);
}

/* What code in a page costs that VTL0 may execute, before and while VTL0 may not execute the page beside it. */
static void measure_execution(void)
{
    uint8_t *pages = pages_alloc(2);
    pages[0] = 0xc3; /* RET */
    *(uint64_t *)(pages + PAGE_SIZE) = 1;
    uint64_t begin = rdtsc();
    for (unsigned i = 0; i < EXECUTIONS; i++)
        run(pages, scratch);
    result("execute-open", (rdtsc() - begin) / EXECUTIONS);
    uint16_t status = protect((uint64_t)pages + PAGE_SIZE, 1, RIGHTS_RW);
    if (status) {
        not_here("execute-beside", status);
        return;
    }
    begin = rdtsc();
    for (unsigned i = 0; i < EXECUTIONS; i++)
        run(pages, scratch);
    result("execute-beside", (rdtsc() - begin) / EXECUTIONS);
    begin = rdtsc();
    for (unsigned i = 0; i < EXECUTIONS; i++)
        load(pages + PAGE_SIZE, scratch);
    result("load-from-data", (rdtsc() - begin) / EXECUTIONS);
    warden_clear(POLICY_SKIP);
    begin = rdtsc();
    for (unsigned i = 0; i < EXECUTIONS; i++)
        run(pages + PAGE_SIZE, scratch);
    result("execute-refused", (rdtsc() - begin) / EXECUTIONS);
    if (warden()->count != EXECUTIONS)
        abort_run("%u intercepts instead of %u", warden()->count, EXECUTIONS);
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    rounds = argument_number("rounds", 200);
    large_pages = argument_number("mib", 1024) * (1 << 20) / PAGE_SIZE;
    vsm_require();
    vsm_start();
    protect_listen();
    if (argument_given("mask")) {
        vsm_run(measure_mask, NULL);
        return 0;
    }
    page = page_alloc();
    uint16_t status = protect_enable(RIGHTS_ALL);
    status = status ? status : protect((uint64_t)page, 1, RIGHTS_NONE);
    if (status) {
        not_here("protect-page", status);
        return 0;
    }
    protect((uint64_t)page, 1, RIGHTS_ALL);
    status = (uint16_t)vsm_run(measure_calls, NULL);
    if (status)
        abort_run("1 GiB of pages: status 0x%x", status);
    measure_intercepts();
    measure_execution();
    return 0;
}
