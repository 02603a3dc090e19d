/* SPDX-License-Identifier: Apache-2.0 */
/* Free pages: never used ones from the heap's start upwards, given-back ones on a list. */
#include "exit.h"
#include "lock.h"
#include "multiboot.h"
#include "paging.h"
#include "string.h"

static struct lock lock;
static uint64_t next; /* 0: not yet used */
static void *free_list;
static uint64_t free_count;

static uint64_t unused(void)
{
    if (!next)
        next = heap_start();
    return next < heap_end() ? (heap_end() - next) / PAGE_SIZE : 0;
}

void *pages_alloc(uint64_t count)
{
    void *result = NULL;
    lock_acquire(&lock);
    if (count == 1 && free_list) {
        result = free_list;
        free_list = *(void **)result;
        free_count--;
    } else if (count <= unused()) {
        result = (void *)next;
        next += count * PAGE_SIZE;
    }
    lock_release(&lock);
    if (!result)
        abort_run("out of memory: %lu pages wanted, %lu left", count, pages_left());
    return memset(result, 0, count * PAGE_SIZE);
}

void *page_alloc(void)
{
    return pages_alloc(1);
}

void page_free(void *page)
{
    lock_acquire(&lock);
    *(void **)page = free_list;
    free_list = page;
    free_count++;
    lock_release(&lock);
}

uint64_t pages_left(void)
{
    return unused() + free_count;
}
