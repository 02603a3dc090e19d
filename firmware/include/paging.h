/* SPDX-License-Identifier: Apache-2.0 */
/* Free pages and page tables. 0..4 GiB is mapped to itself, with 2 MiB pages. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PAGE_SIZE 4096ull
#define LARGE_PAGE_SIZE (2ull << 20)

#define PTE_PRESENT (1ull << 0)
#define PTE_WRITE (1ull << 1)
#define PTE_USER (1ull << 2)
#define PTE_WRITE_THROUGH (1ull << 3)
#define PTE_CACHE_DISABLE (1ull << 4)
#define PTE_ACCESSED (1ull << 5)
#define PTE_DIRTY (1ull << 6)
#define PTE_LARGE (1ull << 7)
#define PTE_NX (1ull << 63) /* reserved unless EFER.NXE */
#define PTE_ADDRESS 0x000ffffffffff000ull

/* A zeroed page, or `count` adjacent ones; ends the guest when there is none. */
void *page_alloc(void);
void *pages_alloc(uint64_t count);
void page_free(void *page);
/* Free pages left. */
uint64_t pages_left(void);

/* Map one page, replacing what was there; tables are made on the way, 2 MiB pages are split. */
void page_map(uint64_t virtual, uint64_t physical, uint64_t flags);
void page_map_large(uint64_t virtual, uint64_t physical, uint64_t flags);
void page_unmap(uint64_t virtual);
/* Other flags for a mapped 4 KiB page. */
void page_protect(uint64_t virtual, uint64_t flags);
/* The entry that maps `virtual` (4 KiB, or 2 MiB when PTE_LARGE is set in it), NULL when none does. */
uint64_t *page_entry(uint64_t virtual);

/* Maps a physical range above 4 GiB to itself; harmless when repeated. */
void identity_map(uint64_t physical, uint64_t size);

/* These flush the running processor's TLB only: see smp_run_all. */
static inline void tlb_flush_page(uint64_t virtual)
{
    asm volatile("invlpg (%0)" : : "r"(virtual) : "memory");
}

void tlb_flush(void);
