/* SPDX-License-Identifier: Apache-2.0 */
/* DMA of a device that VTL0 programs: it has the rights of VTL0. TLFS 15.14. */
#include "attacks.h"

#define DMA_ADDRESS_HIGH 0x514
#define DMA_ADDRESS_LOW 0x518
#define DMA_ERROR 1u
#define DMA_READ 2u
#define DMA_SELECT 8u
#define DMA_WRITE 16u

static struct {
    uint32_t control, length;
    uint64_t address;
} descriptor __attribute__((aligned(16)));

static void start_dma(uint64_t at)
{
    outl(DMA_ADDRESS_HIGH, __builtin_bswap32((uint32_t)(at >> 32)));
    outl(DMA_ADDRESS_LOW, __builtin_bswap32((uint32_t)at));
}

static uint32_t run_dma(uint32_t control, uint64_t address, uint32_t length)
{
    descriptor.control = __builtin_bswap32(FWCFG_SIGNATURE << 16 | DMA_SELECT | control);
    descriptor.length = __builtin_bswap32(length);
    descriptor.address = __builtin_bswap64(address);
    warden_clear(POLICY_ABANDON);
    start_dma((uint64_t)&descriptor);
    return __builtin_bswap32(descriptor.control);
}

uint32_t dma_into(uint64_t address, uint32_t length)
{
    return run_dma(DMA_READ, address, length);
}

static void try_dma(const char *name, uint32_t control, uint64_t address, uint32_t length, unsigned place)
{
    uint32_t end = run_dma(control, address, length);
    char detail[60];
    snprintf(detail, sizeof detail, "control 0x%x, %u intercepts, %s", end, warden()->count,
             intact(place) ? "not changed" : "CHANGED");
    row(end == DMA_ERROR && intact(place), name, detail);
}

void dma_rows(void)
{
    begin_class(DMA);
    uint64_t secrets = (uint64_t)place_at[SECRETS], kernel = (uint64_t)place_at[KERNEL];
    try_dma("fw_cfg into VTL1's data", DMA_READ, secrets + 8, 4, SECRETS);
    try_dma("fw_cfg into its last byte", DMA_READ, secrets + 0xfff, 1, SECRETS);
    try_dma("fw_cfg from memory before it into it", DMA_READ, secrets - 16, 64, SECRETS);
    try_dma("fw_cfg, zeros over all of it and more", DMA_READ, secrets - PAGE_SIZE, 3 * PAGE_SIZE, SECRETS);
    try_dma("fw_cfg into VTL1's code", DMA_READ, (uint64_t)place_at[CODE] + 8, 4, CODE);
    try_dma("fw_cfg into kernel text", DMA_READ, kernel + 8, 4, KERNEL);
    try_dma("fw_cfg out of VTL1's data", DMA_WRITE, secrets + 8, 4, SECRETS);
    warden_clear(POLICY_ABANDON);
    start_dma(secrets + 0x10);
    row(intact(SECRETS), "fw_cfg with its descriptor in VTL1's data", intact(SECRETS) ? "not changed" : "CHANGED");
    descriptor.control = __builtin_bswap32(FWCFG_SIGNATURE << 16 | DMA_SELECT | DMA_READ);
    descriptor.length = __builtin_bswap32(4);
    descriptor.address = __builtin_bswap64((uint64_t)scratch);
    start_dma((uint64_t)&descriptor);
    row(!descriptor.control && !memcmp(scratch, "QEMU", 4), "fw_cfg into VTL0's own memory", "goes on as ever");
    report_prefix_pop();
}
