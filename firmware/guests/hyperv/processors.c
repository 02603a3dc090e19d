/* SPDX-License-Identifier: Apache-2.0 */
/* IPIs and TLB flushes by hypercall. */
#include "parts.h"

static volatile uint32_t ipi_count, ipi_cpus;

static void ipi_handler(struct frame *frame)
{
    (void)frame;
    __atomic_fetch_add(&ipi_count, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&ipi_cpus, 1u << rdmsr(HV_MSR_VP_INDEX), __ATOMIC_SEQ_CST);
    apic_eoi();
}

static volatile uint64_t *probe;
static volatile uint32_t seen_old, seen_new, stop;

static void watch_probe(void *argument)
{
    (void)argument;
    while (!stop) {
        uint64_t value = *probe;
        if (value == 1)
            seen_old++;
        else if (value == 2)
            seen_new++;
    }
}

/* The other processor goes on reading a page whose mapping changes without an INVLPG there. */
static void check_flush(void)
{
    const uint64_t virtual = 0x200000000000ull; /* no identity there */
    uint64_t *first = page_alloc(), *second = page_alloc();
    first[0] = 1, second[0] = 2;
    page_map(virtual, (uintptr_t)first, PTE_PRESENT | PTE_WRITE);
    probe = (volatile uint64_t *)virtual;
    smp_run_async(1, watch_probe, NULL);
    report(WAIT_FOR(seen_old > 0, 1000), "the other processor reads the first page");
    *page_entry(virtual) = (uintptr_t)second | PTE_PRESENT | PTE_WRITE;
    input[0] = read_cr3();
    input[1] = 0;
    input[2] = 3; /* both */
    uint64_t result = hypercall(HV_CALL_FLUSH_SPACE, (uintptr_t)input, 0);
    uint32_t old = seen_old;
    report(result == 0 && *probe == 2, "flush of both processors: 0x%lx", result);
    bool met = WAIT_FOR(seen_new > 0, 1000);
    stop = 1;
    smp_wait(1);
    /* One read may have been on its way. */
    report(met && seen_old <= old + 1, "afterwards it reads the second only: %u and %u old", old, seen_old);
}

void check_processors(void)
{
    if (smp_start() < 2) {
        report_skip("IPIs and flushes need two processors");
        return;
    }
    interrupt_set_handler(IPI_VECTOR, ipi_handler);
    interrupts_on();
    input[0] = IPI_VECTOR;
    input[1] = 3;
    uint64_t result = hypercall(HV_CALL_SEND_IPI | HV_FAST, input[0], input[1]);
    report(result == 0 && WAIT_FOR(ipi_count == 2, 1000), "a fast cluster IPI to both: 0x%lx", result);
    report(ipi_cpus == 3, "each got one");
    result = hypercall(HV_CALL_SEND_IPI, (uintptr_t)input, 0);
    report(result == 0 && WAIT_FOR(ipi_count == 4, 1000), "a slow one: 0x%lx", result);
    result = hypercall(HV_CALL_SEND_IPI | HV_FAST, 5, 3); /* INVALID_INPUT where KVM answers itself */
    report(result == HV_STATUS_INVALID_PARAMETER || result == HV_STATUS_INVALID_INPUT, "vector 5 is refused: 0x%lx",
           result);
    wrmsr(HV_MSR_ICR, (uint64_t)smp_cpu(1)->apic_id << (apic_is_x2apic() ? 32 : 56) | IPI_VECTOR | APIC_LEVEL_ASSERT);
    report(WAIT_FOR(ipi_count == 5, 1000), "an IPI by the ICR's MSR");
    interrupts_off();
    check_flush();
}
