/* SPDX-License-Identifier: Apache-2.0 */
/* All processors do at random what VTLs allow, for a while: calls, IPIs to either VTL of any processor by APIC and by
 * hypercall, registers of other processors, sleep; timers run in both VTLs. In the end every count has to add up.
 *
 * seconds=N   how long (10)
 * seed=N      of the random numbers (the TSC)
 * patience=N  seconds without progress after which the watchdog ends the guest (30)
 */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define MAX_VPS 16
#define ACTORS 2 /* of each processor: VTL0 and VTL1 */
#define VECTOR_TIMER 0x61
#define VECTOR_MAIL 0x62
#define SERVICE_ACT 1
#define PERIOD_VTL0_MS 7
#define PERIOD_VTL1_MS 11
#define DRAIN_MS 60000
#define TICKS_AT_LEAST 5 /* of each timer, however slow the host */

/* A register of each VTL of a processor for each processor that writes there: nobody else touches it. */
static const uint32_t scratch[] = {HV_REGISTER_LSTAR, HV_REGISTER_CSTAR, HV_REGISTER_SYSENTER_EIP,
                                   HV_REGISTER_SYSENTER_ESP};

/* What a processor does now; the watchdog prints it. */
enum activity { IDLE, CALL, IPI_BY_APIC, IPI_BY_CALL, GET_REGISTER, SET_REGISTER, SLEEP, SPIN, DRAIN, ENDED };
static const char *const activities[] = {"between two steps", "VTL call",       "IPI by APIC", "IPI by hypercall",
                                         "reading a register", "writing a register", "HLT",         "spinning",
                                         "waiting for mail", "done"};

/* An IPI stands for at least one letter in the box: equal vectors may merge, letters do not. */
struct mailbox {
    volatile uint64_t posted, taken, interrupts;
};

/* One VTL of one processor. Only its own code writes here, but for the mailbox's `posted`. */
struct actor {
    struct mailbox mail;
    volatile enum activity activity;
    volatile uint32_t partner;
    volatile uint64_t steps, random;
    volatile uint64_t sent[ACTORS], calls, gets, sets, refused, wrong, ticks, sleeps;
};

static struct actor actors[MAX_VPS][ACTORS];
static uint64_t services[MAX_VPS]; /* SERVICE_ACT carried out */
static unsigned vps;
static uint64_t end, patience_ticks, apic_frequency; /* TSC */
static volatile uint64_t watched_steps[MAX_VPS], watched_since[MAX_VPS];
static uint32_t watchdog_barks;

static struct actor *me(void)
{
    return &actors[this_cpu()->index][this_cpu()->vtl];
}

static uint64_t random_number(struct actor *self, uint64_t below)
{
    uint64_t x = self->random;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    self->random = x;
    return (x >> 8) % below;
}

/* ---- interrupts ---- */

static void take_mail(struct frame *frame)
{
    (void)frame;
    struct mailbox *mail = &me()->mail;
    apic_eoi(); /* first: what is posted from now on interrupts again */
    mail->interrupts++;
    mail->taken += __atomic_exchange_n(&mail->posted, 0, __ATOMIC_SEQ_CST);
}

static void print_states(void)
{
    for (unsigned i = 0; i < vps; i++)
        for (unsigned vtl = 0; vtl < ACTORS; vtl++) {
            struct actor *a = &actors[i][vtl];
            printf("VP %u VTL%u: %s (VP %u), %lu steps, %lu ticks, mail: %lu posted, %lu taken; VTL1 entered %lu, %lu\n",
                   i, vtl, activities[a->activity], a->partner, a->steps, a->ticks, a->mail.posted, a->mail.taken,
                   vtl1_of(i)->entries[ENTRY_CALL], vtl1_of(i)->entries[ENTRY_INTERRUPT]);
        }
}

/* In both VTLs of every processor: whoever still runs sees who does not. */
static void watch(void)
{
    uint64_t now = rdtsc();
    for (unsigned i = 0; i < vps; i++) {
        /* Others watch too, and may have looked later. */
        uint64_t steps = actors[i][0].steps + actors[i][1].steps, since = watched_since[i];
        if (steps != watched_steps[i] || actors[i][0].activity == ENDED) {
            watched_steps[i] = steps;
            watched_since[i] = now;
        } else if (now > since && now - since > patience_ticks && !atomic_add(&watchdog_barks, 1)) {
            printf("watchdog: VP %u has made no progress, seen by VP %u\n", i, this_cpu()->index);
            print_states();
            abort_run("no progress");
        }
    }
}

static void tick(struct frame *frame)
{
    (void)frame;
    struct actor *self = me();
    self->ticks++;
    apic_eoi();
    if (self->ticks % 16 == 0)
        watch();
}

/* ---- steps that either VTL makes ---- */

static void send(struct actor *self, bool by_call)
{
    unsigned target = (unsigned)random_number(self, vps);
    unsigned own = this_cpu()->vtl, vtl = by_call ? (unsigned)random_number(self, ACTORS) : own;
    self->partner = target;
    self->activity = by_call ? IPI_BY_CALL : IPI_BY_APIC;
    self->sent[vtl]++;
    atomic_add(&actors[target][vtl].mail.posted, 1);
    if (!by_call)
        apic_send_ipi(smp_cpu(target)->apic_id, VECTOR_MAIL);
    else if (hv_send_ipi((uint8_t)HV_VTL(vtl), VECTOR_MAIL, 1ull << target))
        self->wrong++;
}

/* Write the own scratch register of any processor's VTL, up to the own, and read it back. */
static void use_register(struct actor *self)
{
    struct cpu *cpu = this_cpu();
    uint32_t target = (uint32_t)random_number(self, vps);
    uint64_t value = random_number(self, 1ull << 30), back[2];
    uint32_t name = scratch[cpu->index % ARRAY_SIZE(scratch)];
    /* VTL1 writes VTL1's; VTL0's belong to VTL0. */
    uint8_t vtl = (uint8_t)HV_VTL(cpu->vtl);
    self->partner = target;
    self->activity = SET_REGISTER;
    self->wrong += hv_set_register(target, vtl, name, value, 0) != HV_REPS(1);
    self->sets++;
    self->activity = GET_REGISTER;
    self->wrong += hv_get_register(target, vtl, name, back) != HV_REPS(1) || back[0] != value;
    self->gets++;
}

/* Look at VTL0 of any processor: its VP index never changes. */
static void look(struct actor *self)
{
    uint64_t back[2];
    uint32_t target = (uint32_t)random_number(self, vps);
    self->partner = target;
    self->activity = GET_REGISTER;
    self->wrong += hv_get_register(target, HV_VTL(0), HV_REGISTER_VP_INDEX, back) != HV_REPS(1) || back[0] != target;
    /* RIP is on the vCPU of a VTL that may run just now. */
    self->wrong += hv_get_register(target, HV_VTL(0), HV_REGISTER_RIP, back) != HV_REPS(1);
    self->gets += 2;
}

static void spin(struct actor *self)
{
    self->activity = SPIN;
    for (uint64_t left = random_number(self, 500); left; left--)
        cpu_relax();
}

static void step(struct actor *self)
{
    switch (random_number(self, 6)) {
    case 0:
        send(self, false);
        break;
    case 1:
        send(self, true);
        break;
    case 2:
        use_register(self);
        break;
    case 3:
        look(self);
        break;
    default:
        spin(self);
    }
    self->steps++;
    self->activity = IDLE;
}

/* ---- VTL1 ---- */

static void serve(struct vtl1 *self, struct vtl_frame *frame)
{
    struct actor *actor = me();
    services[self->cpu.index]++;
    for (uint64_t left = frame->rsi; left; left--) {
        if (random_number(actor, 2)) /* taken in the midst, or at the return */
            interrupts_on();
        step(actor);
        interrupts_off();
    }
    frame->rax = frame->rdx + frame->r8;
}

static uint64_t start_timer_of_vtl1(void *argument)
{
    (void)argument;
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_TIMER, (uint32_t)(apic_frequency / 1000 * PERIOD_VTL1_MS));
    return 0;
}

static uint64_t stop_timer_of_vtl1(void *argument)
{
    (void)argument;
    apic_timer_stop();
    interrupts_take();
    return 0;
}

/* ---- VTL0 ---- */

static void call(struct actor *self)
{
    uint64_t first = random_number(self, 1ull << 40), second = random_number(self, 1ull << 40);
    self->activity = CALL;
    self->wrong += vsm_call(SERVICE_ACT, random_number(self, 3), first, second) != first + second;
    self->calls++;
    self->steps++;
    self->activity = IDLE;
}

/* Its own timer ends it at the latest. */
static void sleep(struct actor *self)
{
    uint64_t ticks = self->ticks, interrupts = self->mail.interrupts;
    self->activity = SLEEP;
    interrupts_off();
    while (self->ticks == ticks && self->mail.interrupts == interrupts) {
        halt_until_interrupt();
        interrupts_off();
    }
    interrupts_on();
    self->sleeps++;
    self->steps++;
    self->activity = IDLE;
}

static void act(void *argument)
{
    struct actor *self = me();
    const uint64_t minute = tsc_from_us(60000000);
    (void)argument;
    vsm_run(start_timer_of_vtl1, NULL);
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_DIRECT(VECTOR_TIMER) | STIMER_PERIODIC | STIMER_AUTO_ENABLE);
    wrmsr(HV_MSR_STIMER0_COUNT, PERIOD_VTL0_MS * MS_100NS);
    interrupts_on();
    uint64_t last = rdtsc();
    for (uint64_t now = last; now < end; now = rdtsc()) {
        switch (random_number(self, 4)) {
        case 0:
            sleep(self);
            break;
        case 1:
            step(self);
            break;
        default:
            call(self);
        }
        if (!this_cpu()->index && now - last > minute) {
            printf("%lu s to go\n", tsc_to_ns(end - now) / 1000000000);
            last = now;
        }
    }
}

/* When nobody sends any more: all boxes empty by the interrupts that came. */
static void drain(void *argument)
{
    (void)argument;
    unsigned index = this_cpu()->index;
    struct actor *vtl0 = &actors[index][0], *vtl1 = &actors[index][1];
    vtl0->activity = DRAIN;
    interrupts_on();
    WAIT_FOR(!vtl0->mail.posted && !vtl1->mail.posted, DRAIN_MS);
    wrmsr(HV_MSR_STIMER0_CONFIG, 0);
    vsm_run(stop_timer_of_vtl1, NULL);
    vtl0->activity = ENDED;
}

static void check_counts(void)
{
    uint64_t sent[ACTORS] = {0}, taken[ACTORS] = {0}, left = 0, wrong = 0, calls = 0, entries = 0, served = 0;
    uint64_t silent = 0, gets = 0, sets = 0, sleeps = 0, interrupts = 0, by_interrupt = 0;
    for (unsigned i = 0; i < vps; i++) {
        for (unsigned vtl = 0; vtl < ACTORS; vtl++) {
            struct actor *a = &actors[i][vtl];
            for (unsigned to = 0; to < ACTORS; to++)
                sent[to] += a->sent[to];
            taken[vtl] += a->mail.taken;
            left += a->mail.posted;
            interrupts += a->mail.interrupts;
            wrong += a->wrong;
            gets += a->gets, sets += a->sets, sleeps += a->sleeps, calls += a->calls;
            silent += a->ticks < TICKS_AT_LEAST;
            printf("VP %u VTL%u: %lu steps, %lu calls, %lu letters by %lu interrupts, %lu ticks, %lu sleeps\n", i, vtl,
                   a->steps, a->calls, a->mail.taken, a->mail.interrupts, a->ticks, a->sleeps);
        }
        entries += vtl1_of(i)->entries[ENTRY_CALL];
        by_interrupt += vtl1_of(i)->entries[ENTRY_INTERRUPT];
        served += services[i];
    }
    report(calls == served && calls > 0, "%lu calls made, %lu carried out", calls, served);
    /* Each processor's VTL1 was called for its timer, twice. */
    report(entries == calls + 2ull * vps, "%lu entries by call", entries);
    report(sent[0] == taken[0] && sent[0] > 0, "%lu letters sent to VTL0, %lu taken", sent[0], taken[0]);
    report(sent[1] == taken[1] && sent[1] > 0, "%lu letters sent to VTL1, %lu taken", sent[1], taken[1]);
    report(left == 0, "%lu letters are left", left);
    report(wrong == 0 && gets > 0 && sets > 0, "%lu registers read, %lu written, %lu answers wrong", gets, sets, wrong);
    report(silent == 0, "all timers of both VTLs have run: %lu not", silent);
    report(sleeps > 0 && by_interrupt > 0, "%lu sleeps, %lu entries by interrupt, %lu interrupts with letters", sleeps,
           by_interrupt, interrupts);
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    uint64_t seconds = argument_number("seconds", 10), seed = argument_number("seed", rdtsc());
    smp_start();
    vps = smp_count();
    if (vps > ARRAY_SIZE(scratch)) {
        report_skip("up to %u processors", (unsigned)ARRAY_SIZE(scratch));
        return report_summary();
    }
    printf("%u processors, %lu seconds, seed=%lu\n", vps, seconds, seed);
    for (unsigned vtl = 0; vtl < ACTORS; vtl++) {
        interrupt_set_handler_of(vtl, VECTOR_TIMER, tick);
        interrupt_set_handler_of(vtl, VECTOR_MAIL, take_mail);
    }
    vsm_start();
    apic_frequency = apic_timer_frequency();
    patience_ticks = tsc_from_us(argument_number("patience", 30) * 1000000);
    vsm_set_service(serve);
    for (unsigned i = 0; i < vps; i++) {
        for (unsigned vtl = 0; vtl < ACTORS; vtl++)
            actors[i][vtl].random = (seed + 1) * 0x9e3779b97f4a7c15ull + i * 4 + vtl * 2 + 1;
        vtl1_of(i)->entries[ENTRY_CALL] = 0;
        watched_since[i] = rdtsc();
    }

    end = rdtsc() + tsc_from_us(seconds * 1000000);
    smp_run_all(act, NULL);
    smp_run_all(drain, NULL);
    check_counts();
    return report_summary();
}
