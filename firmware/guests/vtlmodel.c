/* SPDX-License-Identifier: Apache-2.0 */
/* Rights to memory against a model of them: all processors change rights of shared pages at random, by VTL1, call VTL1, and
 * access the pages in VTL0. What happens has to be what the model says: the access, or an intercept of it and nothing
 * else. TLFS 15.9.
 *
 * steps=N   of each processor (500)
 * seed=N    of the random numbers (the TSC)
 */
#include "protect.h"
#include "runtime.h"

#define PAGES 12
#define CODE_OFFSET 0x100
#define DATA_OFFSET 0x400
#define CODE_RESULT 0x777

/* mov $0x777, %eax; mov %rax, (%rsi); ret */
static const uint8_t code[] = {0xb8, 0x77, 0x07, 0, 0, 0x48, 0x89, 0x06, 0xc3};

/* What a page is to be like. VTL0 and VTL1 share it; whoever has the lock may use the page. */
static struct model {
    struct lock lock;
    uint32_t rights;
    uint64_t data;
    uint8_t *page;
} model[PAGES];

static const uint32_t all_rights[] = {RIGHTS_NONE, RIGHTS_R, RIGHTS_RX, RIGHTS_RW, RIGHTS_ALL};

#define ACCESS(name, instructions)   \
    void name(void *target, void *to); \
    asm(".text\n" #name ":\n\t" instructions "\n\tret")

ACCESS(model_read, "movq (%rsi), %rax\n\tmovq (%rdi), %rax\n\tmovq %rax, (%rsi)"); /* a read that is skipped changes nothing */
ACCESS(model_write, "movq (%rsi), %rax\n\tmovq %rax, (%rdi)");
ACCESS(model_execute, "call *%rdi");

static struct tally {
    uint64_t changes, calls, allowed, refused, opened, skipped, different;
    uint64_t by_access[3][2]; /* refused or not */
    uint64_t random;
} tallies[MAX_CPUS];
static uint64_t steps;

static uint64_t random_below(struct tally *self, uint64_t below)
{
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return (self->random >> 11) % below;
}

static void different(struct tally *self, const struct model *page, const char *what, uint64_t is, uint64_t expected)
{
    if (!self->different++)
        report_info("page %lu, rights %u: %s 0x%lx, expected 0x%lx", (uint64_t)(page - model), page->rights, what, is,
                    expected);
}

static uint64_t look(void *argument)
{
    return *(volatile uint64_t *)argument;
}

static void change(struct tally *self, struct model *page)
{
    uint32_t rights = all_rights[random_below(self, ARRAY_SIZE(all_rights))];
    uint16_t status = protect((uint64_t)page->page, PAGE_SIZE, rights);
    if (status)
        different(self, page, "status of a change", status, 0);
    else
        page->rights = rights;
    self->changes++;
}

/* VTL1 sees what is there, whatever VTL0 may. */
static void call(struct tally *self, struct model *page)
{
    uint64_t seen = vsm_run(look, page->page + DATA_OFFSET);
    if (seen != page->data)
        different(self, page, "VTL1 sees", seen, page->data);
    self->calls++;
}

static void access(struct tally *self, struct model *page)
{
    static const attempted functions[] = {model_read, model_write, model_execute};
    static const uint32_t needed[] = {RIGHT_READ, RIGHT_WRITE, RIGHT_EXECUTE};
    unsigned kind = (unsigned)random_below(self, ARRAY_SIZE(functions));
    void *target = page->page + (kind == ACCESS_EXECUTE ? CODE_OFFSET : DATA_OFFSET);
    bool open = random_below(self, 2), allowed = page->rights & needed[kind];
    uint64_t before = self->random, cell = before;

    warden_clear(open ? POLICY_OPEN : POLICY_SKIP);
    enum outcome outcome = attempt(functions[kind], target, &cell);
    const struct memory_intercept *m = intercept(0);
    if (outcome != OUTCOME_RETURNED)
        different(self, page, "outcome", outcome, OUTCOME_RETURNED);
    if (warden()->count != !allowed)
        different(self, page, "intercepts", warden()->count, !allowed);
    if (warden()->count && (m->gpa != (uint64_t)target || m->access != kind))
        different(self, page, "intercept of", m->gpa | m->access, (uint64_t)target | kind);
    if (!allowed && open)
        page->rights = RIGHTS_ALL;
    bool happens = allowed || open;
    if (kind == ACCESS_WRITE && happens)
        page->data = before;
    uint64_t expected = !happens || kind == ACCESS_WRITE ? before : kind == ACCESS_READ ? page->data : CODE_RESULT;
    if (cell != expected)
        different(self, page, "value", cell, expected);
    if (vsm_run(look, page->page + DATA_OFFSET) != page->data)
        different(self, page, "left in memory", look(page->page + DATA_OFFSET), page->data);
    self->allowed += allowed;
    self->refused += !allowed;
    self->opened += !allowed && open;
    self->skipped += !allowed && !open;
    self->by_access[kind][!allowed]++;
}

static void run(void *argument)
{
    struct tally *self = &tallies[this_cpu()->index];
    (void)argument;
    interrupts_off();
    for (uint64_t step = 0; step < steps; step++) {
        struct model *page = &model[random_below(self, PAGES)];
        uint64_t choice = random_below(self, 10);
        lock_acquire(&page->lock);
        if (choice < 3)
            change(self, page);
        else if (choice < 4)
            call(self, page);
        else
            access(self, page);
        lock_release(&page->lock);
    }
    interrupts_on();
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"read", "write", "execute"};
    struct tally all = {0};
    (void)argc, (void)argv;
    vsm_require();
    unsigned processors = smp_start();
    vsm_start();
    protect_listen();
    uint8_t *pages = pages_alloc(PAGES);
    uint16_t status = protect_enable(RIGHTS_ALL);
    status = status ? status : protect((uint64_t)pages, PAGE_SIZE, RIGHTS_NONE);
    if (status) {
        report_skip("this machine protects no memory: VTL1 is told status 0x%x", status);
        return report_summary();
    }
    protect((uint64_t)pages, PAGE_SIZE, RIGHTS_ALL);
    uint64_t seed = argument_number("seed", rdtsc());
    steps = argument_number("steps", 500);
    for (unsigned i = 0; i < PAGES; i++) {
        model[i] = (struct model){.rights = RIGHTS_ALL, .data = seed + i, .page = pages + i * PAGE_SIZE};
        memcpy(model[i].page + CODE_OFFSET, code, sizeof code);
        *(uint64_t *)(model[i].page + DATA_OFFSET) = model[i].data;
    }
    for (unsigned i = 0; i < processors; i++)
        tallies[i].random = (seed + 1) * 0x9e3779b97f4a7c15ull + 2 * i + 1;
    printf("%u processors, %lu steps each, %u pages, seed=%lu\n", processors, steps, PAGES, seed);
    smp_run_all(run, NULL);
    for (unsigned i = 0; i < processors; i++) {
        const struct tally *one = &tallies[i];
        all.changes += one->changes, all.calls += one->calls, all.different += one->different;
        all.allowed += one->allowed, all.refused += one->refused, all.opened += one->opened, all.skipped += one->skipped;
        for (unsigned kind = 0; kind < ARRAY_SIZE(names); kind++)
            for (unsigned refused = 0; refused < 2; refused++)
                all.by_access[kind][refused] += one->by_access[kind][refused];
    }
    printf("%lu changes of rights, %lu VTL calls, %lu accesses: %lu allowed, %lu refused (%lu then allowed, %lu skipped)\n",
           all.changes, all.calls, all.allowed + all.refused, all.allowed, all.refused, all.opened, all.skipped);
    report(all.different == 0, "memory and model never differ: %lu times", all.different);
    for (unsigned kind = 0; kind < ARRAY_SIZE(names); kind++)
        report(all.by_access[kind][0] && all.by_access[kind][1], "%s: %lu allowed, %lu refused", names[kind],
               all.by_access[kind][0], all.by_access[kind][1]);
    return report_summary();
}
