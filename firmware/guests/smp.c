/* SPDX-License-Identifier: Apache-2.0 */
/* All processors: start, identity, calls, IPIs from each to each, locks, timers. Argument "x2apic": that mode.
 *
 * rounds=N   lock and counter rounds per processor (200)
 */
#include "runtime.h"

#define VECTOR_IPI 0x40
#define VECTOR_TIMER 0x41
#define MAX_TESTED 64
#define WINDOW_MS 5000
#define TEST_ADDRESS 0x200000000000ull

static unsigned cpu_count;
static volatile uint32_t ipis[MAX_TESTED], timers[MAX_TESTED], nmis[MAX_TESTED];

static void count_ipi(struct frame *frame)
{
    (void)frame;
    ipis[this_cpu()->index]++; /* a processor does not interrupt itself here: no atomic needed */
    apic_eoi();
}

static void count_timer(struct frame *frame)
{
    (void)frame;
    timers[this_cpu()->index]++;
    apic_eoi();
}

static void count_nmi(struct frame *frame)
{
    (void)frame;
    nmis[this_cpu()->index]++;
}

static uint32_t cpuid_apic_id(void)
{
    if (cpuid(0, 0).eax >= 0xb && cpuid(0xb, 0).ebx)
        return cpuid(0xb, 0).edx;
    return cpuid(1, 0).ebx >> 24;
}

static uint32_t id_mismatches, ran, efer_wrong;

static void look_at_self(void *argument)
{
    (void)argument;
    atomic_add(&ran, 1);
    if (cpuid_apic_id() != apic_id() || apic_id() != this_cpu()->apic_id)
        atomic_add(&id_mismatches, 1);
    if (!(rdmsr(MSR_EFER) & EFER_LMA) || (rdmsr(MSR_APIC_BASE) >> 8 & 1) != (this_cpu() == &boot_cpu))
        atomic_add(&efer_wrong, 1);
}

static void check_start(void)
{
    unsigned doubles = 0;
    report(cpu_count == smp_expected(), "%u of %u processors online", cpu_count, smp_expected());
    for (unsigned i = 1; i < cpu_count; i++)
        doubles += smp_cpu(i)->apic_id == smp_cpu(i - 1)->apic_id;
    report(!doubles, "every APIC id is there once");
    smp_run_all(look_at_self, NULL);
    report(ran == cpu_count, "a call runs on each of them");
    report(!id_mismatches, "CPUID and APIC agree on the id");
    report(!efer_wrong, "long mode; only the first is the bootstrap processor");
}

static uint32_t ipis_missing;

static void send_to_all(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < cpu_count; i++)
        if (smp_cpu(i) != this_cpu())
            apic_send_ipi(smp_cpu(i)->apic_id, VECTOR_IPI);
}

static bool all_reached(volatile uint32_t *counters, uint32_t wanted, unsigned except)
{
    for (unsigned i = 0; i < cpu_count; i++)
        if (i != except && counters[i] < wanted)
            return false;
    return true;
}

static uint32_t total(volatile uint32_t *counters)
{
    uint32_t sum = 0;
    for (unsigned i = 0; i < cpu_count; i++)
        sum += counters[i];
    return sum;
}

static void check_ipis(void)
{
    /* One sender after the other: two IPIs with one vector at once may become one. */
    for (unsigned sender = 0; sender < cpu_count; sender++) {
        memset((void *)ipis, 0, sizeof(ipis));
        smp_run(sender, send_to_all, NULL);
        if (!WAIT_FOR(all_reached(ipis, 1, sender), WINDOW_MS) || total(ipis) != cpu_count - 1)
            ipis_missing++;
    }
    report(!ipis_missing, "IPIs from each to each: %u senders with losses", ipis_missing);

    memset((void *)ipis, 0, sizeof(ipis));
    apic_icr_write(APIC_DELIVERY_FIXED | APIC_LEVEL_ASSERT | APIC_SHORTHAND_OTHERS | VECTOR_IPI, 0);
    report(WAIT_FOR(all_reached(ipis, 1, 0), WINDOW_MS) && total(ipis) == cpu_count - 1, "to all others at once");
    memset((void *)ipis, 0, sizeof(ipis));
    apic_icr_write(APIC_DELIVERY_FIXED | APIC_LEVEL_ASSERT | APIC_SHORTHAND_ALL | VECTOR_IPI, 0);
    report(WAIT_FOR(all_reached(ipis, 1, cpu_count), WINDOW_MS) && total(ipis) == cpu_count, "to all and self");
    apic_icr_write(APIC_DELIVERY_NMI | APIC_LEVEL_ASSERT | APIC_SHORTHAND_OTHERS, 0);
    report(WAIT_FOR(all_reached(nmis, 1, 0), WINDOW_MS), "NMI to all others");
}

static struct lock lock;
static uint64_t under_lock, rounds;
static uint64_t by_xadd;
static volatile uint32_t inside;
static uint32_t intruders;

static void contend(void *argument)
{
    (void)argument;
    for (uint64_t i = 0; i < rounds; i++) {
        lock_acquire(&lock);
        if (inside++)
            atomic_add(&intruders, 1);
        under_lock++; /* not atomic: the lock must protect it */
        inside--;
        lock_release(&lock);
        atomic_add(&by_xadd, 1);
    }
}

static void check_locks(void)
{
    rounds = argument_number("rounds", 200);
    smp_run_all(contend, NULL);
    report(under_lock == rounds * cpu_count && !intruders, "%lu increments under a lock", under_lock);
    report(by_xadd == rounds * cpu_count, "%lu locked additions", by_xadd);
}

static uint64_t last_tsc;
static uint32_t tsc_backwards;

static void look_at_tsc(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < 50; i++) {
        lock_acquire(&lock);
        uint64_t now = rdtsc();
        if (now < last_tsc)
            tsc_backwards++;
        last_tsc = now;
        lock_release(&lock);
    }
}

static void start_timer(void *argument)
{
    (void)argument;
    apic_timer_start(APIC_TIMER_ONE_SHOT, VECTOR_TIMER, (uint32_t)(apic_timer_frequency() / 200));
}

static void check_clocks(void)
{
    smp_run_all(look_at_tsc, NULL);
    report(!tsc_backwards, "the TSC never goes back from one processor to the next: %u times", tsc_backwards);
    apic_timer_frequency(); /* measured once, here */
    smp_run_all(start_timer, NULL);
    report(WAIT_FOR(all_reached(timers, 1, cpu_count), WINDOW_MS) && total(timers) == cpu_count,
           "each processor's own timer fires once");
}

static uint32_t stale;

static void expect_second(void *argument)
{
    tlb_flush_page(TEST_ADDRESS);
    if (*(volatile uint64_t *)TEST_ADDRESS != *(uint64_t *)argument)
        atomic_add(&stale, 1);
}

static void check_mapping(void)
{
    uint64_t *first = page_alloc(), *second = page_alloc();
    *first = 1;
    *second = 2;
    page_map(TEST_ADDRESS, (uint64_t)first, PTE_PRESENT | PTE_WRITE);
    smp_run_all(expect_second, first);
    page_map(TEST_ADDRESS, (uint64_t)second, PTE_PRESENT | PTE_WRITE);
    smp_run_all(expect_second, second);
    report(!stale, "a changed mapping shows on all processors after INVLPG");
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    if (argument_given("x2apic") && !apic_enable_x2apic()) {
        report_skip("no x2APIC");
        return report_summary();
    }
    interrupt_set_handler(VECTOR_IPI, count_ipi);
    interrupt_set_handler(VECTOR_TIMER, count_timer);
    interrupt_set_handler(VECTOR_NMI, count_nmi);
    cpu_count = smp_start();
    if (cpu_count > MAX_TESTED)
        abort_run("%u processors, this guest has room for %u", cpu_count, MAX_TESTED);
    interrupts_on();
    check_start();
    if (cpu_count > 1)
        check_ipis();
    else
        report_skip("one processor: no IPIs to others");
    check_locks();
    check_clocks();
    check_mapping();
    return report_summary();
}
