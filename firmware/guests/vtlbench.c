/* SPDX-License-Identifier: Apache-2.0 */
/* What VTL switches cost, in cycles of the TSC. `python -m bench vtl` compares with other sides.
 *
 * calls=N cpus=N    N VTL calls, each with its return, on each of so many processors at once
 * interrupts=N      latency of N interrupts, from when they are due to their handler
 *   source=S        deadline (of the local APIC's timer), stimer, ipi (from the second processor)
 *   to=0|1          which VTL's handler; 0 goes without VTLs too
 *   while=spin|halt what VTL0 does meanwhile
 */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define VECTOR 0x61
#define VECTOR_GO_ON 0x62
#define SERVICE_LOOP 1
#define MAX_SAMPLES 4096
#define LIMIT_MS 2000
#define LEAST_DELAY_US 300
#define DELAYS_US 500 /* so many different ones, so that no tick of the host goes along */

/* ---- round trips ---- */

struct trips {
    volatile uint64_t ready, done, first, last; /* cycles */
};

static struct trips trips[MAX_CPUS];
static uint64_t calls, cpus;

/* VTL1's side: returns at once, again and again, until VTL0 comes with RDX 0. RDI is VTL0's: where VTL1 returns.
 * bench/c/vtl_switch.c has the same instructions.
 */
static void loop_in_vtl1(struct vtl1 *self, struct vtl_frame *frame)
{
    uint64_t entry = vsm_return_entry(), rax, rcx, rdx;
    (void)self, (void)frame;
    asm volatile("1: xorl %%ecx, %%ecx\n\t"
                 "call *%%rdi\n\t"
                 "testq %%rdx, %%rdx\n\t"
                 "jnz 1b"
                 : "+D"(entry), "=&a"(rax), "=&c"(rcx), "=&d"(rdx)
                 :
                 : "rbx", "rsi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
}

/* A VTL call after which all registers are VTL1's, but for the stack pointer. */
static void call_and_lose_registers(uint64_t rdi, uint64_t rdx)
{
    uint64_t entry = vsm_call_entry(), rcx = 0;
    asm volatile("call *%%rax"
                 : "+a"(entry), "+c"(rcx), "+D"(rdi), "+d"(rdx)
                 :
                 : "rbx", "rsi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
}

static uint64_t return_entry(void *argument)
{
    (void)argument;
    return vsm_return_entry();
}

static void make_calls(void *argument)
{
    struct trips *mine = &trips[this_cpu()->index];
    uint64_t back = vsm_run(return_entry, argument), rsi = vsm_call_entry(), left = calls, rax, rcx;
    call_and_lose_registers(SERVICE_LOOP, 0);
    mine->ready = 1;
    for (unsigned i = 0; i < cpus; i++)
        while (!load_acquire(&trips[i].ready))
            asm volatile("pause");
    mine->first = rdtsc();
    asm volatile("1: xorl %%ecx, %%ecx\n\t"
                 "call *%%rsi\n\t"
                 "decq %%rbx\n\t"
                 "jnz 1b"
                 : "+b"(left), "+S"(rsi), "=&a"(rax), "=&c"(rcx)
                 : "D"(back), "d"(1ull)
                 : "memory", "cc");
    mine->last = rdtsc();
    call_and_lose_registers(0, 0);
    mine->done = 1;
}

static void measure_calls(void)
{
    uint64_t first = ~0ull, last = 0, done = 0;
    vsm_set_service(loop_in_vtl1);
    for (unsigned i = 1; i < cpus; i++)
        smp_run_async(i, make_calls, NULL);
    make_calls(NULL);
    for (unsigned i = 0; i < cpus; i++) {
        if (i)
            smp_wait(i);
        if (trips[i].first < first)
            first = trips[i].first;
        if (trips[i].last > last)
            last = trips[i].last;
        done += trips[i].done;
        printf("VP %u: %lu calls\n", i, vtl1_of(i)->entries[ENTRY_FIRST] + vtl1_of(i)->entries[ENTRY_CALL] + calls + 1);
        printf("round-trip of VP %u: %lu cycles\n", i, (trips[i].last - trips[i].first) / calls);
    }
    printf("all: %lu cycles for %lu round trips\n", last - first, calls * cpus);
    report(done == cpus, "%lu VTL calls on each of %lu processors", calls, cpus);
}

/* ---- latency ---- */

static uint64_t due_tsc, latencies[MAX_SAMPLES], taken;
static volatile bool fired;
static bool to_vtl1, halts;
static uint8_t time_page[4096] __attribute__((aligned(4096)));

static void take(struct frame *frame)
{
    uint64_t now = rdtsc();
    (void)frame;
    if (!fired)
        latencies[taken++] = now - load_acquire(&due_tsc);
    apic_eoi();
    if (to_vtl1 && halts) /* VTL0 sleeps on, if nobody wakes it */
        hv_send_ipi(HV_VTL(0), VECTOR_GO_ON, 1ull << this_cpu()->index);
    store_release(&fired, true);
}

static void go_on(struct frame *frame)
{
    (void)frame;
    apic_eoi();
}

/* The handler has run already. */
static void handled(struct vtl1 *self, struct vtl_frame *frame)
{
    (void)self, (void)frame;
}

static uint64_t arm_deadline(void *argument)
{
    due_tsc = rdtsc() + (uint64_t)argument;
    apic_timer_deadline(VECTOR, due_tsc);
    return 0;
}

/* The reference TSC page says which TSC a time is. */
static uint64_t arm_stimer(void *argument)
{
    uint64_t scale = *(volatile uint64_t *)(time_page + 8), delay = (uint64_t)argument, now, low;
    uint64_t tsc = rdtsc();
    asm volatile("mulq %3" : "=d"(now), "=a"(low) : "a"(tsc), "r"(scale));
    now += *(volatile uint64_t *)(time_page + 16);
    uint64_t ticks = tsc_to_ns(delay) / 100;
    due_tsc = tsc + tsc_from_us(ticks) / 10;
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_DIRECT(VECTOR) | STIMER_AUTO_ENABLE);
    wrmsr(HV_MSR_STIMER0_COUNT, now + ticks);
    return 0;
}

static uint64_t send_ipi(void *argument)
{
    uint32_t destination = (uint32_t)(uint64_t)argument;
    store_release(&due_tsc, rdtsc());
    apic_send_ipi(destination, VECTOR);
    return 0;
}

/* Each VTL has a page of its own. Its sequence number: 0 where it is not valid. */
static uint64_t use_time_page(void *argument)
{
    (void)argument;
    wrmsr(HV_MSR_REFERENCE_TSC, (uint64_t)time_page | 1);
    return *(volatile uint32_t *)time_page;
}

static uint64_t in_target(vtl1_function function, uint64_t argument)
{
    return to_vtl1 ? vsm_run(function, (void *)argument) : function((void *)argument);
}

static uint64_t delay_tsc(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return tsc_from_us(LEAST_DELAY_US + (state >> 8) % DELAYS_US);
}

/* Spins or sleeps until the handler has run. */
static bool wait_for_handler(void)
{
    if (!halts) {
        interrupts_on();
        bool met = WAIT_FOR(load_acquire(&fired), LIMIT_MS);
        interrupts_off();
        return met;
    }
    while (!load_acquire(&fired)) {
        halt_until_interrupt();
        interrupts_off();
    }
    return true;
}

static volatile bool next_one, no_more;
static uint32_t receiver;

/* The second processor: an IPI a while after the first one has begun to wait. */
static void send_many(void *argument)
{
    (void)argument;
    while (!load_acquire(&no_more)) {
        if (!load_acquire(&next_one)) {
            asm volatile("pause");
            continue;
        }
        next_one = false;
        uint64_t end = rdtsc() + delay_tsc();
        while (rdtsc() < end)
            asm volatile("pause");
        in_target(send_ipi, receiver);
    }
}

static void sort(uint64_t *values, uint64_t count)
{
    for (uint64_t gap = count / 2; gap; gap /= 2)
        for (uint64_t i = gap; i < count; i++) {
            uint64_t value = values[i], j = i;
            for (; j >= gap && values[j - gap] > value; j -= gap)
                values[j] = values[j - gap];
            values[j] = value;
        }
}

static void measure_latency(uint64_t count)
{
    const char *source = argument("source", "deadline");
    bool ipi = !strcmp(source, "ipi"), stimer = !strcmp(source, "stimer");
    uint64_t missed = 0;
    receiver = apic_id();
    interrupt_set_handler_of(to_vtl1, VECTOR, take);
    interrupt_set_handler(VECTOR_GO_ON, go_on);
    vsm_set_interrupted(handled);
    vtl1_waits_with_interrupts_on = true;
    if (stimer && !in_target(use_time_page, 0))
        abort_run("the reference TSC page is not valid on this host");
    if (ipi)
        smp_run_async(1, send_many, NULL);
    else if (!stimer && !cpu_has_tsc_deadline())
        abort_run("the local APIC's timer has no deadline mode");
    interrupts_off();
    for (uint64_t i = 0; i < count && !missed; i++) {
        fired = false;
        if (ipi)
            store_release(&next_one, true);
        else
            in_target(stimer ? arm_stimer : arm_deadline, delay_tsc());
        missed += !wait_for_handler();
    }
    no_more = true;
    if (ipi)
        smp_wait(1);
    interrupts_on();
    report(!missed && taken == count, "%lu of %lu interrupts by %s came to VTL%u", taken, count, source, to_vtl1);
    if (!taken)
        return;
    sort(latencies, taken);
    printf("latency: median %lu p99 %lu least %lu most %lu cycles\n", latencies[taken / 2], latencies[taken * 99 / 100],
           latencies[0], latencies[taken - 1]);
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t interrupts = argument_number("interrupts", 0);
    calls = argument_number("calls", 0);
    to_vtl1 = argument_number("to", 1);
    halts = !strcmp(argument("while", "spin"), "halt");
    cpus = smp_start();
    if (argument_number("cpus", cpus) < cpus)
        cpus = argument_number("cpus", cpus);
    if (interrupts > MAX_SAMPLES)
        abort_run("interrupts=%lu: at most %u", interrupts, MAX_SAMPLES);
    printf("tsc: %lu Hz\n", tsc_hz());
    if (calls || to_vtl1) {
        vsm_require();
        vsm_start();
    } else {
        hv_init();
    }
    if (calls)
        measure_calls();
    if (interrupts)
        measure_latency(interrupts);
    return report_summary();
}
