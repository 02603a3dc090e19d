/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables: other addresses of what is protected, and page tables in protected pages. */
#include "attacks.h"

#define ALIAS 0x600000000000ull /* where VTL0 maps what it wants to get at */
#define LARGE_ALIAS 0x610000000000ull

static void try_at(const char *name, attempted function, uint64_t gva, uint64_t gpa, uint8_t wanted, unsigned place, bool user)
{
    if (place < PLACES && place_status[place]) {
        row_skipped(name, place_names[place], place_status[place]);
        return;
    }
    clear_scratch();
    warden_clear(POLICY_ABANDON);
    enum outcome outcome = (user ? attempt_in_user_mode : attempt)(function, (void *)gva, scratch);
    bool right = told(outcome, wanted, gpa, gva, true) && !leaked() && (place == PLACES || intact(place));
    told_row(name, right, outcome);
}

static void alias_rows(void)
{
    const uint64_t low = LARGE_PAGE_SIZE - 1, flags = PTE_PRESENT | PTE_WRITE | PTE_USER;
    uint64_t at[PLACES];
    for (unsigned i = 0; i < PLACES; i++) {
        at[i] = (uint64_t)place_at[i];
        page_map(ALIAS + i * PAGE_SIZE, at[i], flags);
    }
    try_at("another address, load", load, ALIAS + 0x80, at[SECRETS] + 0x80, R, SECRETS, false);
    try_at("another address, store", store, ALIAS + 0x88, at[SECRETS] + 0x88, W, SECRETS, false);
    try_at("another address, from ring 3", load, ALIAS + 0x90, at[SECRETS] + 0x90, R, SECRETS, true);
    try_at("a writable address of VTL1's code", store, ALIAS + CODE * PAGE_SIZE + 8, at[CODE] + 8, W, CODE, false);
    try_at("a writable address of kernel text", store, ALIAS + KERNEL * PAGE_SIZE + 8, at[KERNEL] + 8, W, KERNEL, false);
    try_at("an executable address of data", call_into, ALIAS + DATA * PAGE_SIZE + CODE_OFFSET, at[DATA] + CODE_OFFSET, X,
           DATA, false);
    page_map(ALIAS, (uint64_t)arena, flags); /* the page before VTL1's data here is another one there */
    page_map(ALIAS + PAGE_SIZE, at[SECRETS], flags);
    try_at("a page moved under a page table's entry", load, ALIAS + PAGE_SIZE + 0x98, at[SECRETS] + 0x98, R, SECRETS, false);
    page_map_large(LARGE_ALIAS, at[SECRETS] & ~low, flags);
    try_at("a large page", load, LARGE_ALIAS + (at[SECRETS] & low) + 0x100, at[SECRETS] + 0x100, R, SECRETS, false);
    try_at("a large page, store", store, LARGE_ALIAS + (at[SECRETS] & low) + 0x108, at[SECRETS] + 0x108, W, SECRETS, false);
    page_map_large(LARGE_ALIAS, at[KERNEL] & ~low, flags);
    try_at("a large page over kernel text", store, LARGE_ALIAS + (at[KERNEL] & low) + 0x110, at[KERNEL] + 0x110, W, KERNEL,
           false);
}

/* A read of `gva` while its page table has these rights. */
static void try_walk(const char *name, attempted function, uint64_t gva, uint64_t *entry, uint32_t rights, uint8_t wanted)
{
    uint64_t before = *entry;
    if (left_out(name))
        return;
    tlb_flush_page(gva);
    protect((uint64_t)entry, 1, rights);
    clear_scratch();
    warden_clear(POLICY_ABANDON);
    enum outcome outcome = attempt(function, (void *)gva, scratch);
    protect((uint64_t)entry, 1, ordinary);
    bool right = told(outcome, wanted, (uint64_t)entry, gva, false) && scratch[0] == FILL && *entry == before;
    told_row(name, right, outcome);
}

static void walk_rows(void)
{
    const uint64_t gva = ALIAS + 0x80000000; /* a page table of its own */
    page_map(gva, (uint64_t)arena, PTE_PRESENT | PTE_WRITE);
    uint64_t *entry = page_entry(gva);
    protect((uint64_t)entry, 1, ordinary);
    *entry &= ~(PTE_ACCESSED | PTE_DIRTY);
    try_walk("a walk through a table that may not be read", load, gva, entry, RIGHTS_NONE, RW);
    *entry &= ~(PTE_ACCESSED | PTE_DIRTY);
    uint16_t read_only = protect((uint64_t)entry, 1, RIGHTS_RX);
    protect((uint64_t)entry, 1, ordinary);
    if (read_only) {
        row_skipped("an accessed bit", "a table that may only be read", read_only);
        return;
    }
    try_walk("an accessed bit in a table that may only be read", load, gva, entry, RIGHTS_RX, W);
    *entry = (*entry & ~PTE_DIRTY) | PTE_ACCESSED;
    try_walk("a dirty bit in a table that may only be read", store, gva, entry, RIGHTS_RX, W);

    protect((uint64_t)entry, 1, RIGHTS_RX);
    try_at("an edit of a table that may only be read", store, (uint64_t)entry, (uint64_t)entry, W, PLACES, false);
    protect((uint64_t)entry, 1, ordinary);
}

static void load_cr3(void *target, void *memory)
{
    (void)memory;
    write_cr3((uint64_t)target);
}

void table_rows(void)
{
    begin_class(TABLES);
    alias_rows();
    walk_rows();
    clear_scratch();
    warden_clear(POLICY_ABANDON);
    warden()->cr3 = read_cr3();
    enum outcome outcome = attempt(load_cr3, place_at[SECRETS], scratch);
    write_cr3(warden()->cr3);
    uint64_t gpa = (uint64_t)place_at[SECRETS];
    told_row("CR3 at VTL1's data", outcome == OUTCOME_ABANDONED && warden()->count == 1 && RW >> intercept(0)->access & 1 &&
                                       (intercept(0)->gpa & ~(PAGE_SIZE - 1)) == gpa && intact(SECRETS),
             outcome);
    report_prefix_pop();
}
