/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI: the tables are whole, agree with each other and with the board. */
#include "runtime.h"

#define SCI_ENABLE 1

struct facs {
    char signature[4];
    uint32_t length;
};

static uint32_t type_at(uint64_t address)
{
    for (unsigned i = 0; i < memory_range_count(); i++) {
        const struct memory_range *range = memory_range(i);
        if (address >= range->base && address - range->base < range->size)
            return range->type;
    }
    return 0;
}

static void check_table(const struct acpi_header *table)
{
    uint64_t address = (uint64_t)table;
    report(table->length >= sizeof(*table) && acpi_checksum_ok(table, table->length),
           "%.4s at 0x%lx: checksum over %u bytes", table->signature, address, table->length);
    report(type_at(address) != MEMORY_RAM, "%.4s lies outside free RAM", table->signature);
}

static void check_rsdp(const struct acpi_rsdp *rsdp)
{
    report((uint64_t)rsdp % 16 == 0, "RSDP at 0x%lx, revision %u", (uint64_t)rsdp, rsdp->revision);
    if (rsdp->revision >= 2)
        report(rsdp->length == sizeof(*rsdp) && acpi_checksum_ok(rsdp, rsdp->length), "RSDP: extended checksum");
    if (rsdp->revision >= 2 && rsdp->xsdt)
        check_table((const void *)rsdp->xsdt);
    if (rsdp->rsdt)
        check_table((const void *)(uint64_t)rsdp->rsdt);
}

static void check_fadt(void)
{
    const struct acpi_fadt *fadt = acpi_fadt();
    uint8_t type_a = 0, type_b = 0;
    report_prefix_push("FADT");
    if (!fadt) {
        report(false, "exists");
        report_prefix_pop();
        return;
    }
    report(fadt->pm_timer && fadt->pm_timer_length == 4, "PM timer at port 0x%x", fadt->pm_timer);
    if (fadt->pm_timer) {
        uint32_t first = pm_timer_read();
        report(WAIT_FOR(pm_timer_read() != first, 100), "the PM timer counts");
    }
    report(fadt->pm1a_control && fadt->pm1_control_length >= 2, "PM1a control at port 0x%x", fadt->pm1a_control);
    report(fadt->pm1a_event && fadt->pm1_event_length >= 4, "PM1a events at port 0x%x", fadt->pm1a_event);
    if (fadt->smi_command && fadt->acpi_enable)
        outb((uint16_t)fadt->smi_command, fadt->acpi_enable);
    report(WAIT_FOR(inw((uint16_t)fadt->pm1a_control) & SCI_ENABLE, 1000), "ACPI mode is on (SCI_EN)");
    report(fadt->sci_interrupt > 0 && fadt->sci_interrupt < 24, "SCI is interrupt %u", fadt->sci_interrupt);
    const struct acpi_header *dsdt = acpi_dsdt();
    report(dsdt && !memcmp(dsdt->signature, "DSDT", 4), "points to the DSDT");
    if (dsdt)
        check_table(dsdt);
    const struct facs *facs = (const void *)(uint64_t)fadt->facs;
    if (facs)
        report((uint64_t)facs % 64 == 0 && !memcmp(facs->signature, "FACS", 4) && facs->length >= 64,
               "FACS at 0x%lx", (uint64_t)facs);
    else
        report_skip("no FACS");
    report(acpi_s5(&type_a, &type_b), "the DSDT has _S5: types %u, %u", type_a, type_b);
    if (fadt->header.length > 128 && fadt->flags & FADT_FLAG_RESET_REGISTER)
        report(fadt->reset_register.space == 1 && fadt->reset_register.address, "reset: 0x%x to port 0x%lx",
               fadt->reset_value, fadt->reset_register.address);
    else
        report_skip("no reset register");
    report_prefix_pop();
}

static void check_madt(void)
{
    const struct acpi_madt *madt = acpi_madt();
    report_prefix_push("MADT");
    if (!madt) {
        report(false, "exists");
        report_prefix_pop();
        return;
    }
    report(madt->apic_address == (rdmsr(MSR_APIC_BASE) & 0xfffff000), "local APIC at 0x%x", madt->apic_address);
    unsigned count = madt_cpu_count();
    if (fwcfg_present()) {
        uint16_t told = 0;
        fwcfg_read(FWCFG_CPUS, &told, sizeof(told));
        report(told == count, "%u processors, fw_cfg says %u", count, told);
    }
    const struct madt_lapic *lapic = madt_next(MADT_LAPIC, NULL);
    report(lapic && lapic->apic_id == apic_id(), "the first processor is this one");
    const struct madt_ioapic *ioapic = madt_next(MADT_IOAPIC, NULL);
    report(ioapic && ioapic->gsi_base == 0, "I/O APIC at 0x%x from GSI 0", ioapic ? ioapic->address : 0);
    if (ioapic)
        report((ioapic_read(0) >> 24 & 15) == ioapic->id && ioapic_pins() >= 24, "I/O APIC id %u, %u pins", ioapic->id,
               ioapic_pins());
    report(ioapic_pin_of_irq(0) == 2, "IRQ 0 is on pin %u", ioapic_pin_of_irq(0));
    const uint8_t *entry = madt->entries, *end = (const uint8_t *)madt + madt->header.length;
    while (entry + 2 <= end && entry[1] >= 2)
        entry += entry[1];
    report(entry == end, "the entries fill the table");
    report_prefix_pop();
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    const struct acpi_rsdp *rsdp = acpi_rsdp();
    if (!rsdp) {
        report(false, "an RSDP between 0xe0000 and 0xfffff");
        return report_summary();
    }
    check_rsdp(rsdp);
    const struct acpi_header *table;
    for (unsigned i = 0; (table = acpi_table_at(i)); i++)
        check_table(table);
    check_fadt();
    check_madt();
    return report_summary();
}
