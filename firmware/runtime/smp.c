/* SPDX-License-Identifier: Apache-2.0 */
/* Start of the other processors (SDM volume 3, "MP Initialization Protocol") and calls between processors. */
#include "smp.h"

#include "acpi.h"
#include "apic.h"
#include "exit.h"
#include "fwcfg.h"
#include "interrupts.h"
#include "lock.h"
#include "multiboot.h"
#include "paging.h"
#include "string.h"
#include "timers.h"

#define TRAMPOLINE 0x8000ull /* a page below 1 MiB; STARTUP's vector is its number */
#define STACK_PAGES 4
#define XAPIC_IDS 255 /* 8-bit ids, one of them for broadcasts */
#define START_TIMEOUT_MS 20000

extern const char trampoline[], trampoline_end[];

/* start.S reads these three; slot 0 is the boot processor. */
struct cpu *ap_cpus[MAX_CPUS] = {&boot_cpu};
uint32_t ap_arrivals = 1;
uint32_t ap_limit = 1;

void ap_main(struct cpu *cpu);

static uint32_t online_count = 1;

static void take_call(struct frame *frame)
{
    (void)frame;
    apic_eoi(); /* waking the processor from HLT was all */
}

/* Where processors other than the first spend their lives. */
void ap_main(struct cpu *cpu)
{
    cpu_init(cpu);
    apic_init();
    cpu->apic_id = apic_id();
    store_release(&cpu->online, true);
    atomic_add(&online_count, 1);
    for (;;) {
        interrupts_off();
        cpu_function function = load_acquire(&cpu->function);
        if (!function) {
            halt_until_interrupt();
            continue;
        }
        interrupts_on();
        function(cpu->argument);
        store_release(&cpu->function, (cpu_function)NULL);
    }
}

unsigned smp_expected(void)
{
    const char *told = environment("NR_CPUS");
    uint16_t count = 0;
    if (told)
        return parse_number(told);
    if (fwcfg_present())
        fwcfg_read(FWCFG_CPUS, &count, sizeof(count));
    if (!count)
        count = madt_cpu_count();
    return count ? count : 1;
}

static void sort_by_apic_id(unsigned count)
{
    for (unsigned i = 1; i < count; i++) {
        struct cpu *cpu = ap_cpus[i];
        unsigned place = i;
        for (; place && ap_cpus[place - 1]->apic_id > cpu->apic_id; place--)
            ap_cpus[place] = ap_cpus[place - 1];
        ap_cpus[place] = cpu;
    }
    for (unsigned i = 0; i < count; i++)
        ap_cpus[i]->index = i;
}

unsigned smp_start(void)
{
    unsigned count = smp_expected();
    if (count == 1 || online_count > 1)
        return smp_count();
    if (count > MAX_CPUS)
        abort_run("%u processors announced, room for %u", count, MAX_CPUS);
    if (count > XAPIC_IDS && !apic_enable_x2apic())
        abort_run("%u processors announced, but no x2APIC", count);
    for (unsigned i = 1; i < count; i++) {
        struct cpu *cpu = page_alloc();
        cpu->self = cpu;
        cpu->stack_top = (uint64_t)pages_alloc(STACK_PAGES) + STACK_PAGES * PAGE_SIZE;
        ap_cpus[i] = cpu;
    }
    ap_limit = count;
    memcpy((void *)TRAMPOLINE, trampoline, trampoline_end - trampoline);
    interrupt_set_handler(VECTOR_CALL, take_call);

    /* Virtual processors take INIT at once: neither the 10 ms pause nor the second STARTUP is needed. */
    apic_icr_write(APIC_DELIVERY_INIT | APIC_LEVEL_ASSERT | APIC_SHORTHAND_OTHERS, 0);
    apic_icr_write(APIC_DELIVERY_STARTUP | APIC_LEVEL_ASSERT | APIC_SHORTHAND_OTHERS | TRAMPOLINE / PAGE_SIZE, 0);
    if (!WAIT_FOR(load_acquire(&online_count) == count, START_TIMEOUT_MS))
        abort_run("%u of %u processors came online in %u ms", online_count, count, START_TIMEOUT_MS);
    sort_by_apic_id(count);
    return count;
}

unsigned smp_count(void)
{
    return load_acquire(&online_count);
}

struct cpu *smp_cpu(unsigned index)
{
    assert(index < smp_count());
    return ap_cpus[index];
}

void smp_run_async(unsigned index, cpu_function function, void *argument)
{
    struct cpu *cpu = smp_cpu(index);
    assert(cpu != this_cpu());
    smp_wait(index);
    cpu->argument = argument;
    store_release(&cpu->function, function);
    apic_send_ipi(cpu->apic_id, VECTOR_CALL);
}

void smp_wait(unsigned index)
{
    struct cpu *cpu = smp_cpu(index);
    while (load_acquire(&cpu->function))
        cpu_relax();
}

void smp_run(unsigned index, cpu_function function, void *argument)
{
    if (smp_cpu(index) == this_cpu()) {
        function(argument);
        return;
    }
    smp_run_async(index, function, argument);
    smp_wait(index);
}

void smp_run_all(cpu_function function, void *argument)
{
    unsigned self = this_cpu()->index;
    for (unsigned i = 0; i < smp_count(); i++)
        if (i != self)
            smp_run_async(i, function, argument);
    function(argument);
    for (unsigned i = 0; i < smp_count(); i++)
        if (i != self)
            smp_wait(i);
}
