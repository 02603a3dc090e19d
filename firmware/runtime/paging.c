/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables, 4 levels. SDM volume 3, 4.5. */
#include "paging.h"

#include <stddef.h>

#include "cpu.h"

#define LEVEL_PTE 0
#define LEVEL_PDE 1
#define LEVEL_PML4E 3
/* Tables let everything through; the last level decides. */
#define TABLE_FLAGS (PTE_PRESENT | PTE_WRITE | PTE_USER)

static uint64_t *entry_in(uint64_t table, uint64_t virtual, int level)
{
    return (uint64_t *)(table & PTE_ADDRESS) + (virtual >> (12 + 9 * level) & 511);
}

static void split(uint64_t *entry)
{
    uint64_t *table = page_alloc();
    uint64_t large = *entry & ~PTE_LARGE;
    for (unsigned i = 0; i < 512; i++)
        table[i] = large + i * PAGE_SIZE;
    *entry = (uint64_t)table | TABLE_FLAGS;
}

/* The entry of `level` for `virtual`, making the tables above it. */
static uint64_t *reach(uint64_t virtual, int level)
{
    uint64_t table = read_cr3();
    for (int above = LEVEL_PML4E; above > level; above--) {
        uint64_t *entry = entry_in(table, virtual, above);
        if (!(*entry & PTE_PRESENT))
            *entry = (uint64_t)page_alloc() | TABLE_FLAGS;
        else if (*entry & PTE_LARGE)
            split(entry);
        table = *entry;
    }
    return entry_in(table, virtual, level);
}

void page_map(uint64_t virtual, uint64_t physical, uint64_t flags)
{
    *reach(virtual, LEVEL_PTE) = physical | flags;
    tlb_flush_page(virtual);
}

void page_map_large(uint64_t virtual, uint64_t physical, uint64_t flags)
{
    *reach(virtual, LEVEL_PDE) = physical | flags | PTE_LARGE;
    tlb_flush_page(virtual);
}

void page_unmap(uint64_t virtual)
{
    *reach(virtual, LEVEL_PTE) = 0;
    tlb_flush_page(virtual);
}

void page_protect(uint64_t virtual, uint64_t flags)
{
    uint64_t *entry = reach(virtual, LEVEL_PTE);
    *entry = (*entry & PTE_ADDRESS) | flags;
    tlb_flush_page(virtual);
}

uint64_t *page_entry(uint64_t virtual)
{
    uint64_t table = read_cr3();
    for (int level = LEVEL_PML4E;; level--) {
        uint64_t *entry = entry_in(table, virtual, level);
        if (!(*entry & PTE_PRESENT))
            return NULL;
        if (level == LEVEL_PTE || *entry & PTE_LARGE)
            return entry;
        table = *entry;
    }
}

void identity_map(uint64_t physical, uint64_t size)
{
    uint64_t end = physical + size;
    for (uint64_t page = physical & ~(LARGE_PAGE_SIZE - 1); page < end; page += LARGE_PAGE_SIZE)
        if (!page_entry(page))
            page_map_large(page, page, PTE_PRESENT | PTE_WRITE);
}

void tlb_flush(void)
{
    write_cr3(read_cr3());
}
