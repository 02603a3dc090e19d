/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupts between VTLs of different processors. */
#include "parts.h"

static volatile bool leave, spinning;

static void spin_deaf(void *argument)
{
    (void)argument;
    interrupts_off();
    spinning = true;
    while (!leave)
        cpu_relax();
    interrupts_on();
    spinning = false;
}

static uint64_t ipi_from_vtl1(void *argument)
{
    apic_send_ipi(smp_cpu(1)->apic_id, (uint8_t)(uint64_t)argument);
    return 0;
}

static uint64_t nmi_from_vtl1(void *argument)
{
    (void)argument;
    apic_icr_write(APIC_DELIVERY_NMI | APIC_LEVEL_ASSERT, smp_cpu(1)->apic_id);
    return 0;
}

static volatile uint32_t in_vtl1_low, in_vtl1_nmi;

static uint64_t stay_in_vtl1(void *argument)
{
    (void)argument;
    spinning = true;
    interrupts_on();
    WAIT_FOR(leave, LIMIT_MS);
    wait_us(5000);
    interrupts_off();
    in_vtl1_low = counts[0][1].low, in_vtl1_nmi = counts[0][1].nmi;
    spinning = false;
    return 0;
}

static void call_and_stay(void *argument)
{
    vsm_run(stay_in_vtl1, argument);
}

static void begin(cpu_function function)
{
    forget();
    leave = spinning = false;
    smp_run_async(1, function, NULL);
    WAIT_FOR(spinning, LIMIT_MS);
}

void check_processors(void)
{
    uint64_t entries = vtl1_of(1)->entries[ENTRY_INTERRUPT];
    begin(spin_deaf);
    vsm_run(ipi_from_vtl1, (void *)VECTOR_LOW);
    report(WAIT_FOR(counts[1][1].low == 1, LIMIT_MS) && counts[0][1].low == 0 &&
               vtl1_of(1)->entries[ENTRY_INTERRUPT] == entries + 1,
           "an IPI from VTL1 enters VTL1 of a processor that spins with interrupts off");
    hv_send_ipi(HV_VTL(1), VECTOR_LOW, 2);
    report(WAIT_FOR(counts[1][1].low == 2, LIMIT_MS), "one by hypercall too");
    vsm_run(nmi_from_vtl1, NULL);
    report(WAIT_FOR(counts[1][1].nmi == 1, LIMIT_MS) && counts[0][1].nmi == 0, "an NMI from VTL1 too");
    leave = true;
    smp_wait(1);

    forget();
    wait_us(2000); /* it sleeps again */
    vsm_run(ipi_from_vtl1, (void *)VECTOR_LOW);
    report(WAIT_FOR(counts[1][1].low == 1, LIMIT_MS), "VTL1 of a processor that sleeps is entered by an IPI");
    vsm_run(ipi_from_vtl1, (void *)VECTOR_LOW);
    report(WAIT_FOR(counts[1][1].low == 2, LIMIT_MS), "again");
    apic_send_ipi(smp_cpu(1)->apic_id, VECTOR_LOW);
    report(WAIT_FOR(counts[0][1].low == 1, LIMIT_MS) && counts[1][1].low == 2, "and VTL0 by one from VTL0");

    begin(call_and_stay);
    apic_send_ipi(smp_cpu(1)->apic_id, VECTOR_LOW);
    apic_icr_write(APIC_DELIVERY_NMI | APIC_LEVEL_ASSERT, smp_cpu(1)->apic_id);
    wait_us(10000);
    leave = true;
    smp_wait(1);
    report(in_vtl1_low == 0 && in_vtl1_nmi == 0, "an IPI and an NMI of VTL0 wait while VTL1 runs: %u %u", in_vtl1_low,
           in_vtl1_nmi);
    report(WAIT_FOR(counts[0][1].low == 1 && counts[0][1].nmi == 1, LIMIT_MS), "and come after the return");
    report(counts[1][1].low == 0 && counts[1][1].nmi == 0, "VTL1 has seen neither");

    begin(spin_deaf);
    uint32_t first = 20;
    for (uint32_t i = 1; i <= first; i++) {
        vsm_run(ipi_from_vtl1, (void *)VECTOR_LOW);
        if (!WAIT_FOR(counts[1][1].low == i, LIMIT_MS))
            break;
    }
    report(counts[1][1].low == first, "%u of %u IPIs came, one after the other", counts[1][1].low, first);
    leave = true;
    smp_wait(1);
}
