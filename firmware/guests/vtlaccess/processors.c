/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of another processor. */
#include "parts.h"

static volatile uint64_t loop_rip;
static volatile bool leave;

static void __attribute__((noinline)) turn(void *argument)
{
    (void)argument;
    asm volatile("lea 1f(%%rip), %%rax\n\t"
                 "mov %%rax, %0\n"
                 "1: pause\n\t"
                 "cmpb $0, %1\n\t"
                 "je 1b"
                 : "=m"(loop_rip)
                 : "m"(leave)
                 : "rax", "cc", "memory");
}

static volatile bool inside;

static uint64_t turn_in_vtl1(void *argument)
{
    (void)argument;
    inside = true;
    while (!leave)
        cpu_relax();
    return 0;
}

static void call_turn(void *argument)
{
    vsm_run(turn_in_vtl1, argument);
}

void check_other(void)
{
    uint64_t value[2];
    leave = false, loop_rip = 0;
    smp_run_async(1, turn, NULL);
    WAIT_FOR(loop_rip, LIMIT_MS);
    uint64_t rip = get_of(1, HV_VTL(0), HV_REGISTER_RIP);
    report(rip >= loop_rip && rip < loop_rip + 16, "VTL1 reads VTL0's RIP of a processor that runs: 0x%lx", rip);
    uint64_t other_cr3 = get_of(1, HV_OWN_VTL, HV_REGISTER_CR3), own_cr3 = get_of(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_CR3);
    report(get_of(1, HV_VTL(0), HV_REGISTER_CR3) == read_cr3() && other_cr3 == own_cr3,
           "CR3 of both its VTLs: VTL1's is 0x%lx", other_cr3);
    report(get_of(1, HV_OWN_VTL, HV_REGISTER_VP_INDEX) == 1 &&
               get_of(1, HV_OWN_VTL, HV_REGISTER_VP_ASSIST_PAGE) == ((uint64_t)vtl1_of(1)->assist | 1),
           "its VP index and VTL1's VP assist page");
    report(set_of(1, HV_VTL(0), HV_REGISTER_KERNEL_GS_BASE, 0x1111, 0) == 0 &&
               set_of(1, HV_VTL(1), HV_REGISTER_KERNEL_GS_BASE, 0x2222, 0) == 0 &&
               get_of(1, HV_VTL(0), HV_REGISTER_KERNEL_GS_BASE) == 0x1111 &&
               get_of(1, HV_VTL(1), HV_REGISTER_KERNEL_GS_BASE) == 0x2222,
           "and writes registers of both");
    report(hv_register(1, HV_OWN_VTL, HV_REGISTER_KERNEL_GS_BASE) == 0x1111, "VTL0 reads VTL0's");
    hv_expect(hv_get_register(1, HV_VTL(1), HV_REGISTER_CR3, value), HV_STATUS_ACCESS_DENIED, "and not VTL1's");
    leave = true;
    smp_wait(1);
    wait_us(2000);
    report(get_of(1, HV_VTL(0), HV_REGISTER_CR3) == read_cr3() && get_of(1, HV_VTL(0), HV_REGISTER_RFLAGS) & RFLAGS_IF,
           "of one that sleeps");

    leave = inside = false;
    smp_run_async(1, call_turn, NULL);
    WAIT_FOR(inside, LIMIT_MS);
    report(hv_register(1, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS) == 0x30001, "of one in VTL1: its status 0x%lx",
           hv_register(1, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS));
    report(hv_register(1, HV_OWN_VTL, HV_REGISTER_CR3) == read_cr3(), "VTL0's own registers");
    hv_expect(hv_get_register(1, HV_OWN_VTL, HV_REGISTER_RBX, value), HV_STATUS_ACCESS_DENIED,
              "not the shared ones, which VTL1 is working with");
    report(get_of(1, HV_VTL(0), HV_REGISTER_CR3) == read_cr3() &&
               get_of(1, HV_VTL(0), HV_REGISTER_RBX) != ~0ull,
           "which another VTL1 may read");
    leave = true;
    smp_wait(1);
}

/* Two VTL1s at each other's registers, with interrupts off: neither may wait for the other for ever. */
static uint64_t read_often(void *argument)
{
    uint64_t good = 0;
    for (unsigned i = 0; i < 50; i++) {
        uint64_t value[2];
        good += hv_get_register((uint32_t)(uint64_t)argument, HV_OWN_VTL, HV_REGISTER_CR3, value) == HV_REPS(1);
    }
    return good;
}

static volatile uint64_t good_there;

static void read_first(void *argument)
{
    (void)argument;
    good_there = vsm_run(read_often, (void *)0);
}

void check_both(void)
{
    smp_run_async(1, read_first, NULL);
    uint64_t good = vsm_run(read_often, (void *)1);
    smp_wait(1);
    report(good == 50 && good_there == 50, "two processors at each other's registers: %lu and %lu", good, good_there);
}
