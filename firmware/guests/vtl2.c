/* SPDX-License-Identifier: Apache-2.0 */
/* Three VTLs on each processor: who may enable VTL2, calls step by step, returns to whoever was entered, interrupts that go
 * straight to the highest VTL, what VTL2 may see of those below, VINA, IPIs between processors. TLFS 15.3 to 15.12.
 *
 * reboot   afterwards the machine is reset, and everything is done once more
 */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define VECTOR 0x41
#define VECTOR_TIMER 0x61
#define VECTOR_VINA 0x71
#define SERVICE_MARK 1
#define LIMIT_MS 20000
#define SILENCE_US 10000
#define PERIOD_MS 20
#define TIMES 5
#define MAX_VPS 16
#define ACTIVE(status) ((status) & 15)
#define ENABLED(status) ((status) >> 16 & 0xffff)
#define MARK_INDEX 0x50 /* CMOS memory that nobody uses; it survives a reset */
#define MARK 0x5a

struct counts {
    volatile uint32_t taken, ticks, notified;
    volatile uint64_t order; /* place of the last one among all */
};

static struct counts counts[VTLS][MAX_VPS];
static volatile uint64_t events;
static uint64_t apic_frequency;

static struct counts *mine(void)
{
    return &counts[this_cpu()->vtl][this_cpu()->index];
}

static void take(struct frame *frame)
{
    (void)frame;
    mine()->order = __atomic_add_fetch(&events, 1, __ATOMIC_SEQ_CST);
    mine()->taken++;
    apic_eoi();
}

static void tick(struct frame *frame)
{
    (void)frame;
    mine()->ticks++;
    apic_eoi();
}

static void take_vina(struct frame *frame)
{
    (void)frame;
    mine()->notified++;
    apic_eoi();
}

static void forget(void)
{
    memset(counts, 0, sizeof counts);
    events = 0;
}

static uint64_t entries(unsigned vtl, unsigned reason)
{
    return vtl_of(this_cpu()->index, vtl)->entries[reason];
}

/* Whatever waits for the VTL that runs is taken. */
static void open_interrupts(void)
{
    interrupts_on();
    wait_us(1000);
    interrupts_off();
}

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

/* In VTL1: a function in VTL2. */
struct errand {
    vtl1_function function;
    void *argument;
};

static uint64_t pass_on(void *argument)
{
    struct errand *errand = argument;
    return vsm_run(errand->function, errand->argument);
}

static uint64_t in_vtl2(vtl1_function function, void *argument)
{
    struct errand errand = {function, argument};
    return vsm_run(pass_on, &errand);
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

static uint64_t read_status(void *argument)
{
    (void)argument;
    return hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS);
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

static uint64_t lstar_of(void *argument)
{
    return hv_register(HV_SELF_VP, (uint8_t)(uint64_t)argument, HV_REGISTER_LSTAR);
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

/* ---- interrupts ---- */

/* In VTL1 with interrupts off. */
static uint64_t send_to_vtl2_and_look(void *argument)
{
    hv_send_ipi(HV_VTL(2), VECTOR, 1);
    bool came = WAIT_FOR(counts[2][0].taken == 1, LIMIT_MS);
    *(uint64_t *)argument = read_status(NULL);
    return came;
}

/* In VTL2 with interrupts off: for all three. */
static uint64_t send_to_all(void *argument)
{
    for (unsigned vtl = 0; vtl < VTLS; vtl++)
        hv_send_ipi(HV_VTL(vtl), VECTOR, 1);
    wait_us(SILENCE_US);
    *(uint64_t *)argument = events;
    interrupts_take();
    return counts[2][0].taken;
}

static void check_interrupts(void)
{
    forget();
    uint64_t first = entries(1, ENTRY_INTERRUPT), second = entries(2, ENTRY_INTERRUPT), calls = entries(1, ENTRY_CALL);
    uint64_t result = hv_send_ipi(HV_VTL(2), VECTOR, 1);
    report(result == 0 && WAIT_FOR(counts[2][0].taken == 1, LIMIT_MS) && entries(2, ENTRY_INTERRUPT) == second + 1,
           "an interrupt for VTL2 enters it, VTL0's interrupts off");
    wait_us(SILENCE_US);
    report(entries(1, ENTRY_INTERRUPT) == first && entries(1, ENTRY_CALL) == calls, "its return passes VTL1 by");
    report(ACTIVE(read_status(NULL)) == 0, "VTL0 goes on");

    forget();
    uint64_t status = 0;
    report(vsm_run(send_to_vtl2_and_look, &status) && entries(2, ENTRY_INTERRUPT) == second + 2,
           "one enters it from VTL1, whose interrupts are off");
    report(ACTIVE(status) == 1, "and VTL1 goes on: 0x%lx", status);

    forget();
    hv_send_ipi(HV_VTL(1), VECTOR, 1);
    report(WAIT_FOR(counts[1][0].taken == 1, LIMIT_MS) && entries(1, ENTRY_INTERRUPT) == first + 1 &&
               entries(2, ENTRY_INTERRUPT) == second + 2,
           "one for VTL1 enters VTL1 alone");

    /* VTL2 was called by VTL1, to which it returns: VTL1's interrupt is VTL1's own business then. */
    forget();
    uint64_t early = 0;
    report(in_vtl2(send_to_all, &early) == 1 && early == 0, "VTL2 takes its own when it wants: %lu", early);
    report(WAIT_FOR(counts[1][0].taken == 1, LIMIT_MS), "VTL1's comes when VTL2 has returned");
    open_interrupts();
    report(counts[0][0].taken == 1 && counts[2][0].order == 1 && counts[1][0].order == 2 && counts[0][0].order == 3,
           "the highest first: VTL2's %lu, VTL1's %lu, VTL0's %lu", counts[2][0].order, counts[1][0].order,
           counts[0][0].order);
}

static uint64_t start_timer(void *argument)
{
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_TIMER, (uint32_t)(apic_frequency * (uint64_t)argument / 1000));
    return 0;
}

static uint64_t stop_timer(void *argument)
{
    (void)argument;
    apic_timer_stop();
    return 0;
}

static uint32_t fewest_ticks(unsigned vtl, unsigned end)
{
    uint32_t fewest = ~0u;
    for (; vtl < end; vtl++)
        if (counts[vtl][0].ticks < fewest)
            fewest = counts[vtl][0].ticks;
    return fewest;
}

/* In VTL1, which lets nothing but VTL2's interrupts pass. */
static uint64_t wait_for_vtl2(void *argument)
{
    (void)argument;
    counts[2][0].ticks = 0;
    return WAIT_FOR(counts[2][0].ticks >= TIMES, LIMIT_MS);
}

static void check_timers(void)
{
    forget();
    vsm_run(start_timer, (void *)PERIOD_MS);
    in_vtl2(start_timer, (void *)PERIOD_MS);
    bool came = WAIT_FOR(fewest_ticks(1, VTLS) >= TIMES, LIMIT_MS);
    report(came, "timers of VTL1 and VTL2 preempt VTL0 that spins: %u, %u", counts[1][0].ticks, counts[2][0].ticks);
    came = vsm_run(wait_for_vtl2, NULL);
    report(came, "VTL2's preempts VTL1: %u", counts[2][0].ticks);
    forget();
    uint64_t end = rdtsc() + tsc_from_us(LIMIT_MS * 1000);
    start_timer((void *)PERIOD_MS);
    while (fewest_ticks(0, VTLS) < TIMES && rdtsc() < end)
        halt_until_interrupt();
    interrupts_off();
    report(fewest_ticks(0, VTLS) >= TIMES, "all three run while VTL0 sleeps: %u, %u, %u", counts[0][0].ticks,
           counts[1][0].ticks, counts[2][0].ticks);
    stop_timer(NULL);
    vsm_run(stop_timer, NULL);
    in_vtl2(stop_timer, NULL);
    open_interrupts();
}

/* ---- VINA ---- */

static uint64_t set_vina(void *argument)
{
    return hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VINA, (uint64_t)argument, 0) & 0xffff;
}

/* In VTL2: an interrupt for the VTL that `argument` names. */
static uint64_t be_notified(void *argument)
{
    vtl1_self()->assist->vina_asserted = 0;
    counts[2][0].notified = 0;
    hv_send_ipi((uint8_t)(uint64_t)argument, VECTOR, 1);
    interrupts_on();
    WAIT_FOR(counts[2][0].notified, LIMIT_MS);
    interrupts_off();
    return counts[2][0].notified;
}

static uint64_t notified_with_interrupts_on(void *argument)
{
    struct errand errand = {be_notified, argument};
    interrupts_on();
    uint64_t notified = pass_on(&errand);
    interrupts_off();
    return notified;
}

static void check_vina(void)
{
    forget();
    hv_expect(in_vtl2(set_vina, (void *)(VINA_ENABLED | VECTOR_VINA)), 0, "VTL2 wants to hear of interrupts below");
    interrupts_on();
    report(in_vtl2(be_notified, (void *)HV_VTL(0)) == 1, "of VTL0's");
    interrupts_off();
    report(vsm_run(notified_with_interrupts_on, (void *)HV_VTL(1)) == 1, "of VTL1's");
    report(in_vtl2(set_vina, 0) == 0, "and no more");
    open_interrupts();
    report(counts[0][0].taken == 1 && counts[1][0].taken == 1 && counts[1][0].notified == 0,
           "both have taken theirs: %u, %u", counts[0][0].taken, counts[1][0].taken);
}

/* ---- other processors ---- */

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
    stop = true;
    smp_wait(index);
}

static void check_processors(void)
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
    for (unsigned vtl = 0; vtl < VTLS; vtl++) {
        interrupt_set_handler_of(vtl, VECTOR, take);
        interrupt_set_handler_of(vtl, VECTOR_TIMER, tick);
        interrupt_set_handler_of(vtl, VECTOR_VINA, take_vina);
    }
    apic_frequency = apic_timer_frequency();
    vsm_set_service(serve);
    vsm_start();
    static const struct {
        const char *name;
        void (*check)(void);
    } parts[] = {{"enabling", check_enabling},     {"calls", check_calls},   {"registers", check_registers},
                 {"interrupts", check_interrupts}, {"timers", check_timers}, {"VINA", check_vina}};
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
