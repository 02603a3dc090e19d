/* SPDX-License-Identifier: Apache-2.0 */
/* The state the loader leaves, and that the processor does what a kernel needs first.
 *
 * argc=N   the command line must have N words, the program's name included
 */
#include "runtime.h"

#define MULTIBOOT_REQUIRED_FLAGS 0x45 /* memory sizes, command line, memory map */
#define EFLAGS_VM (1u << 17)
#define MISSING_MSR 0x4ffffff0
#define TEST_ADDRESS 0x200000000000ull /* not mapped */
#define NOT_CANONICAL 0x8000000000000000ull
#define UNTOUCHED_SIZE 65536
#define PF_WRITE 2
#define PF_PRESENT 1
#define PF_FETCH 16

static uint64_t untouched[UNTOUCHED_SIZE / 8]; /* .bss */
static uint32_t initialised[] = {0x01234567, 0x89abcdef, 0xdeadbeef};

static void check_entry(void)
{
    const struct entry_state *e = &entry_state;
    report_prefix_push("entry");
    report(e->eax == MULTIBOOT_BOOT_MAGIC, "EAX is 0x%x", e->eax);
    report(e->ebx && e->ebx % 4 == 0, "EBX points to the information: 0x%x", e->ebx);
    report((e->cr0 & (CR0_PE | CR0_PG)) == CR0_PE, "protected mode without paging: CR0 is 0x%x", e->cr0);
    report(!(e->eflags & (RFLAGS_IF | EFLAGS_VM)), "interrupts off: EFLAGS is 0x%x", e->eflags);
    report(e->cs && e->ss && e->ds && e->es, "segments loaded: CS %x SS %x DS %x ES %x FS %x GS %x", e->cs, e->ss,
           e->ds, e->es, e->fs, e->gs);
    report_prefix_pop();
}

static bool all_zero(const uint64_t *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (words[i])
            return false;
    return true;
}

static void check_image(void)
{
    report_prefix_push("image");
    report(all_zero(untouched, ARRAY_SIZE(untouched)), "%u bytes of .bss are zero", UNTOUCHED_SIZE);
    volatile uint32_t *data = initialised;
    report(data[0] == 0x01234567 && data[1] == 0x89abcdef && data[2] == 0xdeadbeef, ".data is in place");
    report_prefix_pop();
}

static void check_command_line(int argc, char **argv)
{
    report_prefix_push("command line");
    report((multiboot_flags() & MULTIBOOT_REQUIRED_FLAGS) == MULTIBOOT_REQUIRED_FLAGS, "information flags: 0x%x",
           multiboot_flags());
    report(argc >= 1 && argv[0][0] && !argv[argc], "%d words, the first is the program's name", argc);
    if (argument("argc", NULL))
        report((uint64_t)argc == argument_number("argc", 0), "argc is %s", argument("argc", ""));
    report_prefix_pop();
}

static void check_memory_map(void)
{
    const struct memory_range *low = NULL, *main_range = NULL;
    unsigned overlaps = 0;
    for (unsigned i = 0; i < memory_range_count(); i++) {
        const struct memory_range *a = memory_range(i);
        if (a->type == MEMORY_RAM && a->base == 0)
            low = a;
        if (a->type == MEMORY_RAM && a->base <= 0x100000 && 0x100000 < a->base + a->size)
            main_range = a;
        for (unsigned j = 0; j < i; j++) {
            const struct memory_range *b = memory_range(j);
            overlaps += a->base < b->base + b->size && b->base < a->base + a->size;
        }
    }
    report_prefix_push("memory map");
    report(low && low->size >= 0x80000, "RAM from 0: %lu KiB", low ? low->size / 1024 : 0);
    report(main_range, "RAM at 1 MiB");
    report(!overlaps, "no ranges overlap");
    uint64_t above = main_range ? main_range->base + main_range->size - 0x100000 : 0;
    report(memory_upper_kib() && memory_upper_kib() * 1024ull <= above, "mem_upper is %u KiB, RAM above 1 MiB %lu KiB",
           memory_upper_kib(), above / 1024);
    uint64_t low_address = 0x600;
    asm("" : "+r"(low_address)); /* gcc takes small constant addresses for a mistake */
    volatile uint8_t *first = (volatile uint8_t *)low_address, *alias = first + 0x100000;
    *first = 0x55;
    *alias = 0xaa;
    report(*first == 0x55 && *alias == 0xaa, "A20 is on");
    /* Fresh RAM; the first MiB behind the image may hold what the loader passed. */
    uint64_t dirty = 0;
    for (uint64_t page = heap_start() + 0x100000; page < heap_end(); page += 0x100000)
        dirty += *(uint64_t *)page != 0;
    report(!dirty, "free RAM is zero: %lu of %lu samples are not", dirty, (heap_end() - heap_start()) >> 20);
    report_prefix_pop();
}

static void check_processor(void)
{
    uint64_t value;
    report_prefix_push("processor");
    report((rdmsr(MSR_EFER) & (EFER_LME | EFER_LMA)) == (EFER_LME | EFER_LMA), "long mode is active");
    report(cpuid(0, 0).eax >= 1 && cpuid(1, 0).edx >> 9 & 1, "CPUID announces an APIC");
    report(rdmsr(MSR_APIC_BASE) >> 8 & 1, "this is the bootstrap processor");
    report(apic_id() == cpuid(1, 0).ebx >> 24, "APIC id %u in CPUID too", apic_id());
    uint64_t first = rdtsc();
    report(rdtsc() > first, "the TSC counts");
    fault_clear();
    asm volatile(FAULT_GUARD("ud2"));
    report(fault_vector() == VECTOR_UD, "UD2 raises #UD");
    fault_clear();
    asm volatile(FAULT_GUARD("divl %0") : : "r"(0), "a"(1), "d"(0));
    report(fault_vector() == VECTOR_DE, "a division by 0 raises #DE");
    fault_clear();
    asm volatile(FAULT_GUARD("movb (%0), %%al") : : "r"(NOT_CANONICAL) : "eax");
    report(fault_vector() == VECTOR_GP && this_cpu()->fault.error_code == 0, "a non-canonical address raises #GP(0)");
    int vector = rdmsr_safe(MSR_EFER, &value);
    report(vector == FAULT_NONE && value == rdmsr(MSR_EFER), "RDMSR under a guard");
    vector = rdmsr_safe(MISSING_MSR, &value);
    if (vector == FAULT_NONE)
        report_skip("the host ignores missing MSRs");
    else
        report(vector == VECTOR_GP && this_cpu()->fault.error_code == 0, "RDMSR of a missing MSR raises #GP(0)");
    report_prefix_pop();
}

static bool access_faults(uint64_t address, bool write, uint64_t error_code)
{
    fault_clear();
    if (write)
        asm volatile(FAULT_GUARD("movb $1, (%0)") : : "r"(address) : "memory");
    else
        asm volatile(FAULT_GUARD("movb (%0), %%al") : : "r"(address) : "memory", "eax");
    const struct fault *fault = &this_cpu()->fault;
    return fault_vector() == VECTOR_PF && fault->error_code == error_code && fault->address == address;
}

static uint64_t fetch_target;
static void note_fetch(struct frame *frame)
{
    fetch_target = frame->error_code & PF_FETCH ? read_cr2() : 0;
    frame->rip = *(uint64_t *)frame->rsp; /* as if the function had returned */
    frame->rsp += 8;
}

static void check_paging(void)
{
    uint8_t *page = page_alloc();
    volatile uint8_t *view = (volatile uint8_t *)TEST_ADDRESS;
    report_prefix_push("paging");
    report(access_faults(TEST_ADDRESS, false, 0), "reading an unmapped page raises #PF(0)");
    report(access_faults(TEST_ADDRESS + 1, true, PF_WRITE), "writing it raises #PF(W)");
    page_map(TEST_ADDRESS, (uint64_t)page, PTE_PRESENT | PTE_WRITE);
    view[5] = 0x77;
    report(page[5] == 0x77, "a second mapping shows the same memory");
    report(*page_entry(TEST_ADDRESS) & PTE_ACCESSED && *page_entry(TEST_ADDRESS) & PTE_DIRTY,
           "accessed and dirty bits are set");
    page_protect(TEST_ADDRESS, PTE_PRESENT);
    report(view[5] == 0x77 && access_faults(TEST_ADDRESS + 5, true, PF_WRITE | PF_PRESENT),
           "a read-only page raises #PF(W, P)");
    if (rdmsr(MSR_EFER) & EFER_NX) {
        page[0] = 0xc3; /* RET */
        interrupt_set_handler(VECTOR_PF, note_fetch);
        page_protect(TEST_ADDRESS, PTE_PRESENT);
        ((void (*)(void))TEST_ADDRESS)();
        report(!fetch_target, "code runs from a page without NX");
        page_protect(TEST_ADDRESS, PTE_PRESENT | PTE_NX);
        ((void (*)(void))TEST_ADDRESS)();
        report(fetch_target == TEST_ADDRESS, "but not from one with NX");
        interrupt_set_handler(VECTOR_PF, NULL);
    } else {
        report_skip("no NX");
    }
    page_unmap(TEST_ADDRESS);
    report(access_faults(TEST_ADDRESS, false, 0), "unmapped again");
    uint64_t left = pages_left();
    page_free(page);
    report(pages_left() == left + 1 && page_alloc() == page, "a freed page is handed out again");
    report_prefix_pop();
}

int main(int argc, char **argv)
{
    check_entry();
    check_image();
    check_command_line(argc, argv);
    check_memory_map();
    check_processor();
    check_paging();
    return report_summary();
}
