/* SPDX-License-Identifier: Apache-2.0 */
/* Two worlds on every processor: a kernel in VTL0 and a secure kernel in VTL1, with stacks, descriptor tables, page tables
 * and timers of their own. VTL0 asks VTL1 for services by VTL calls; VTL1's timer preempts VTL0 whatever it does; and VTL1
 * protects its memory, and VTL0's kernel from VTL0.
 *
 * reboot    resets the machine after that, and does it all a second time
 * ticks=N   of VTL1's timer to wait for in each scene (10)
 */
#include "protect.h"
#include "runtime.h"

#define VECTOR_TIMER 0x61
#define PERIOD_MS 5
#define LIMIT_MS 5000

/* RAM that no part of the guest lies in. VTL1 has it zeroed at a reset, as long as it says nothing else. */
#define MEMORY_MARK (*(volatile uint64_t *)0x1800000)
#define CMOS_MARK 0x7d
#define MARK 0x5e

static void section(const char *title)
{
    printf("\n%s\n", title);
}

/* ---- the secure kernel ---- */

enum service {
    SERVICE_SEAL = 1, /* keeps a number; a ticket for it */
    SERVICE_UNSEAL,   /* the number for a ticket, to whoever knows the ticket's signature */
    SERVICE_SIGN,     /* a number that only the key's owner can compute */
    SERVICE_COUNT,    /* how often this processor has called */
};

#define DENIED ~0ull
#define SECRETS 8
#define KEY_ADDRESS 0x700000000000ull /* mapped in VTL1's page tables only */

static struct {
    uint64_t secrets[SECRETS];
    uint64_t key;
    uint32_t sealed;
} *vault = (void *)KEY_ADDRESS;
static struct lock vault_lock;

/* Enough for a demonstration: a keyed mix of the 64-bit finalizer kind. */
static uint64_t sign(uint64_t value)
{
    value ^= vault->key;
    for (unsigned round = 0; round < 3; round++) {
        value ^= value >> 31;
        value *= 0x9e3779b97f4a7c15ull;
    }
    return value ^ value >> 29;
}

static uint64_t seal(uint64_t value)
{
    uint64_t ticket = DENIED;
    lock_acquire(&vault_lock);
    if (vault->sealed < SECRETS) {
        ticket = vault->sealed++;
        vault->secrets[ticket] = value;
    }
    lock_release(&vault_lock);
    return ticket;
}

static void serve(struct vtl1 *self, struct vtl_frame *frame)
{
    switch (frame->rdi) {
    case SERVICE_SEAL:
        frame->rax = seal(frame->rsi);
        break;
    case SERVICE_UNSEAL:
        frame->rax = frame->rsi < vault->sealed && frame->rdx == sign(frame->rsi) ? vault->secrets[frame->rsi] : DENIED;
        break;
    case SERVICE_SIGN:
        frame->rax = sign(frame->rsi);
        break;
    case SERVICE_COUNT:
        frame->rax = self->entries[ENTRY_CALL];
        break;
    default:
        frame->rax = DENIED;
    }
}

static uint8_t *vault_page; /* as VTL0 maps it: to itself, as all memory */

static uint64_t open_vault(void *argument)
{
    (void)argument;
    vault_page = page_alloc();
    page_map(KEY_ADDRESS, (uint64_t)vault_page, PTE_PRESENT | PTE_WRITE);
    vault->key = rdtsc() | 1;
    return 0;
}

static uint64_t key_of_vault(void *argument)
{
    (void)argument;
    return vault->key;
}

/* ---- the two worlds ---- */

struct world {
    uint64_t cr3, stack, page, apic_base, id;
    struct table_pointer gdt, idt;
};

static uint64_t look_around(void *argument)
{
    struct world *world = argument;
    *world = (struct world){.cr3 = read_cr3(), .page = rdmsr(HV_MSR_HYPERCALL) & ~0xfffull,
                            .apic_base = rdmsr(MSR_APIC_BASE), .id = apic_id()};
    asm volatile("mov %%rsp, %0" : "=r"(world->stack));
    asm volatile("sgdt %0" : "=m"(world->gdt));
    asm volatile("sidt %0" : "=m"(world->idt));
    return 0;
}

static void show_worlds(void)
{
    struct world vtl0, vtl1;
    look_around(&vtl0);
    vsm_run(look_around, &vtl1);
    printf("  %-22s %-12s VTL1\n", "", "VTL0");
    printf("  %-22s %08lx     %08lx\n", "page tables (CR3)", vtl0.cr3, vtl1.cr3);
    printf("  %-22s %08lx     %08lx\n", "stack (RSP)", vtl0.stack, vtl1.stack);
    printf("  %-22s %08lx     %08lx\n", "GDT", vtl0.gdt.base, vtl1.gdt.base);
    printf("  %-22s %08lx     %08lx\n", "IDT", vtl0.idt.base, vtl1.idt.base);
    printf("  %-22s %08lx     %08lx\n", "hypercall page", vtl0.page, vtl1.page);
    printf("  %-22s %-12lu %lu\n", "local APIC id", vtl0.id, vtl1.id);
    report(vtl0.cr3 != vtl1.cr3 && vtl0.stack >> 12 != vtl1.stack >> 12 && vtl0.gdt.base != vtl1.gdt.base &&
               vtl0.idt.base != vtl1.idt.base && vtl0.page != vtl1.page,
           "each world has its own of everything");
}

static void show_services(void)
{
    const uint64_t secret = 0x5ec2e7c0ffee;
    uint64_t ticket = vsm_call(SERVICE_SEAL, secret, 0, 0);
    printf("  VTL0 gives VTL1 the number 0x%lx to keep: ticket %lu\n", secret, ticket);
    uint64_t guessed = vsm_call(SERVICE_UNSEAL, ticket, 1, 0);
    uint64_t signature = vsm_call(SERVICE_SIGN, ticket, 0, 0);
    uint64_t unsealed = vsm_call(SERVICE_UNSEAL, ticket, signature, 0);
    printf("  with a guessed signature VTL1 gives it back to nobody: %s\n", guessed == DENIED ? "denied" : "GIVEN");
    printf("  signed by VTL1's key, 0x%016lx, it does: 0x%lx\n", signature, unsealed);
    report(guessed == DENIED && unsealed == secret, "VTL1 keeps a secret");
    fault_clear();
    uint64_t seen;
    asm volatile(FAULT_GUARD("movq (%1), %0") : "=&r"(seen) : "r"(KEY_ADDRESS) : "memory");
    report(fault_vector() == VECTOR_PF, "where the key lies, VTL0 has no page");
    report(vsm_call(99, 0, 0, 0) == DENIED, "a service that is none is denied");
}

static uint64_t calls_made[MAX_CPUS];

static void call_often(void *argument)
{
    uint64_t *wrong = argument;
    uint64_t before = vsm_call(SERVICE_COUNT, 0, 0, 0);
    for (unsigned i = 1; i <= 20; i++) {
        uint64_t value = this_cpu()->index * 1000 + i;
        if (vsm_call(SERVICE_SIGN, value, 0, 0) != vsm_call(SERVICE_SIGN, value, 0, 0))
            atomic_add(wrong, 1);
    }
    calls_made[this_cpu()->index] = vsm_call(SERVICE_COUNT, 0, 0, 0) - before - 1;
}

static void show_calls(void)
{
    uint64_t wrong = 0;
    smp_run_all(call_often, &wrong);
    for (unsigned i = 0; i < smp_count(); i++) {
        printf("  VP %u has made %lu calls\n", i, calls_made[i]);
        wrong += calls_made[i] != 40;
    }
    report(wrong == 0, "all calls of all processors are answered and counted");
}

/* ---- memory ---- */

extern const char image_start[], text_end[];

#define ATTACK(name, instruction)          \
    void name(void *target, void *memory); \
    asm(".text\n" #name ":\n\t" instruction "\n\tret")
ATTACK(read_key, "movq (%rdi), %rax; movq %rax, (%rsi)");
ATTACK(patch_kernel, "movb $0xc3, (%rdi)");
ATTACK(run_data, "call *%rdi");

static void have_key_overwritten(void *target, void *memory)
{
    (void)memory;
    uint64_t *input = hv_input();
    memset(input, 0, 24);
    input[0] = HV_SELF_PARTITION, input[1] = HV_SELF_VP, input[2] = HV_REGISTER_CR3;
    hv_call(HV_CALL_GET_REGISTERS | HV_REPS(1), (uint64_t)input, (uint64_t)target);
}

static void show_intercept(const char *what, attempted attack, void *target, uint8_t access)
{
    static const char *const names[] = {"read", "write", "fetch"};
    struct warden *self = warden();
    uint64_t seen = 0, key = vsm_run(key_of_vault, NULL);
    uint8_t before = *(const uint8_t *)patch_kernel;
    warden_clear(POLICY_INJECT);
    self->event[0] = 1 | 1 << 8 | VECTOR_GP << 16; /* an exception with error code 0 */
    enum outcome outcome = attempt(attack, target, &seen);
    const struct memory_intercept *m = intercept(0);
    if (self->count) {
        printf("  VTL0 %s\n    VTL1 hears of it: %s of 0x%lx by the instruction at 0x%lx", what, names[m->access % 3], m->gpa,
               m->rip);
        for (unsigned i = 0; i < (m->length_cr8 & 15u); i++)
            printf("%s%02x", i ? " " : " (", m->bytes[i]);
        printf("%s, in ring %u\n", m->length_cr8 & 15 ? ")" : "", m->state & 3);
    }
    report(self->count == 1 && m->access == access && m->gpa == (uint64_t)target && outcome == OUTCOME_EXCEPTION &&
               self->vector == VECTOR_GP && seen == 0 && vsm_run(key_of_vault, NULL) == key &&
               *(const uint8_t *)patch_kernel == before,
           "VTL1 answers with #GP, and nothing is seen or changed");
}

static void show_memory(void)
{
    uint8_t *data = page_alloc();
    uint64_t text = (uint64_t)(text_end - image_start);
    protect_listen();
    uint16_t status = protect_enable(RIGHTS_ALL);
    status = status ? status : protect((uint64_t)vault_page, PAGE_SIZE, RIGHTS_NONE);
    status = status ? status : protect((uint64_t)image_start, text, RIGHTS_RX);
    if (status) {
        report_skip("this machine protects no memory: VTL1 is told status 0x%x", status);
        return;
    }
    printf("  VTL1 takes from VTL0: its vault at 0x%lx; writing its own text, 0x%lx to 0x%lx\n", (uint64_t)vault_page,
           (uint64_t)image_start, (uint64_t)text_end);
    void *key = vault_page + offsetof(__typeof__(*vault), key);
    show_intercept("reads the key, where its own page tables have it", read_key, key, ACCESS_READ);
    show_intercept("has the hypervisor write over the key", have_key_overwritten, key, ACCESS_WRITE);
    show_intercept("patches its own kernel, as malware would", patch_kernel, (void *)(uint64_t)patch_kernel, ACCESS_WRITE);
    *data = 0xc3; /* RET */
    if (protect((uint64_t)data, 1, RIGHTS_RW) == 0)
        show_intercept("executes its data", run_data, data, ACCESS_EXECUTE);
    else
        printf("  executing data: this machine cannot keep VTL0 from that\n");
}

/* ---- time ---- */

static struct {
    volatile uint64_t ticks[VTLS];
    volatile uint64_t last[VTLS]; /* TSC of the last */
} clocks[MAX_CPUS];
static uint64_t apic_frequency;

static void tick(struct frame *frame)
{
    (void)frame;
    unsigned vtl = this_cpu()->vtl, index = this_cpu()->index;
    clocks[index].last[vtl] = rdtsc();
    clocks[index].ticks[vtl]++;
    apic_eoi();
}

/* VTL1's clock is its local APIC's timer. */
static uint64_t start_clock_of_vtl1(void *argument)
{
    (void)argument;
    apic_timer_start(APIC_TIMER_PERIODIC, VECTOR_TIMER, (uint32_t)(apic_frequency / 1000 * PERIOD_MS));
    return 0;
}

static uint64_t stop_clock_of_vtl1(void *argument)
{
    (void)argument;
    apic_timer_stop();
    return 0;
}

/* VTL0's clock is a synthetic timer. */
static void start_clock_of_vtl0(void)
{
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_DIRECT(VECTOR_TIMER) | STIMER_PERIODIC | STIMER_AUTO_ENABLE);
    wrmsr(HV_MSR_STIMER0_COUNT, 4 * PERIOD_MS * MS_100NS);
}

static volatile uint64_t turns[MAX_CPUS], slept[MAX_CPUS], missing;

static void run_clocks(void *argument)
{
    unsigned index = this_cpu()->index;
    uint64_t wanted = (uint64_t)argument;
    volatile uint64_t *ticks = clocks[index].ticks;
    ticks[0] = ticks[1] = 0;
    interrupts_off();
    vsm_run(start_clock_of_vtl1, NULL);
    uint64_t count = 0;
    if (!WAIT_FOR((count++, ticks[1] >= wanted), LIMIT_MS))
        atomic_add(&missing, 1);
    turns[index] = count;

    start_clock_of_vtl0();
    uint64_t first[VTLS] = {ticks[0], ticks[1]}, end = rdtsc() + tsc_from_us(LIMIT_MS * 1000);
    for (;;) {
        interrupts_off();
        if ((ticks[0] >= first[0] + wanted / 2 && ticks[1] >= first[1] + wanted) || rdtsc() > end)
            break;
        halt_until_interrupt();
    }
    slept[index] = ticks[1] - first[1];
    if (ticks[0] < first[0] + wanted / 2 || slept[index] < wanted)
        atomic_add(&missing, 1);
    wrmsr(HV_MSR_STIMER0_CONFIG, 0);
    vsm_run(stop_clock_of_vtl1, NULL);
    interrupts_on();
}

static void show_time(uint64_t wanted)
{
    smp_run_all(run_clocks, (void *)wanted);
    for (unsigned i = 0; i < smp_count(); i++) {
        printf("  VP %u: VTL0 looped %lu times with interrupts off, VTL1's timer cut in %lu times\n", i, turns[i], wanted);
        printf("        VTL0 slept in HLT between %lu ticks of its own, VTL1 had %lu meanwhile\n", clocks[i].ticks[0],
               slept[i]);
    }
    report(missing == 0, "the timers of both worlds run on every processor");
}

/* ---- reset ---- */

static bool second_start(void)
{
    return cmos_read(CMOS_MARK) == MARK;
}

static void reset(void)
{
    section("Reset of the machine");
    printf("  VTL1 has to be gone then\n");
    cmos_write(CMOS_MARK, MARK);
    MEMORY_MARK = MARK;
    reset_by_0xcf9();
    wait_us(500000);
    abort_run("no reset within 500 ms");
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    bool again = second_start();
    cmos_write(CMOS_MARK, 0);
    printf("\n"
           "  +----------------------------------------------------+\n"
           "  |  Two worlds: a kernel in VTL0, a secure one above  |\n"
           "  +----------------------------------------------------+\n");
    printf("  start %u\n", again ? 2 : 1);
    vsm_require();
    smp_start();
    uint64_t status = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS);
    uint64_t vp_status = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS);
    report((status & 0xffff) == 1 && vp_status == 0x10000, "only VTL0 is there%s", again ? ", as after power-on" : "");

    if (again)
        report(MEMORY_MARK == 0, "and memory is zeroed, as VTL1 has it by default");

    section("VTL1");
    for (unsigned vtl = 0; vtl < VTLS; vtl++)
        interrupt_set_handler_of(vtl, VECTOR_TIMER, tick);
    vsm_start();
    vsm_set_service(serve);
    vsm_run(open_vault, NULL);
    printf("  enabled on %u processors: by VTL0 on the first, by VTL1 on the others\n", smp_count());
    show_worlds();

    section("Services by VTL call");
    show_services();
    show_calls();

    section("Memory");
    show_memory();

    section("Timers");
    apic_frequency = apic_timer_frequency();
    show_time(argument_number("ticks", 10));

    if (argument_given("reboot") && !again && !report_failures())
        reset();
    printf("\n");
    return report_summary();
}
