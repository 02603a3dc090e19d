/* SPDX-License-Identifier: Apache-2.0 */
/* Time across VTLs and processors: the TSC, the reference counter and the reference TSC page are the same in all, and
 * never go back. TLFS 12.4, 12.7, 15.11.
 *
 * rounds=N   of each comparison (50)
 */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define VECTOR_TIMER 0x61
#define PERIOD_MS 3

static uint8_t time_pages[VTLS][4096] __attribute__((aligned(4096)));
static uint64_t rounds;

static uint64_t read_tsc(void *argument)
{
    (void)argument;
    return rdtsc();
}

static uint64_t read_counter(void *argument)
{
    (void)argument;
    return rdmsr(HV_MSR_TIME_REF_COUNT);
}

static uint64_t read_page(void *argument)
{
    (void)argument;
    return hv_page_time((const struct hv_tsc_page *)time_pages[this_cpu()->vtl]);
}

static const struct {
    const char *name;
    vtl1_function read;
    bool needs_page;
} time_sources[] = {{"TSC", read_tsc, false}, {"reference counter", read_counter, false}, {"reference TSC page", read_page, true}};

static volatile uint64_t backwards;
static vtl1_function source;

static void compare(void *argument)
{
    (void)argument;
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t before = source(NULL), inside = vsm_run(source, NULL), after = source(NULL);
        if (before > inside || inside > after)
            atomic_add(&backwards, 1);
    }
}

/* One shared value, only ever raised: who reads it must not be behind it. */
static volatile uint64_t latest;

static uint64_t raise(void *argument)
{
    (void)argument;
    uint64_t seen = load_acquire(&latest), now = source(NULL);
    if (now < seen)
        atomic_add(&backwards, 1);
    while (seen < now && !__atomic_compare_exchange_n(&latest, &seen, now, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    return 0;
}

static void pass_around(void *argument)
{
    (void)argument;
    for (uint64_t i = 0; i < rounds; i++) {
        raise(NULL);
        vsm_run(raise, NULL);
    }
}

static uint64_t set_page(void *argument)
{
    wrmsr(HV_MSR_REFERENCE_TSC, argument ? (uint64_t)time_pages[this_cpu()->vtl] | 1 : 0);
    return 0;
}

static uint64_t copy_page(void *argument)
{
    memcpy(argument, time_pages[this_cpu()->vtl], sizeof(struct hv_tsc_page));
    return 0;
}

static bool check_page(void)
{
    struct hv_tsc_page vtl0, vtl1;
    set_page((void *)1);
    vsm_run(set_page, (void *)1);
    copy_page(&vtl0);
    vsm_run(copy_page, &vtl1);
    report(vtl0.sequence == vtl1.sequence && vtl0.scale == vtl1.scale && vtl0.offset == vtl1.offset,
           "the reference TSC page says the same in both: %u, 0x%lx, %ld", vtl0.sequence, vtl0.scale, vtl0.offset);
    return vtl0.sequence != 0;
}

static uint64_t compare_clocks(void *argument)
{
    uint64_t *outside = argument;
    const struct hv_tsc_page *page = (const struct hv_tsc_page *)time_pages[this_cpu()->vtl];
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t first = hv_page_time(page), counter = rdmsr(HV_MSR_TIME_REF_COUNT), last = hv_page_time(page);
        *outside += counter < first || counter > last;
    }
    return 0;
}

static uint64_t write_counter(void *argument)
{
    (void)argument;
    return (uint64_t)wrmsr_safe(HV_MSR_TIME_REF_COUNT, 1);
}

/* VTL1's timer cuts in: what VTL0 reads before and after has to lie around what VTL1 reads in between. */
static volatile uint64_t tick_tsc[64], ticks; /* by number: another may come at any time */

static void tick(struct frame *frame)
{
    (void)frame;
    tick_tsc[ticks % ARRAY_SIZE(tick_tsc)] = rdtsc();
    ticks++;
    apic_eoi();
}

static uint64_t start_timer(void *argument)
{
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_DIRECT(VECTOR_TIMER) | STIMER_PERIODIC | STIMER_AUTO_ENABLE);
    wrmsr(HV_MSR_STIMER0_COUNT, MS_100NS * (uint64_t)argument);
    return 0;
}

static uint64_t stop_timer(void *argument)
{
    (void)argument;
    wrmsr(HV_MSR_STIMER0_CONFIG, 0);
    return 0;
}

static void check_interrupted(void)
{
    uint64_t seen = 0, wrong = 0, end = rdtsc() + tsc_from_us(5000000);
    interrupt_set_handler_of(1, VECTOR_TIMER, tick);
    vsm_run(start_timer, (void *)PERIOD_MS);
    while (seen < 10 && rdtsc() < end) {
        uint64_t count = ticks, before = 0, now = rdtsc();
        while (ticks == count && now < end) {
            before = now; /* no tick until here */
            now = rdtsc();
        }
        uint64_t after = rdtsc();
        uint64_t between = tick_tsc[count % ARRAY_SIZE(tick_tsc)];
        wrong += between < before || between > after;
        seen++;
    }
    vsm_run(stop_timer, NULL);
    report(seen >= 10 && wrong == 0, "VTL1's interrupts lie between what VTL0 reads before and after: %lu of %lu do not", wrong, seen);
}

static uint64_t jump(void *argument)
{
    return rdtsc() - *(uint64_t *)argument;
}

static void check_wait(void)
{
    uint64_t counter = rdmsr(HV_MSR_TIME_REF_COUNT), tsc = rdtsc();
    wait_us(20000);
    uint64_t in_vtl1 = vsm_run(jump, &tsc), by_counter = vsm_run(read_counter, NULL) - counter;
    uint64_t by_tsc = tsc_to_ns(in_vtl1) / 100, later = tsc_to_ns(rdtsc() - tsc) / 100;
    report(by_counter + by_counter / 50 + 100 > by_tsc && by_counter < later + later / 50 + 100,
           "both run at the same rate: %lu by the counter, %lu to %lu by the TSC", by_counter, by_tsc, later);
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    smp_start();
    vsm_start();
    rounds = argument_number("rounds", 50);
    bool page = check_page();
    for (unsigned i = 0; i < ARRAY_SIZE(time_sources); i++) {
        if (time_sources[i].needs_page && !page) {
            report_skip("%s: not valid on this host", time_sources[i].name);
            continue;
        }
        source = time_sources[i].read;
        backwards = latest = 0;
        smp_run_all(compare, NULL);
        report(backwards == 0, "%s before a VTL call, in VTL1, after it: %lu times backwards on %u processors",
               time_sources[i].name, backwards, smp_count());
        smp_run_all(pass_around, NULL);
        report(backwards == 0, "%s from processor to processor and VTL to VTL: %lu times backwards",
               time_sources[i].name, backwards);
    }
    if (page) {
        uint64_t outside = 0;
        compare_clocks(&outside);
        vsm_run(compare_clocks, &outside);
        report(outside == 0, "the counter lies between two reads of the page, in both VTLs: %lu times not", outside);
    }
    report(write_counter(NULL) == VECTOR_GP && vsm_run(write_counter, NULL) == VECTOR_GP,
           "neither VTL can set the reference counter");
    check_wait();
    check_interrupted();
    set_page(NULL);
    vsm_run(set_page, NULL);
    return report_summary();
}
