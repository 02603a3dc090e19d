/* SPDX-License-Identifier: Apache-2.0 */
/* HvCallTranslateVirtualAddress. */
#include "parts.h"

#define TRANSLATE_READ 1u
#define TRANSLATE_WRITE 2u
#define TRANSLATE_EXECUTE 4u
#define TRANSLATE_SET_BITS 0x10u
#define TRANSLATE_USER 0x80u
#define NOT_PRESENT 1
#define PRIVILEGE_VIOLATION 2
#define GPA_UNMAPPED 4
#define ILLEGAL_OVERLAY 7
#define WRITE_BACK 6

static struct {
    uint64_t status, page;
    uint32_t code;
    uint8_t cache, overlay;
} found;

static uint32_t translate(uint32_t vp, uint64_t flags, uint64_t address)
{
    input[0] = HV_SELF_PARTITION;
    input[1] = vp;
    input[2] = flags;
    input[3] = address >> 12;
    memset(output, 0xff, 64);
    found.status = hv_call(HV_CALL_TRANSLATE, (uintptr_t)input, (uintptr_t)output);
    found.code = (uint32_t)output[0];
    found.cache = output[0] >> 32 & 0xff;
    found.overlay = output[0] >> 40 & 1;
    found.page = output[1];
    return found.status ? ~0u : found.code;
}

void check_translation(uint32_t vp)
{
    uint64_t *page = page_alloc();
    uint64_t frame = (uintptr_t)page >> 12;
    page_map(probe_gva, (uintptr_t)page, PTE_PRESENT | PTE_WRITE);
    uint64_t *entry = page_entry(probe_gva);
    translate(vp, TRANSLATE_READ | TRANSLATE_WRITE | TRANSLATE_EXECUTE, probe_gva);
    report(!found.status && !found.code && found.page == frame && found.cache == WRITE_BACK && !found.overlay,
           "a page: code %u, page 0x%lx, cache type %u", found.code, found.page, found.cache);
    report(!(*entry & (PTE_ACCESSED | PTE_DIRTY)), "looking sets no bits");
    translate(vp, TRANSLATE_WRITE | TRANSLATE_SET_BITS, probe_gva);
    report((*entry & (PTE_ACCESSED | PTE_DIRTY)) == (PTE_ACCESSED | PTE_DIRTY), "unless asked to");
    report(translate(vp, TRANSLATE_READ | TRANSLATE_USER, probe_gva) == PRIVILEGE_VIOLATION,
           "user mode may not read it");
    page_protect(probe_gva, PTE_PRESENT);
    report(translate(vp, TRANSLATE_WRITE, probe_gva) == (read_cr0() & CR0_WP ? PRIVILEGE_VIOLATION : 0),
           "nor anybody write it");
    page_map(probe_gva, 0xfed0000000ull, PTE_PRESENT);
    report(translate(vp, TRANSLATE_READ, probe_gva) == GPA_UNMAPPED && found.page == 0xfed0000,
           "a page that is no memory");
    page_unmap(probe_gva);
    report(translate(vp, TRANSLATE_READ, probe_gva) == NOT_PRESENT, "a page that is not there");
    uint64_t code = rdmsr(HV_MSR_HYPERCALL) & ~0xfffull;
    report(translate(vp, TRANSLATE_EXECUTE, code) == 0 && found.overlay && found.page == code >> 12,
           "the hypercall page is an overlay");
    report(translate(vp, TRANSLATE_WRITE, code) == ILLEGAL_OVERLAY, "that nobody writes");
    report(translate(vp, 0, code) == ~0u && found.status == HV_STATUS_INVALID_PARAMETER,
           "nothing to validate is an error");
    input[2] = TRANSLATE_READ;
    memset(output, 0xff, 128);
    uint64_t result = hv_call(HV_CALL_TRANSLATE_EX, (uintptr_t)input, (uintptr_t)output);
    report(result == 0 && output[0] == ((uint64_t)WRITE_BACK << 32 | 1ull << 40) && output[6] == code >> 12 &&
           output[8] == ~0ull,
           "the Ex form: 0x%lx, page 0x%lx", output[0], output[6]);
}
