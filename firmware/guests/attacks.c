/* SPDX-License-Identifier: Apache-2.0 */
/* VTL1 takes memory away from VTL0 as a secure kernel does, and VTL0 tries to get at it: by every kind of access, by page
 * tables, by what the processor, the hypervisor and devices do for it, by registers. Each row says what must happen:
 * VTL1 hears of it, with this access to this address, and nothing is seen or changed; or VTL0 is told a status.
 *
 * What VTL1 allows: to its secrets nothing, to its own code and VTL0's text read and execute, to a page of data read and
 * write; to all else what the default mask says. A row that this machine cannot enforce is skipped by name, with what VTL1
 * was told. TLFS 15.9, 15.13, 15.14.
 *
 * mask=N    the default protection mask (15); 3 keeps VTL0 from executing anything but its text
 * class=C   only: rows of that class
 * without=W,W  no rows with these words (_ for blanks) in their names: what a machine is known not to come back from
 * crash     only: VTL0 reports a crash whose text is VTL1's secret
 * reboot    VTL0 resets the machine after all rows, and looks for what is left
 */
#include "attacks/attacks.h"

#define CMOS_MARK 0x7d

/* ---- what there is to protect ---- */

const char *const place_names[PLACES] = {"VTL1's data", "VTL1's code", "data", "kernel text"};
static const uint32_t place_rights[PLACES] = {RIGHTS_NONE, RIGHTS_RX, RIGHTS_RW, RIGHTS_RX};

uint8_t *arena, *place_at[PLACES];
static uint8_t *copies[PLACES]; /* what the places hold, where only VTL1 can look it up */
uint16_t place_status[PLACES];
uint32_t ordinary;
uint64_t scratch[64] __attribute__((aligned(64)));

const uint8_t code[] = {0xb8, CODE_RESULT & 0xff, CODE_RESULT >> 8, 0, 0, 0x48, 0x89, 0x06, 0xc3};

static uint64_t protect_all(void *argument)
{
    ordinary = (uint32_t)(uint64_t)argument;
    uint16_t status = protect_enable(ordinary);
    if (status)
        return status;
    uint16_t none = protect((uint64_t)place_at[SECRETS], PAGE_SIZE, RIGHTS_NONE);
    if (none)
        return none;
    protect((uint64_t)image_start, (uint64_t)(text_end - image_start), RIGHTS_RX);
    protect((uint64_t)arena, (2 * PLACES + 1) * PAGE_SIZE, RIGHTS_ALL);
    for (unsigned i = 0; i < PLACES; i++) {
        place_status[i] = protect((uint64_t)place_at[i], PAGE_SIZE, place_rights[i]);
        protect((uint64_t)copies[i], PAGE_SIZE, RIGHTS_NONE);
    }
    return 0;
}

static uint16_t set_up_places(uint64_t default_mask)
{
    arena = pages_alloc(2 * PLACES + 1);
    for (unsigned i = 0; i < PLACES; i++) {
        place_at[i] = arena + (2 * i + 1) * PAGE_SIZE;
        copies[i] = page_alloc();
    }
    for (unsigned page = 0; page < 2 * PLACES + 1; page++) {
        uint64_t *words = (uint64_t *)(arena + page * PAGE_SIZE);
        for (unsigned i = 0; i < PAGE_SIZE / 8; i++)
            words[i] = words == (uint64_t *)place_at[SECRETS] ? SECRET : FILL;
        if (words != (uint64_t *)place_at[SECRETS])
            memcpy((uint8_t *)words + CODE_OFFSET, code, sizeof code);
    }
    place_at[KERNEL] = (uint8_t *)((uint64_t)set_up_places & ~(PAGE_SIZE - 1));
    for (unsigned i = 0; i < PLACES; i++)
        memcpy(copies[i], place_at[i], PAGE_SIZE);
    return (uint16_t)vsm_run(protect_all, (void *)default_mask);
}

static uint64_t compare_in_vtl1(void *argument)
{
    uint64_t place = (uint64_t)argument;
    return (uint64_t)memcmp(place_at[place], copies[place], PAGE_SIZE);
}

bool intact(unsigned place)
{
    return vsm_run(compare_in_vtl1, (void *)(uint64_t)place) == 0;
}

bool holds_secret(const void *memory, unsigned bytes)
{
    for (unsigned i = 0; i + 8 <= bytes; i++)
        if (!memcmp((const uint8_t *)memory + i, &(uint64_t){SECRET}, 8))
            return true;
    return false;
}

void clear_scratch(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(scratch); i++)
        scratch[i] = FILL;
}

bool leaked(void)
{
    uint64_t xmm[2];
    asm volatile("movdqu %%xmm0, %0" : "=m"(xmm));
    return holds_secret(scratch, sizeof scratch) || holds_secret(xmm, sizeof xmm) ||
           holds_secret(&intercept(0)->rax, 16 * 8);
}

/* ---- results ---- */

static const char *const class_names[CLASSES] = {
    "access",       "ring-3",         "read-only", "fetch",     "page-tables",     "delivery",
    "hypercall",    "overlay",        "DMA",       "registers", "register-writes", "processors",
};
static struct {
    unsigned passed, failed, skipped;
} counts[CLASSES];
static enum class class;

void row(bool pass, const char *name, const char *detail)
{
    *(pass ? &counts[class].passed : &counts[class].failed) += 1;
    report(pass, "%s: %s", name, detail);
}

void row_skipped(const char *name, const char *what, uint16_t status)
{
    counts[class].skipped++;
    report_skip("%s: %s: status 0x%x", name, what, status);
}

void row_not_here(const char *name, const char *why)
{
    counts[class].skipped++;
    report_skip("%s: %s", name, why);
}

/* Whether `word`, which ends at a comma and has _ for blanks, is at the start of `text`. */
static bool begins(const char *text, const char *word)
{
    for (; *word && *word != ','; word++, text++)
        if (*text != (*word == '_' ? ' ' : *word))
            return false;
    return true;
}

bool left_out(const char *name)
{
    for (const char *word = argument("without", ""); *word; word++) {
        for (const char *at = name; *at; at++)
            if (begins(at, word)) {
                row_not_here(name, "left out");
                return true;
            }
        while (*word && *word != ',')
            word++;
        if (!*word)
            break;
    }
    return false;
}

void begin_class(enum class which)
{
    class = which;
    report_prefix_push(class_names[which]);
}

bool told(enum outcome outcome, uint8_t wanted, uint64_t gpa, uint64_t gva, bool exact)
{
    const struct warden *self = warden();
    const struct memory_intercept *m = intercept(0);
    uint64_t mask = exact ? ~0ull : ~(PAGE_SIZE - 1);
    return outcome == OUTCOME_ABANDONED && self->count == 1 && self->status == 0 && self->log[0].type == MESSAGE_MEMORY &&
           wanted >> m->access & 1 && !((m->gpa ^ gpa) & mask) &&
           (!(m->info & INFO_GVA_VALID) || !((m->gva ^ gva) & mask)) && m->vp == this_cpu()->index;
}

void told_row(const char *name, bool right, enum outcome outcome)
{
    static const char *const outcomes[] = {"returned", "abandoned", "exception"};
    char detail[240];
    if (outcome == OUTCOME_ABANDONED)
        snprintf(detail, sizeof detail, "access %u to 0x%lx by 0x%lx, GVA 0x%lx, %u intercepts%s", intercept(0)->access,
                 intercept(0)->gpa, intercept(0)->rip, intercept(0)->gva, warden()->count,
                 warden()->status ? ", VTL1 was refused" : "");
    else
        snprintf(detail, sizeof detail, "%s %u, %u intercepts", outcomes[outcome],
                 outcome == OUTCOME_EXCEPTION ? warden()->vector : 0, warden()->count);
    size_t length = strlen(detail);
    if (!right && leaked())
        length += (size_t)snprintf(detail + length, sizeof detail - length, ", SEEN");
    for (unsigned i = 0; !right && i < PLACES; i++)
        if (!intact(i))
            length += (size_t)snprintf(detail + length, sizeof detail - length, ", %s CHANGED", place_names[i]);
    row(right, name, detail);
}

/* ---- crash, reset ---- */

static int report_crash(void)
{
    printf("VTL0 reports a crash, with VTL1's data as its text\n");
    warden_clear(POLICY_ABANDON);
    wrmsr(HV_MSR_CRASH_P0 + 3, (uint64_t)place_at[SECRETS]);
    wrmsr(HV_MSR_CRASH_P0 + 4, 64);
    wrmsr(HV_MSR_CRASH_CTL, rdmsr(HV_MSR_CRASH_CTL));
    report(intact(SECRETS), "the text is VTL1's still"); /* who runs the machine must not see it either */
    return report_summary();
}

static void reset(void)
{
    cmos_write(CMOS_MARK, 2);
    reset_by_0xcf9();
    wait_us(500000);
    abort_run("no reset within 500 ms");
}

static int look_after_reset(void)
{
    report_prefix_push("after a reset");
    uint64_t status = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS);
    report((status & 0xffff) == 1, "VTL1 is gone: 0x%lx", status);
    bool found = false;
    for (uint64_t page = heap_start(); page < heap_start() + 1024 * PAGE_SIZE; page += 8)
        found |= *(volatile uint64_t *)page == SECRET;
    report(!found, "and its data: no secret in 4 MiB");
    report_prefix_pop();
    return report_summary();
}

static const struct {
    enum class class;
    void (*run)(void);
} suites[] = {
    {ACCESS, accesses},          {USER, user_accesses},      {READ_ONLY, writes},      {FETCH, fetches},
    {TABLES, table_rows},        {DELIVERY, delivery_rows},  {PROXY, hypercall_rows}, {OVERLAY, overlay_rows},
    {DMA, dma_rows},             {REGISTERS, register_rows}, {WATCHED, watched},    {PROCESSORS, processor_rows},
};

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    bool again = cmos_read(CMOS_MARK) == 2;
    cmos_write(CMOS_MARK, 0);
    vsm_require();
    if (again)
        return look_after_reset();
    smp_start();
    vsm_start();
    protect_listen();
    uint16_t refused = set_up_places(argument_number("mask", RIGHTS_ALL));
    if (refused) {
        report_skip("this machine protects no memory: VTL1 is told status 0x%x", refused);
        return report_summary();
    }
    if (argument_given("crash"))
        return report_crash();
    const char *only = argument("class", "");
    for (unsigned i = 0; i < ARRAY_SIZE(suites); i++)
        if (!*only || !strcmp(only, class_names[suites[i].class]))
            suites[i].run();
    unsigned total = 0;
    for (unsigned i = 0; i < CLASSES; i++) {
        unsigned rows = counts[i].passed + counts[i].failed + counts[i].skipped;
        printf("%-16s %3u rows: %3u as they must, %u not, %u skipped\n", class_names[i], rows, counts[i].passed,
               counts[i].failed, counts[i].skipped);
        total += rows;
    }
    printf("%u rows\n", total);
    if (argument_given("reboot") && !report_failures()) {
        report_summary(); /* the second start has one of its own */
        reset();
    }
    return report_summary();
}
