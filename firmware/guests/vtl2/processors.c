/* SPDX-License-Identifier: Apache-2.0 */
/* IPIs between the VTL2s of processors that are busy below it; registers of another processor. */
#include "parts.h"

static uint64_t send_by_apic(void *argument)
{
    struct vtl1 *other = argument;
    apic_send_ipi(other->cpu.apic_id, VECTOR);
    return 0;
}

static uint64_t send_and_wait(void *argument)
{
    struct vtl1 *other = argument;
    apic_send_ipi(other->cpu.apic_id, VECTOR);
    return WAIT_FOR(counts[2][other->cpu.index].taken == 1, LIMIT_MS);
}

static uint64_t assert_for_vtl1(void *argument)
{
    return hv_assert_interrupt(INTERRUPT_FIXED, ((struct vtl1 *)argument)->cpu.apic_id, VECTOR, 1);
}

static volatile bool spinning, stop;

static void spin(void *argument)
{
    (void)argument;
    interrupts_off();
    spinning = true;
    while (!stop)
        cpu_relax();
    spinning = false;
    interrupts_on();
}

static uint64_t spin_in_vtl1(void *argument)
{
    spin(argument);
    interrupts_off();
    return 0;
}

static void spin_above(void *argument)
{
    vsm_run(spin_in_vtl1, argument);
}

static uint64_t lstar_of_other(void *argument)
{
    return hv_register(1, (uint8_t)(uint64_t)argument, HV_REGISTER_LSTAR);
}

static void check_processor(unsigned index, cpu_function occupation, const char *what)
{
    struct vtl1 *vtl2 = vtl_of(index, 2);
    forget();
    stop = false;
    smp_run_async(index, occupation, NULL);
    report(WAIT_FOR(spinning, LIMIT_MS), "processor %u: %s", index, what);
    hv_send_ipi(HV_VTL(2), VECTOR, 1ull << vtl2->vp_index);
    report(WAIT_FOR(counts[2][index].taken == 1, LIMIT_MS), "an IPI by hypercall for its VTL2");
    forget();
    in_vtl2(send_by_apic, vtl2);
    report(WAIT_FOR(counts[2][index].taken == 1, LIMIT_MS), "one by VTL2's local APIC");
    forget();
    report(in_vtl2(send_and_wait, vtl2), "one that VTL2 waits for");
    forget();
    hv_expect(in_vtl2(assert_for_vtl1, vtl2), 0, "one that VTL2 makes for its VTL1");
    bool entered = occupation == spin && WAIT_FOR(counts[1][index].taken == 1, LIMIT_MS);
    stop = true;
    smp_wait(index);
    report(counts[1][index].taken == 1 && entered == (occupation == spin), "which takes it as soon as it would");
}

void check_processors(void)
{
    for (unsigned i = 1; i < smp_count(); i++) {
        check_processor(i, spin, "VTL0 spins with interrupts off");
        check_processor(i, spin_above, "VTL1 spins with interrupts off");
    }
    uint64_t status = 0;
    hv_expect(hv_set_register(1, HV_VTL(0), HV_REGISTER_LSTAR, 0x5000, 0), 0, "a register of another processor");
    status = in_vtl2(lstar_of_other, (void *)HV_VTL(0));
    report(status == 0x5000, "read by VTL2: 0x%lx", status);
}
