/* SPDX-License-Identifier: Apache-2.0 */
/* Three VTLs on each processor: who may enable VTL2, calls step by step, returns to whoever was entered, interrupts that go
 * straight to the highest VTL, what VTL2 may see of those below and send them, reference TSC pages, VINA, IPIs between
 * processors. TLFS 12.7, 15.3 to 15.12.
 *
 * reboot   afterwards the machine is reset, and everything is done once more
 */
#include "vtl2/parts.h"

#define SERVICE_MARK 1
#define MARK_INDEX 0x50 /* CMOS memory that nobody uses; it survives a reset */
#define MARK 0x5a

/* ---- enabling ---- */

static uint64_t enable_partition_vtl2(void *argument)
{
    (void)argument;
    return vsm_enable_partition(HV_SELF_PARTITION, 2, 0);
}

static uint64_t enable_vtl2(void *argument)
{
    struct vtl1 *vtl2 = argument;
    return vsm_enable_vp(vtl2->vp_index, 2, vtl2);
}

static uint64_t nothing(void *argument)
{
    return (uint64_t)argument;
}

static void first_call(void *argument)
{
    in_vtl2(nothing, argument);
}

static uint64_t call_entry_of_vtl1(void *argument)
{
    (void)argument;
    return vsm_call_entry();
}

static void check_enabling(void)
{
    uint64_t partition = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS);
    report((partition >> 16 & 15) == 2, "the highest VTL is %lu", partition >> 16 & 15);
    hv_expect(vsm_enable_partition(HV_SELF_PARTITION, 3, 0), HV_STATUS_INVALID_PARAMETER, "VTL3");
    hv_expect(vsm_enable_partition(HV_SELF_PARTITION, 2, 0), HV_STATUS_ACCESS_DENIED,
              "VTL2 by VTL0, over the head of VTL1");
    struct vtl1 *vtl2 = vsm_prepare_vtl(0, vtl1_of(0)->vp_index, 2);
    hv_expect(vsm_run(enable_vtl2, vtl2), HV_STATUS_INVALID_VTL_STATE, "VTL2 on a processor before the partition has it");
    hv_expect(vsm_run(enable_partition_vtl2, NULL), 0, "VTL2 by VTL1");
    partition = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS);
    report((partition & 0xffff) == 7, "the partition has them all: 0x%lx", partition);
    hv_expect(vsm_enable_vp(vtl2->vp_index, 2, vtl2), HV_STATUS_ACCESS_DENIED, "VTL2 on a processor by VTL0");
    hv_expect(vsm_run(enable_vtl2, vtl2), 0, "by VTL1, on its own");
    report(vsm_run(call_entry_of_vtl1, NULL) != 0 && !vtl2->ready, "it does not run by that");
    first_call(NULL);
    report(vtl2->ready && entries(2, ENTRY_FIRST) == 1, "it runs after a call");
    for (unsigned i = 1; i < smp_count(); i++) {
        struct vtl1 *other = vsm_prepare_vtl(i, vtl1_of(i)->vp_index, 2);
        hv_expect(vsm_run(enable_vtl2, other), HV_STATUS_ACCESS_DENIED, "VTL2 on another processor by VTL1");
        hv_expect(in_vtl2(enable_vtl2, other), 0, "by VTL2");
        smp_run(i, first_call, NULL);
    }
}

/* ---- calls and returns ---- */

static uint64_t deep_status(void *argument)
{
    uint64_t *status = argument;
    status[1] = read_status(NULL);
    status[2] = vsm_run(read_status, NULL);
    return status[1];
}

static void serve(struct vtl1 *self, struct vtl_frame *frame)
{
    if (frame->rdi != SERVICE_MARK)
        return;
    frame->rsi += 100 * self->cpu.vtl;
    if (self->cpu.vtl == 1)
        frame->rsi = vsm_call(SERVICE_MARK, frame->rsi, 0, 0);
    frame->rax = frame->rsi + 1;
}

static volatile uint64_t refused_at, refused_in;

static void refused(struct frame *frame)
{
    refused_at = frame->rip, refused_in = this_cpu()->vtl;
    frame->rip = *(uint64_t *)frame->rsp;
    frame->rsp += 8;
}

static uint64_t call_above(void *argument)
{
    vsm_call(SERVICE_MARK, (uint64_t)argument, 0, 0);
    return refused_in == this_cpu()->vtl && (refused_at & ~0xfffull) == hv_page();
}

static void check_calls(void)
{
    uint64_t status[VTLS] = {read_status(NULL)};
    vsm_run(deep_status, status);
    for (unsigned vtl = 0; vtl < VTLS; vtl++)
        report(ACTIVE(status[vtl]) == vtl && ENABLED(status[vtl]) == 7, "VTL%u is active there: 0x%lx", vtl, status[vtl]);

    uint64_t before[2] = {entries(1, ENTRY_CALL), entries(2, ENTRY_CALL)};
    uint64_t answer = vsm_call(SERVICE_MARK, 7, 0, 0);
    report(answer == 7 + 100 + 200 + 2, "a call goes up one by one, and its answer down: %lu", answer);
    report(entries(1, ENTRY_CALL) == before[0] + 1 && entries(2, ENTRY_CALL) == before[1] + 1, "each entered once");
    before[1] = entries(2, ENTRY_CALL);
    vsm_run(nothing, NULL);
    report(entries(2, ENTRY_CALL) == before[1], "VTL0's call does not reach VTL2");
    interrupt_set_handler_of(2, VECTOR_UD, refused);
    report(in_vtl2(call_above, NULL), "a call of VTL2 faults");
    interrupt_set_handler_of(2, VECTOR_UD, NULL);
}

/* ---- registers ---- */

static uint64_t set_lstar(void *argument)
{
    return hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_LSTAR, (uint64_t)argument, 0) & 0xffff;
}

static uint64_t try_lstar_of(void *argument)
{
    uint64_t value[2];
    return hv_get_register(HV_SELF_VP, (uint8_t)(uint64_t)argument, HV_REGISTER_LSTAR, value) & 0xffff;
}

static uint64_t read_dr3(void *argument)
{
    uint64_t value;
    (void)argument;
    asm volatile("mov %%dr3, %0" : "=r"(value));
    return value;
}

static uint64_t read_own_cr3(void *argument)
{
    (void)argument;
    return read_cr3();
}

static uint64_t maximum_vtl(void *argument)
{
    (void)argument;
    return hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_GUEST_VSM_PARTITION_CONFIG);
}

static void check_registers(void)
{
    set_lstar((void *)0x1000);
    vsm_run(set_lstar, (void *)0x2000);
    in_vtl2(set_lstar, (void *)0x3000);
    report(lstar_of((void *)HV_OWN_VTL) == 0x1000 && vsm_run(lstar_of, (void *)HV_OWN_VTL) == 0x2000 &&
               in_vtl2(lstar_of, (void *)HV_OWN_VTL) == 0x3000,
           "each has an LSTAR of its own");
    report(in_vtl2(lstar_of, (void *)HV_VTL(0)) == 0x1000 && in_vtl2(lstar_of, (void *)HV_VTL(1)) == 0x2000,
           "VTL2 sees those below");
    hv_expect(vsm_run(try_lstar_of, (void *)HV_VTL(2)), HV_STATUS_ACCESS_DENIED, "VTL2's, by VTL1");
    hv_expect(try_lstar_of((void *)HV_VTL(2)), HV_STATUS_ACCESS_DENIED, "by VTL0");
    uint64_t tables[VTLS] = {read_cr3(), vsm_run(read_own_cr3, NULL), in_vtl2(read_own_cr3, NULL)};
    report(tables[0] != tables[1] && tables[1] != tables[2] && tables[2] != tables[0], "and CR3: 0x%lx 0x%lx 0x%lx",
           tables[0], tables[1], tables[2]);
    asm volatile("mov %0, %%dr3" : : "r"(0x4444ull));
    report(vsm_run(read_dr3, NULL) == 0x4444 && in_vtl2(read_dr3, NULL) == 0x4444, "DR3 is everybody's");
    asm volatile("mov %0, %%dr3" : : "r"(0ull));
    uint64_t config = in_vtl2(maximum_vtl, NULL);
    report((config & 15) == 2, "VTL2 limits the VTLs of those below: 0x%lx", config);
    report(vsm_run(maximum_vtl, NULL) == ~0ull, "only VTL2 knows");
}

/* ---- reference TSC pages: a VTL sees its own, else that of the next VTL above which has one there ---- */

#define TIME_WORD 500 /* of the page; the hypervisor writes the first three only */

static volatile uint64_t *time_at;

/* Where the VTL that runs has an overlay, NULL: nowhere; there it writes a number of its own into the page. */
static void put_overlay(uint32_t msr, volatile uint64_t *page, uint64_t number)
{
    wrmsr(msr, (uint64_t)page | (page ? 1 : 0));
    if (page)
        page[TIME_WORD] = number + this_cpu()->vtl;
}

static uint64_t put_time(void *page)
{
    put_overlay(HV_MSR_REFERENCE_TSC, page, 10);
    return 0;
}

static uint64_t put_messages(void *page)
{
    put_overlay(HV_MSR_SIMP, page, 20);
    return 0;
}

static uint64_t look_at_time(void *argument)
{
    (void)argument;
    return time_at[TIME_WORD];
}

static void expect_time(volatile uint64_t *page, uint64_t vtl0, uint64_t vtl1, uint64_t vtl2, const char *what)
{
    time_at = page;
    uint64_t seen[VTLS] = {look_at_time(NULL), vsm_run(look_at_time, NULL), in_vtl2(look_at_time, NULL)};
    report(seen[0] == vtl0 && seen[1] == vtl1 && seen[2] == vtl2, "%s: %lu %lu %lu", what, seen[0], seen[1], seen[2]);
}

static void check_time_pages(void)
{
    uint64_t *page = page_alloc(), *other = page_alloc();
    page[TIME_WORD] = 1, other[TIME_WORD] = 2;
    in_vtl2(put_time, page);
    expect_time(page, 12, 12, 12, "VTL2's is seen by all");
    vsm_run(put_time, page);
    expect_time(page, 11, 11, 12, "over it VTL1's, by VTL1 and below");
    put_time(page);
    expect_time(page, 10, 11, 12, "over that VTL0's, by VTL0");
    vsm_run(put_time, NULL);
    expect_time(page, 10, 12, 12, "VTL1 takes its own away");
    put_time(NULL);
    expect_time(page, 12, 12, 12, "VTL0, too");
    vsm_run(put_messages, page);
    expect_time(page, 12, 21, 12, "messages of VTL1 in its place, by VTL1 alone");
    vsm_run(put_messages, NULL);
    expect_time(page, 12, 12, 12, "and away");
    in_vtl2(put_time, other);
    expect_time(page, 1, 1, 1, "VTL2 moves it: memory");
    expect_time(other, 12, 12, 12, "and there it is");
    put_time(page);
    expect_time(page, 10, 1, 1, "VTL0's is seen by VTL0 alone");
    vsm_run(put_time, page);
    expect_time(page, 10, 11, 1, "VTL1's below it, by VTL1");
    put_time(NULL);
    expect_time(page, 11, 11, 1, "VTL0's away: VTL1's"); /* these stay, for a reset */
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    if ((hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS) >> 16 & 15) < 2) {
        report_skip("VTL2 is not offered");
        return report_summary();
    }
    bool again = cmos_read(MARK_INDEX) == MARK;
    cmos_write(MARK_INDEX, 0);
    smp_start();
    interrupts_off();
    count_interrupts();
    apic_frequency = apic_timer_frequency();
    vsm_set_service(serve);
    vsm_start();
    static const struct {
        const char *name;
        void (*check)(void);
    } parts[] = {{"enabling", check_enabling},     {"calls", check_calls},   {"registers", check_registers},
                 {"interrupts", check_interrupts}, {"timers", check_timers}, {"VINA", check_vina},
                 {"direct", check_direct},     {"time pages", check_time_pages}};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        report_prefix_push(parts[i].name);
        parts[i].check();
        report_prefix_pop();
    }
    report_prefix_push("processors");
    if (smp_count() > 1)
        check_processors();
    else
        report_skip("a second processor is needed");
    report_prefix_pop();
    if (argument_given("reboot") && !again && !report_failures()) {
        cmos_write(MARK_INDEX, MARK);
        reset_by_0xcf9();
    }
    return report_summary();
}
