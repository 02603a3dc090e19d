/* SPDX-License-Identifier: Apache-2.0 */
/* Looks around in the machine, prints what it finds, and switches the machine off by ACPI.
 *
 * exit=N: end through the debug-exit device with code N instead.
 */
#include "runtime.h"

#define TIMER_VECTOR 0x40
#define MEASURE_US 20000
#define PIT_RUN_NS 50000000
#define READINGS 3

static void section(const char *title)
{
    printf("\n%s\n", title);
}

#define line(label, ...) (printf("  %-14s ", label), printf(__VA_ARGS__), printf("\n"))

static void registers_to_text(struct cpuid r, char *text)
{
    memcpy(text, &r.eax, 4);
    memcpy(text + 4, &r.ebx, 4);
    memcpy(text + 8, &r.ecx, 4);
    memcpy(text + 12, &r.edx, 4);
}

struct feature {
    uint32_t leaf;
    char reg; /* 'b', 'c' or 'd' of CPUID(leaf, 0) */
    uint8_t bit;
    const char *name;
};

static const struct feature features[] = {
    {1, 'd', 9, "apic"},          {1, 'd', 25, "sse"},           {1, 'd', 26, "sse2"},
    {1, 'c', 20, "sse4.2"},       {1, 'c', 28, "avx"},           {7, 'b', 5, "avx2"},
    {7, 'b', 16, "avx512f"},      {1, 'c', 21, "x2apic"},        {1, 'c', 24, "tsc-deadline"},
    {0x80000007, 'd', 8, "invariant-tsc"}, {1, 'c', 17, "pcid"}, {7, 'b', 7, "smep"},
    {7, 'b', 20, "smap"},         {7, 'c', 2, "umip"},           {7, 'c', 16, "la57"},
    {0x80000001, 'd', 20, "nx"},  {0x80000001, 'd', 26, "1gib-pages"}, {0x80000001, 'd', 27, "rdtscp"},
    {1, 'c', 5, "vmx"},           {0x80000001, 'c', 2, "svm"},
};

static void show_processor(void)
{
    char text[49] = {0};
    section("Processor");

    struct cpuid r = cpuid(0, 0);
    uint32_t max_leaf = r.eax;
    memcpy(text, &r.ebx, 4);
    memcpy(text + 4, &r.edx, 4);
    memcpy(text + 8, &r.ecx, 4);
    line("vendor", "%s", text);

    uint32_t max_extended = cpuid(0x80000000, 0).eax;
    if (max_extended >= 0x80000004) {
        for (uint32_t i = 0; i < 3; i++)
            registers_to_text(cpuid(0x80000002 + i, 0), text + 16 * i);
        const char *brand = text;
        while (*brand == ' ')
            brand++;
        line("model", "%s", brand);
    }

    r = cpuid(1, 0);
    uint32_t family = r.eax >> 8 & 15, model = r.eax >> 4 & 15;
    if (family == 15 || family == 6)
        model |= r.eax >> 12 & 0xf0;
    if (family == 15)
        family += r.eax >> 20 & 0xff;
    line("family", "%u, model %u, stepping %u", family, model, r.eax & 15);

    printf("  %-14s", "features");
    uint32_t leaf = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        const struct feature *f = &features[i];
        if (f->leaf > (f->leaf >= 0x80000000 ? max_extended : max_leaf))
            continue;
        if (f->leaf != leaf)
            r = cpuid(leaf = f->leaf, 0);
        if ((f->reg == 'b' ? r.ebx : f->reg == 'c' ? r.ecx : r.edx) >> f->bit & 1)
            printf(" %s", f->name);
    }
    printf("\n");

    if (cpuid(1, 0).ecx >> 31 & 1) {
        memset(text, 0, sizeof(text));
        r = cpuid(0x40000000, 0);
        memcpy(text, &r.ebx, 4);
        memcpy(text + 4, &r.ecx, 4);
        memcpy(text + 8, &r.edx, 4);
        uint32_t last = r.eax;
        r = cpuid(0x40000001, 0);
        char interface[5] = {0};
        memcpy(interface, &r.eax, 4);
        bool printable = interface[0] > ' ' && interface[0] < 127;
        line("hypervisor", "\"%s\", leaves up to 0x%x%s%s", text, last, printable ? ", interface " : "",
             printable ? interface : "");
    } else {
        line("hypervisor", "none announced");
    }
}

static void show_memory(void)
{
    static const char *const types[] = {"?", "RAM", "reserved", "ACPI data", "ACPI NVS", "bad"};
    uint64_t ram = 0;
    section("Memory map");
    for (unsigned i = 0; i < memory_range_count(); i++) {
        const struct memory_range *range = memory_range(i);
        printf("  %012lx-%012lx  %8lu KiB  %s\n", range->base, range->base + range->size - 1, range->size / 1024,
               types[range->type < ARRAY_SIZE(types) ? range->type : 0]);
        if (range->type == MEMORY_RAM)
            ram += range->size;
    }
    line("RAM", "%lu MiB, %lu KiB", ram >> 20, ram >> 10 & 1023);
}

static void show_table(const struct acpi_header *table)
{
    printf("  %.4s at %08lx, %5u bytes, revision %u, by \"%.6s\" \"%.8s\"\n", table->signature, (uint64_t)table,
           table->length, table->revision, table->oem_id, table->oem_table_id);
}

static void show_acpi(void)
{
    section("ACPI");
    const struct acpi_rsdp *rsdp = acpi_rsdp();
    if (!rsdp) {
        printf("  no tables\n");
        return;
    }
    printf("  RSDP at %08lx, revision %u, by \"%.6s\"\n", (uint64_t)rsdp, rsdp->revision, rsdp->oem_id);
    const struct acpi_header *table;
    for (unsigned i = 0; (table = acpi_table_at(i)); i++)
        show_table(table);
    if (acpi_dsdt())
        show_table(acpi_dsdt());
}

static void show_interrupts(void)
{
    section("Interrupt controllers");
    uint32_t version = apic_read(APIC_VERSION);
    line("local APIC", "id %u, version 0x%02x, %u LVT entries%s%s", apic_id(), version & 0xff,
         (version >> 16 & 0xff) + 1, cpu_has_x2apic() ? ", x2APIC" : "",
         cpu_has_tsc_deadline() ? ", TSC deadline" : "");
    line("I/O APIC", "version 0x%02x, %u pins, IRQ 0 on pin %u", ioapic_read(1) & 0xff, ioapic_pins(),
         ioapic_pin_of_irq(0));
    line("MADT", "%u processors enabled", madt_cpu_count());
}

static void show_pci_function(pci_function function)
{
    uint32_t id = pci_read32(function, PCI_ID), class = pci_read32(function, PCI_CLASS);
    printf("  00:%02x.%u  %04x:%04x  class %02x%02x\n", function >> 3 & 31, function & 7, id & 0xffff, id >> 16,
           class >> 24, class >> 16 & 0xff);
}

static void show_pci(void)
{
    section("PCI");
    if (!pci_scan(show_pci_function))
        printf("  no devices\n");
}

/* One clock measured by the TSC, itself measured by the PM timer (or the PIT). */
static void show_rate(const char *name, uint64_t ticks, uint64_t ns, uint64_t nominal)
{
    uint64_t hz = ticks * 1000000000 / ns;
    printf("  %-14s %10lu Hz", name, hz);
    if (nominal) {
        uint64_t off = (hz > nominal ? hz - nominal : nominal - hz) * 10000 / nominal;
        printf(", %c%lu.%02lu %% off its nominal rate%s", hz < nominal ? '-' : '+', off / 100, off % 100,
               off > 500 ? "  (more than 5 %!)" : "");
    }
    printf("\n");
}

static volatile uint32_t ticks_seen;

static void count_tick(struct frame *frame)
{
    (void)frame;
    ticks_seen++;
    apic_eoi();
}

/* All clocks at about the same time. */
struct reading {
    uint64_t tsc;
    uint32_t pm, apic;
    uint16_t pit;
};

/* The quickest of several readings: it is the one that nothing came between. */
static struct reading read_clocks(void)
{
    struct reading best = {0};
    uint64_t best_span = ~0ull;
    for (unsigned i = 0; i < READINGS; i++) {
        struct reading now;
        uint64_t before = rdtsc();
        now.pm = pm_timer_port() ? pm_timer_read() : 0;
        now.pit = pit_read(2);
        now.apic = apic_read(APIC_TIMER_CURRENT);
        uint64_t span = rdtsc() - before;
        now.tsc = before + span / 2;
        if (span < best_span) {
            best_span = span;
            best = now;
        }
    }
    return best;
}

static void show_timers(void)
{
    section("Timers");
    line("TSC", "%10lu Hz by the %s", tsc_hz(), pm_timer_port() ? "PM timer" : "PIT");

    bool pm = pm_timer_port();
    struct reading first, last;
    uint64_t ns;
    do { /* until the PIT's 16 bits cannot have run over: a host may stop us for long */
        pit_channel2_start();
        apic_timer_start(APIC_TIMER_ONE_SHOT | APIC_LVT_MASKED, TIMER_VECTOR, 0xffffffff);
        first = read_clocks();
        wait_us(MEASURE_US);
        last = read_clocks();
        apic_timer_stop();
        ns = tsc_to_ns(last.tsc - first.tsc);
    } while (ns > PIT_RUN_NS);

    show_rate("PIT", (uint16_t)(first.pit - last.pit), ns, PIT_HZ);
    if (pm)
        show_rate("PM timer", (last.pm - first.pm) & pm_timer_mask(), ns, PM_TIMER_HZ);
    else
        line("PM timer", "none");
    show_rate("APIC timer", (uint64_t)(first.apic - last.apic) * 16, ns, 0);

    /* Five interrupts of 2 ms each, sleeping in between. */
    interrupt_set_handler(TIMER_VECTOR, count_tick);
    apic_timer_start(APIC_TIMER_PERIODIC, TIMER_VECTOR, (uint32_t)(apic_timer_frequency() / 500));
    for (;;) {
        interrupts_off();
        if (ticks_seen >= 5)
            break;
        halt_until_interrupt();
    }
    apic_timer_stop();
    interrupts_on();
    line("interrupts", "%u by the APIC timer, one every 2 ms", ticks_seen);

    struct date d = rtc_read();
    line("RTC", "%04u-%02u-%02u %02u:%02u:%02u", d.year, d.month, d.day, d.hours, d.minutes, d.seconds);
}

static void answer(void *argument)
{
    (void)argument;
    struct cpu *cpu = this_cpu();
    printf("  CPU %u answers: APIC id %u, TSC %lu ms\n", cpu->index, cpu->apic_id, tsc_to_ns(rdtsc()) / 1000000);
}

static void show_processors(void)
{
    section("Processors");
    unsigned count = smp_start();
    for (unsigned i = 0; i < count; i++)
        smp_run(i, answer, NULL);
    line("online", "%u of %u", count, smp_expected());
}

int main(int argc, char **argv)
{
    printf("\n"
           "  +----------------------------------------------+\n"
           "  |  Hello from inside the virtual machine.      |\n"
           "  |  This guest prints what it finds around it.  |\n"
           "  +----------------------------------------------+\n");
    printf("\n  %-14s", "arguments");
    for (int i = 1; i < argc; i++)
        printf(" %s", argv[i]);
    printf(argc > 1 ? "\n" : " none\n");

    show_processor();
    show_memory();
    show_acpi();
    show_interrupts();
    show_pci();
    show_timers();
    show_processors();

    const char *code = argument("exit", NULL);
    if (code) {
        printf("\nThat is all. Leaving with exit code %s. Good bye!\n", code);
        exit((int)parse_number(code));
    }
    printf("\nThat is all. Switching the machine off. Good bye!\n");
    power_off();
    printf("The machine is still on: ACPI power-off did not work.\n");
    return EXIT_FAIL;
}
