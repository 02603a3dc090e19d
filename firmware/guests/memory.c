/* SPDX-License-Identifier: Apache-2.0 */
/* Walks all RAM of the memory map: every sample keeps its own value, so nothing is mirrored or missing.
 *
 * step=BYTES   between two samples (64 KiB, more where RAM is large)
 */
#include "runtime.h"

#define MAX_SAMPLES 8192
#define LOW_FREE_START 0x1000ull
#define LOW_FREE_END 0x8000ull /* the trampoline and loaders' data lie higher */
#define MIB 0x100000ull
#define COPY_SIZE 65536ull

static uint64_t step, samples, wrong;

static uint64_t value_of(uint64_t address)
{
    return address * 0x9e3779b97f4a7c15ull + 1; /* odd multiplier: no two addresses share a value */
}

static void write_sample(uint64_t address)
{
    *(volatile uint64_t *)address = value_of(address);
    samples++;
}

static void check_sample(uint64_t address)
{
    if (*(volatile uint64_t *)address != value_of(address))
        wrong++;
}

static void walk_part(uint64_t start, uint64_t end, uint64_t stride, void (*visit)(uint64_t address))
{
    if (start >= end)
        return;
    for (uint64_t address = start; address + 8 <= end; address += stride)
        visit(address);
    visit((end - 8) & ~7ull);
}

/* The parts of one range that are ours to write: low memory up to the trampoline, RAM behind the image. */
static void walk(const struct memory_range *range, void (*visit)(uint64_t address))
{
    const uint64_t high_start = heap_start() + MIB; /* behind the page tables made on the way */
    uint64_t start = range->base, end = range->base + range->size;
    walk_part(start > LOW_FREE_START ? start : LOW_FREE_START, end < LOW_FREE_END ? end : LOW_FREE_END, PAGE_SIZE,
              visit);
    walk_part(start > high_start ? start : high_start, end, step, visit);
}

static void walk_all(void (*visit)(uint64_t address))
{
    for (unsigned i = 0; i < memory_range_count(); i++)
        if (memory_range(i)->type == MEMORY_RAM)
            walk(memory_range(i), visit);
}

static void check_hole(uint64_t address)
{
    uint64_t *before = (uint64_t *)heap_start();
    uint64_t kept = *before;
    identity_map(address, 8);
    volatile uint32_t *hole = (volatile uint32_t *)address;
    uint32_t first = *hole;
    *hole = ~first ^ 0x5a5a5a5a;
    report(*hole == first && *before == kept, "nothing at 0x%lx: reads 0x%x, forgets writes", address, first);
}

static void check_access_sizes(void)
{
    uint8_t *memory = pages_alloc(2);
    volatile uint64_t *crossing = (volatile uint64_t *)(memory + PAGE_SIZE - 3);
    *crossing = 0x1122334455667788;
    report(memory[PAGE_SIZE - 3] == 0x88 && memory[PAGE_SIZE + 4] == 0x11 && *crossing == 0x1122334455667788,
           "a store across two pages");
    uint64_t *word = (uint64_t *)memory;
    *word = 5;
    bool added = atomic_add(word, 3) == 5 && *word == 8;
    uint64_t old = 8;
    bool exchanged = __atomic_compare_exchange_n(word, &old, 9, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    report(added && exchanged && *word == 9, "locked XADD and CMPXCHG");

    uint8_t *from = pages_alloc(COPY_SIZE / PAGE_SIZE), *to = pages_alloc(COPY_SIZE / PAGE_SIZE);
    for (uint64_t i = 0; i < COPY_SIZE; i += 512)
        *(uint64_t *)(from + i) = value_of(i);
    memcpy(to, from, COPY_SIZE);
    uint64_t bad = 0;
    for (uint64_t i = 0; i < COPY_SIZE; i += 512)
        bad += *(uint64_t *)(to + i) != value_of(i);
    report(!bad, "REP MOVSQ copies %llu KiB", COPY_SIZE / 1024);
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t total = 0, above_4g = 0, below_4g_end = 0, top = 0;
    for (unsigned i = 0; i < memory_range_count(); i++) {
        const struct memory_range *range = memory_range(i);
        if (range->type != MEMORY_RAM)
            continue;
        uint64_t end = range->base + range->size;
        total += range->size;
        if (range->base >> 32) {
            above_4g += range->size;
            identity_map(range->base, range->size);
        } else if (end > below_4g_end) {
            below_4g_end = end;
        }
        top = end > top ? end : top;
    }
    step = argument_number("step", 65536);
    if (total / step > MAX_SAMPLES)
        step = (total / MAX_SAMPLES + 4095) & ~4095ull;

    check_access_sizes();
    walk_all(write_sample);
    walk_all(check_sample);
    report(samples && !wrong, "%lu samples in %lu MiB, one every %lu KiB: %lu wrong", samples, total >> 20, step >> 10,
           wrong);
    report_info("%lu MiB of them lie above 4 GiB", above_4g >> 20);
    if (fwcfg_present()) {
        uint64_t told = 0;
        fwcfg_read(FWCFG_RAM_SIZE, &told, sizeof(told));
        /* The map leaves out the 384 KiB below 1 MiB and what the firmware keeps. */
        report(told >= total && told - total <= 2 * MIB, "fw_cfg says %lu KiB, the map %lu KiB", told / 1024,
               total / 1024);
    }
    report(below_4g_end <= 0xfec00000, "RAM below 4 GiB ends at 0x%lx", below_4g_end);
    if (below_4g_end < 0xd0000000)
        check_hole(0xd0000000);
    check_hole(((top > 1ull << 32 ? top : 1ull << 32) + (1ull << 30)) & ~0xfffull);
    return report_summary();
}
