/* SPDX-License-Identifier: Apache-2.0 */
/* Starting processors that have a VTL1: by HvCallStartVirtualProcessor only, VTL1 first; INIT and SIPI to them are
 * dropped; VTL1 may keep VTL0 from starting any. Needs five processors, which nothing but this starts. TLFS 7.10.3,
 * 15.5.1.4, 15.12.3.
 *
 * no-init   sends no INIT to a processor that runs: KVM carries it out by itself
 */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define TRAMPOLINE 0x8000ull
#define CAPABILITY_DENY_LOWER_STARTUP (1ull << 17)
#define LIMIT_MS 2000
#define SILENCE_US 50000
#define HEARD_US 1000000 /* a hypervisor may have to tell each processor */
#define VPS 5

extern const char trampoline[], trampoline_end[];
extern struct cpu *ap_cpus[MAX_CPUS];
extern uint32_t ap_arrivals, ap_limit;
void ap_main(struct cpu *cpu);
extern const char started_by_call[];
void first_in_vtl0(void);

/* Where VTL0 of a processor begins that HvCallStartVirtualProcessor starts: with a stack, and GS base at its cpu. */
asm(".text\n"
    "started_by_call:\n\t"
    "xor %ebp, %ebp\n\t"
    "call first_in_vtl0\n");

static volatile uint64_t vtl1_before_vtl0[VPS], begun[VPS];

void first_in_vtl0(void)
{
    unsigned index = this_cpu()->index;
    vtl1_before_vtl0[index] = vtl1_of(index)->entries[ENTRY_FIRST];
    begun[index]++;
    ap_main(this_cpu());
}

static struct cpu *make_cpu(unsigned index)
{
    struct cpu *cpu = page_alloc();
    cpu->self = cpu;
    cpu->index = index;
    cpu->stack_top = (uint64_t)pages_alloc(4) + 4 * PAGE_SIZE;
    ap_cpus[index] = cpu;
    return cpu;
}

/* VTL0's context: that of VTL1 of the same processor but for what is its own. */
static uint64_t *start_input(uint32_t vp, uint8_t vtl)
{
    static struct cpu *cpus[VPS];
    unsigned index = vp < VPS ? vp : 1;
    if (!cpus[index])
        cpus[index] = make_cpu(index);
    struct cpu *cpu = cpus[index];
    uint64_t *input = vsm_vp_input(vp, vtl, vtl1_of(index));
    struct hv_context *context = (struct hv_context *)(input + 2);
    struct table_pointer gdt, idt = idt_pointer(0);
    asm volatile("sgdt %0" : "=m"(gdt));
    context->rip = (uint64_t)started_by_call;
    context->rsp = cpu->stack_top;
    context->cr3 = read_cr3();
    context->gs.base = (uint64_t)cpu;
    context->gdtr = (struct hv_table){.limit = gdt.limit, .base = gdt.base};
    context->idtr = (struct hv_table){.limit = idt.limit, .base = idt.base};
    return input;
}

static uint64_t start(uint32_t vp, uint8_t vtl)
{
    return hv_call(HV_CALL_START_VP, (uint64_t)start_input(vp, vtl), 0);
}

static bool runs(unsigned index)
{
    return WAIT_FOR(load_acquire(&ap_cpus[index]->online), LIMIT_MS);
}

/* ---- in VTL1 of the boot processor ---- */

static uint64_t enable_vp(void *argument)
{
    struct vtl1 *vtl1 = argument;
    return vsm_enable_vp(vtl1->vp_index, 1, vtl1);
}

static uint64_t set_config(void *argument)
{
    return hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, (uint64_t)argument, 0) & 0xffff;
}

static uint64_t get_config(void *argument)
{
    (void)argument;
    return hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG);
}

/* VTL1's own start with the context that it would have had. */
static uint64_t start_vtl1(void *argument)
{
    struct vtl1 *vtl1 = argument;
    return hv_call(HV_CALL_START_VP, (uint64_t)vsm_vp_input(vtl1->vp_index, 1, vtl1), 0);
}

static uint64_t start_vtl0_by_vtl1(void *argument)
{
    return start((uint32_t)(uint64_t)argument, 0);
}

/* ---- INIT and SIPI ---- */

static void send_init_and_startup(uint32_t destination)
{
    memcpy((void *)TRAMPOLINE, trampoline, trampoline_end - trampoline);
    apic_icr_write(APIC_DELIVERY_INIT | APIC_LEVEL_ASSERT, destination);
    apic_icr_write(APIC_DELIVERY_STARTUP | APIC_LEVEL_ASSERT | TRAMPOLINE / PAGE_SIZE, destination);
}

static volatile uint64_t turns;

static void keep_turning(void *argument)
{
    (void)argument;
    for (;;)
        turns++;
}

static void check_start(void)
{
    struct vtl1 *vtl1 = vtl1_of(1);
    hv_expect(vsm_run(enable_vp, vtl1), 0, "VTL1 of a processor that waits for its start");
    wait_us(SILENCE_US);
    report(!vtl1->ready, "it does not run by that");
    hv_expect(start(1, 2), HV_STATUS_ACCESS_DENIED, "a start in VTL2");
    hv_expect(start(1, 1), HV_STATUS_ACCESS_DENIED, "or VTL1, by VTL0");
    hv_expect(start(0, 0), HV_STATUS_INVALID_VP_INDEX, "a start of oneself");
    hv_expect(start(VPS + 60, 0), HV_STATUS_INVALID_VP_INDEX, "of nobody");
    uint64_t *input = start_input(1, 0);
    input[0] = 42;
    hv_expect(hv_call(HV_CALL_START_VP, (uint64_t)input, 0), HV_STATUS_INVALID_PARTITION_ID, "of another partition's");
    input = start_input(1, 0);
    ((struct hv_context *)(input + 2))->cr0 = 1u << 31;
    hv_expect(hv_call(HV_CALL_START_VP, (uint64_t)input, 0), HV_STATUS_INVALID_REGISTER_VALUE,
              "with paging and without protection");

    hv_expect(start(1, 0), 0, "a start in VTL0");
    report(runs(1), "the processor runs");
    report(vtl1->entries[ENTRY_FIRST] == 1 && vtl1_before_vtl0[1] == 1, "its VTL1 first, VTL0 after the return");
    report(begun[1] == 1, "which began once: %lu", begun[1]);
    uint64_t again = start(1, 0) & 0xffff;
    report(again == HV_STATUS_INVALID_VP_STATE, "a processor that runs is not started: status 0x%lx", again);
}

static void check_denied(void)
{
    struct vtl1 *vtl1 = vtl1_of(2);
    uint64_t config = vsm_run(get_config, NULL);
    hv_expect(vsm_run(set_config, (void *)(config | VSM_CONFIG_DENY_LOWER_STARTUP)), 0, "VTL1 denies starts");
    hv_expect(start(2, 0), HV_STATUS_ACCESS_DENIED, "a start by VTL0");
    hv_expect(vsm_run(enable_vp, vtl1), 0, "VTL1 enables itself there");
    hv_expect(start(2, 0), HV_STATUS_ACCESS_DENIED, "a start by VTL0 then");
    hv_expect(vsm_run(start_vtl0_by_vtl1, (void *)2), 0, "a start by VTL1");
    report(runs(2) && vtl1->entries[ENTRY_FIRST] == 1 && vtl1_before_vtl0[2] == 1, "the processor runs, VTL1 first");
    hv_expect(vsm_run(set_config, (void *)config), 0, "VTL1 allows starts");
}

static void check_vtl1_start(void)
{
    struct vtl1 *vtl1 = vtl1_of(3);
    hv_expect(vsm_run(start_vtl1, vtl1), HV_STATUS_INVALID_VTL_STATE, "a start in VTL1 before it is enabled there");
    hv_expect(vsm_run(enable_vp, vtl1), 0, "it is enabled");
    hv_expect(vsm_run(start_vtl1, vtl1), 0, "a start in VTL1");
    report(WAIT_FOR(vtl1->ready, LIMIT_MS), "VTL1 runs");
    wait_us(SILENCE_US);
    report(begun[3] == 0 && vtl1->entries[ENTRY_FIRST] == 1, "and returns to a VTL0 that waits for its start");
    hv_expect(start(3, 0), 0, "a start in VTL0");
    report(runs(3), "VTL0 runs");
}

/* Last, since a processor that takes them is lost: the trampoline leads it to nothing. */
static void check_signals(void)
{
    struct vtl1 *vtl1 = vtl1_of(4);
    uint64_t config = vsm_run(get_config, NULL);
    uint32_t arrivals = ap_arrivals;
    if (hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CAPABILITIES) & CAPABILITY_DENY_LOWER_STARTUP) {
        vsm_run(set_config, (void *)(config | VSM_CONFIG_DENY_LOWER_STARTUP));
        wait_us(HEARD_US);
        send_init_and_startup(4);
        wait_us(SILENCE_US);
        report(load_acquire(&ap_arrivals) == arrivals, "INIT and SIPI start nobody when VTL1 denies it");
        vsm_run(set_config, (void *)config);
    }
    arrivals = ap_arrivals;
    hv_expect(vsm_run(enable_vp, vtl1), 0, "VTL1 of a processor that waits");
    send_init_and_startup(4);
    wait_us(SILENCE_US);
    report(load_acquire(&ap_arrivals) == arrivals && !vtl1->ready, "INIT and SIPI do not start a processor with VTL1");
    hv_expect(start(4, 0), 0, "the hypercall does");
    report(runs(4), "it runs");

    if (argument_given("no-init")) {
        report_skip("INIT and SIPI to one that runs");
        return;
    }
    arrivals = ap_arrivals;
    smp_run_async(1, keep_turning, NULL);
    WAIT_FOR(turns > 0, LIMIT_MS);
    send_init_and_startup(1);
    wait_us(SILENCE_US);
    uint64_t before = turns;
    report(WAIT_FOR(turns > before, LIMIT_MS) && load_acquire(&ap_arrivals) == arrivals,
           "INIT and SIPI do nothing to one that runs");
}

static void answer(void *argument)
{
    *(uint64_t *)argument = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS);
}

static void woken(struct frame *frame)
{
    (void)frame;
    apic_eoi();
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    if (smp_expected() < VPS) {
        report_skip("five processors are needed");
        return report_summary();
    }
    interrupt_set_handler(VECTOR_CALL, woken);
    vsm_start(); /* of the boot processor: no other runs */
    for (unsigned i = 1; i < VPS; i++)
        vsm_prepare(i, i);
    report_prefix_push("start");
    check_start();
    report_prefix_pop();
    report_prefix_push("denied");
    if (hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CAPABILITIES) & CAPABILITY_DENY_LOWER_STARTUP)
        check_denied();
    else
        report_skip("not offered");
    report_prefix_pop();
    report_prefix_push("VTL1");
    check_vtl1_start();
    report_prefix_pop();
    for (unsigned i = 1; i < smp_count(); i++) {
        uint64_t status = 0;
        smp_run(i, answer, &status);
        report(status == 0x30000, "processor %u has both VTLs: 0x%lx", i, status);
    }
    report_prefix_push("signals");
    check_signals();
    report_prefix_pop();
    return report_summary();
}
