/* SPDX-License-Identifier: Apache-2.0 */
/* What the processor itself reads and writes to deliver an event, in pages that VTL0 may not use. */
#include "attacks.h"

/* The tables lie in a page that VTL0 may not use. VTL1 allows it when it hears of it, and the event is delivered after all:
 * once, and as if nothing had been. */
A(raise, "ud2");
A(raise_on_stack, "leaq 4096(%rdi), %rsp; ud2");
A(load_segment, "movl $0x10, %eax; movl %eax, %es; movq $1, (%rsi)");
A(nothing, "nop");

static void delivered_row(const char *name, enum outcome outcome, uint64_t gpa, uint8_t wanted, bool right)
{
    char detail[120];
    const struct memory_intercept *m = intercept(0);
    snprintf(detail, sizeof detail, "access %u to 0x%lx by 0x%lx, %u intercepts, exception %u", m->access, m->gpa, m->rip,
             warden()->count, outcome == OUTCOME_EXCEPTION ? warden()->vector : 0);
    row(right && warden()->count == 1 && wanted >> m->access & 1 && (m->gpa & ~(PAGE_SIZE - 1)) == gpa, name, detail);
}

void delivery_rows(void)
{
    struct table_pointer gdt, idt;
    uint8_t *page = page_alloc();
    uint64_t gpa = (uint64_t)page;
    asm volatile("sgdt %0" : "=m"(gdt));
    asm volatile("sidt %0" : "=m"(idt));
    begin_class(DELIVERY);

    memcpy(page, (const void *)idt.base, idt.limit + 1ul);
    asm volatile("lidt %0" : : "m"((struct table_pointer){idt.limit, gpa}));
    protect(gpa, 1, RIGHTS_NONE);
    warden_clear(POLICY_OPEN);
    enum outcome outcome = attempt(raise, NULL, scratch);
    asm volatile("lidt %0" : : "m"(idt));
    delivered_row("the IDT", outcome, gpa, R, outcome == OUTCOME_EXCEPTION && warden()->vector == VECTOR_UD);

    memcpy(page, (const void *)gdt.base, gdt.limit + 1ul);
    asm volatile("lgdt %0" : : "m"((struct table_pointer){gdt.limit, gpa}));
    protect(gpa, 1, RIGHTS_NONE);
    warden_clear(POLICY_OPEN);
    outcome = attempt(raise, NULL, scratch);
    delivered_row("the GDT, at an exception", outcome, gpa, RW, outcome == OUTCOME_EXCEPTION && warden()->vector == VECTOR_UD);
    const char *name = "the GDT, at a segment's load";
    if (!left_out(name)) {
        protect(gpa, 1, RIGHTS_NONE);
        warden_clear(POLICY_OPEN);
        scratch[0] = 0;
        outcome = attempt(load_segment, NULL, scratch);
        delivered_row(name, outcome, gpa, RW, outcome == OUTCOME_RETURNED && scratch[0] == 1);
    }
    asm volatile("lgdt %0" : : "m"(gdt));

    name = "the stack";
    if (!left_out(name)) {
        protect(gpa, 1, RIGHTS_NONE);
        warden_clear(POLICY_OPEN);
        outcome = attempt(raise_on_stack, page, scratch);
        delivered_row(name, outcome, gpa, W, outcome == OUTCOME_EXCEPTION && warden()->vector == VECTOR_UD);
    }

    struct cpu *cpu = this_cpu();
    uint64_t old[2] = {cpu->gdt[SELECTOR_TSS / 8], cpu->gdt[SELECTOR_TSS / 8 + 1]};
    struct tss *tss = (struct tss *)page;
    static uint64_t kernel_stack[512] __attribute__((aligned(16)));
    memcpy(tss, &cpu->tss, sizeof *tss);
    tss->rsp[0] = (uint64_t)kernel_stack + sizeof kernel_stack;
    cpu->gdt[SELECTOR_TSS / 8] = (sizeof *tss - 1) | (gpa & 0xffffff) << 16 | 0x89ull << 40 | (gpa >> 24 & 0xff) << 56;
    cpu->gdt[SELECTOR_TSS / 8 + 1] = gpa >> 32;
    asm volatile("ltr %w0" : : "r"(SELECTOR_TSS));
    protect(gpa, 1, RIGHTS_NONE);
    warden_clear(POLICY_OPEN);
    outcome = attempt_in_user_mode(nothing, NULL, scratch); /* ends by #UD, which needs RSP0 */
    protect(gpa, 1, ordinary);
    cpu->gdt[SELECTOR_TSS / 8] = old[0] & ~(2ull << 40);
    cpu->gdt[SELECTOR_TSS / 8 + 1] = old[1];
    asm volatile("ltr %w0" : : "r"(SELECTOR_TSS));
    delivered_row("the TSS, at an exception from ring 3", outcome, gpa, R, outcome == OUTCOME_RETURNED);
    report_prefix_pop();
}
