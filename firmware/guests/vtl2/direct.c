/* SPDX-License-Identifier: Apache-2.0 */
/* What only VTL2 may do: messages and events straight into the SynICs of VTLs below, and what their rights to memory are.
 * SYN-029, VSM-090. */
#include "parts.h"

#include "protect.h"

#define SINT 4
#define FLAG 2047 /* the last one of a source */
#define FLAG_WORDS 32 /* of a source */
#define MESSAGE_TYPE 0x1234
#define SENDER 0x5678
#define TEXT "straight down"
#define RESULTS 3
#define ACCESS_OF_VTL2(denied) (1 | (uint64_t)(denied) << 8 | 2 << 16) /* HV_ACCESS_CHECK_RESULT: intercepted */

/* ---- the three calls, by the VTL that runs; the whole result ---- */

struct message_input {
    uint64_t partition;
    uint32_t vp;
    uint8_t vtl, reserved0[3], sint, reserved1[3];
    uint8_t message[256];
    uint32_t reserved2;
};
_Static_assert(sizeof(struct message_input) == 280 && offsetof(struct message_input, message) == 20, "layout");

static uint64_t post(uint32_t vp, uint8_t vtl)
{
    static const struct hv_message message = {
        .type = MESSAGE_TYPE, .size = sizeof TEXT, .origin = SENDER, .payload = TEXT};
    struct message_input *input = (struct message_input *)hv_input();
    memset(input, 0, sizeof *input);
    input->partition = HV_SELF_PARTITION, input->vp = vp, input->vtl = vtl, input->sint = SINT;
    memcpy(input->message, &message, sizeof message);
    return hv_call(HV_CALL_POST_MESSAGE_DIRECT, (uint64_t)input, 0);
}

static uint64_t signal(uint32_t vp, uint8_t vtl, uint64_t *newly)
{
    uint64_t *input = hv_input(), *output = hv_output();
    input[0] = HV_SELF_PARTITION;
    input[1] = (uint64_t)FLAG << 48 | (uint64_t)SINT << 40 | (uint64_t)vtl << 32 | vp;
    output[0] = ~0ull;
    uint64_t result = hv_call(HV_CALL_SIGNAL_EVENT_DIRECT, (uint64_t)input, (uint64_t)output);
    *newly = output[0];
    return result;
}

static uint64_t check_access(uint8_t input_vtl, uint8_t accesses, const uint64_t pages[2], uint64_t found[2])
{
    uint64_t *input = hv_input(), *output = hv_output();
    input[0] = HV_SELF_PARTITION, input[1] = (uint64_t)accesses << 8 | input_vtl;
    input[2] = pages[0] / PAGE_SIZE, input[3] = pages[1] / PAGE_SIZE;
    output[0] = output[1] = ~0ull;
    uint64_t result = hv_call(HV_CALL_CHECK_ACCESS | HV_REPS(2), (uint64_t)input, (uint64_t)output);
    found[0] = output[0], found[1] = output[1];
    return result;
}

/* ---- who is not VTL2 ---- */

static uint64_t try_each(void *argument)
{
    static const uint64_t pages[2];
    uint64_t *results = argument, found[2], newly;
    results[0] = post(HV_SELF_VP, 0);
    results[1] = signal(HV_SELF_VP, 0, &newly);
    results[2] = check_access(HV_VTL(0), RIGHT_READ, pages, found);
    return 0;
}

static void expect_refused(const uint64_t results[RESULTS], const char *who)
{
    static const char *const calls[RESULTS] = {"a message", "an event", "a look at rights"};
    for (unsigned i = 0; i < RESULTS; i++) {
        report_prefix_push(who);
        hv_expect(results[i], HV_STATUS_ACCESS_DENIED, calls[i]);
        report_prefix_pop();
    }
}

/* ---- messages and events ---- */

struct synic {
    volatile struct hv_message *slots;
    volatile uint64_t *flags;
    struct hv_message message; /* what `look` has found */
    bool signalled, others;    /* which flags are set */
};

/* These run in the VTL whose SynIC it is: no other one sees its pages. */
static uint64_t open_synic(void *argument)
{
    struct synic *synic = argument;
    wrmsr(HV_MSR_SIMP, (uint64_t)synic->slots | 1);
    wrmsr(HV_MSR_SIEFP, (uint64_t)synic->flags | 1);
    wrmsr(HV_MSR_SINT0 + SINT, VECTOR);
    return 0;
}

static uint64_t close_synic(void *argument)
{
    (void)argument;
    wrmsr(HV_MSR_SINT0 + SINT, SINT_MASKED);
    wrmsr(HV_MSR_SIEFP, 0);
    wrmsr(HV_MSR_SIMP, 0);
    return 0;
}

static uint64_t look(void *argument)
{
    struct synic *synic = argument;
    memcpy(&synic->message, (const void *)&synic->slots[SINT], sizeof synic->message);
    synic->signalled = synic->others = false;
    for (unsigned i = 0; i < PAGE_SIZE / sizeof *synic->flags; i++) {
        uint64_t expected = i == SINT * FLAG_WORDS + FLAG / 64 ? 1ull << FLAG % 64 : 0;
        synic->signalled |= (synic->flags[i] & expected) != 0;
        synic->others |= (synic->flags[i] & ~expected) != 0;
    }
    return 0;
}

static uint64_t in_vtl(unsigned vtl, vtl1_function function, void *argument)
{
    return vtl ? vsm_run(function, argument) : function(argument);
}

/* In VTL2; with the target's interrupts off, so that nobody has taken any when the calls are over. */
struct sent {
    uint32_t vp;
    uint8_t vtl;
    uint64_t posted, signalled[2], newly[2], early;
};

static uint64_t send(void *argument)
{
    struct sent *sent = argument;
    sent->posted = post(sent->vp, sent->vtl);
    for (unsigned i = 0; i < 2; i++)
        sent->signalled[i] = signal(sent->vp, sent->vtl, &sent->newly[i]);
    sent->early = events;
    return 0;
}

static void check_target(unsigned vtl, uint32_t vp)
{
    struct synic synic = {.slots = page_alloc(), .flags = page_alloc()};
    struct sent sent = {.vp = vp, .vtl = (uint8_t)vtl};
    uint64_t tried[RESULTS];

    forget();
    in_vtl2(send, &sent);
    hv_expect(sent.posted, HV_STATUS_INVALID_SYNIC_STATE, "a message before the SynIC has a page");
    hv_expect(sent.signalled[0], HV_STATUS_INVALID_SYNIC_STATE, "an event");
    in_vtl(vtl, open_synic, &synic);
    if (vtl == 0) {
        try_each(tried);
        expect_refused(tried, "by VTL0");
        vsm_run(try_each, tried);
        expect_refused(tried, "by VTL1");
        open_interrupts();
        look(&synic);
        report(synic.message.type == 0 && !synic.signalled && !synic.others && events == 0,
               "and nothing has come: 0x%x, %u, %lu", synic.message.type, synic.signalled, events);
    }

    in_vtl2(send, &sent);
    hv_expect(sent.posted, 0, "a message by VTL2");
    hv_expect(sent.signalled[0], 0, "an event");
    hv_expect(sent.signalled[1], 0, "and again");
    report(sent.newly[0] == 1 && sent.newly[1] == 0, "which was clear before the first time only: 0x%lx 0x%lx",
           sent.newly[0], sent.newly[1]);
    report(sent.early == 0, "while it waits for both: %lu", sent.early);
    open_interrupts();
    in_vtl(vtl, look, &synic);
    report(counts[vtl][0].taken == 1 && events == 1, "the interrupt comes to that VTL alone: %u of %lu",
           counts[vtl][0].taken, events);
    report(synic.message.type == MESSAGE_TYPE && synic.message.size == sizeof TEXT && synic.message.origin == SENDER &&
               !memcmp(synic.message.payload, TEXT, sizeof TEXT),
           "the message is there: 0x%x, %u bytes", synic.message.type, synic.message.size);
    report(synic.signalled && !synic.others, "and the flag, alone: %u, %u", synic.signalled, synic.others);
    in_vtl(vtl, close_synic, NULL);
}

/* ---- rights ---- */

struct rights {
    uint64_t pages[2]; /* the first one is VTL2's */
    uint32_t given;
    uint64_t statuses[6], found[4][2];
};

static uint64_t take_rights(void *argument)
{
    struct rights *rights = argument;
    rights->statuses[0] = protect_enable(RIGHTS_ALL);
    rights->statuses[1] = protect(rights->pages[0], PAGE_SIZE, RIGHTS_R);
    rights->statuses[2] = check_access(HV_VTL(0), RIGHTS_RW, rights->pages, rights->found[0]);
    rights->statuses[3] = check_access(HV_VTL(0), RIGHT_READ, rights->pages, rights->found[1]);
    rights->statuses[4] = check_access(HV_VTL(1), RIGHTS_RW, rights->pages, rights->found[2]);
    rights->statuses[5] = protect(rights->pages[0], PAGE_SIZE, RIGHTS_ALL);
    check_access(HV_VTL(0), RIGHTS_ALL, rights->pages, rights->found[3]);
    return 0;
}

static void check_rights(void)
{
    static const uint16_t done[] = {0, 0, 2, 2, 2, 0}; /* reps of those that are a call itself */
    uint64_t *pages = pages_alloc(2);
    struct rights rights = {.pages = {(uint64_t)pages, (uint64_t)pages + PAGE_SIZE}};
    in_vtl2(take_rights, &rights);
    for (unsigned i = 0; i < ARRAY_SIZE(done); i++)
        report(rights.statuses[i] == HV_REPS(done[i]), "step %u: 0x%lx", i, rights.statuses[i]);
    report(rights.found[0][0] == ACCESS_OF_VTL2(RIGHT_WRITE) && rights.found[0][1] == 0,
           "VTL2 would hear of a write by VTL0 to its page: 0x%lx 0x%lx", rights.found[0][0], rights.found[0][1]);
    report(rights.found[1][0] == 0 && rights.found[1][1] == 0, "not of a read: 0x%lx 0x%lx", rights.found[1][0],
           rights.found[1][1]);
    report(rights.found[2][0] == 0 && rights.found[2][1] == 0, "and of none by VTL1: 0x%lx 0x%lx", rights.found[2][0],
           rights.found[2][1]);
    report(rights.found[3][0] == 0 && rights.found[3][1] == 0, "nor of VTL0's, when that has its rights back");
}

void check_direct(void)
{
    static const char *const names[] = {"to VTL0", "to VTL1"};
    for (unsigned vtl = 0; vtl < ARRAY_SIZE(names); vtl++) {
        report_prefix_push(names[vtl]);
        check_target(vtl, vtl ? vtl1_of(0)->vp_index : HV_SELF_VP);
        report_prefix_pop();
    }
    report_prefix_push("rights");
    check_rights();
    report_prefix_pop();
}
