/* SPDX-License-Identifier: Apache-2.0 */
#include "acpi.h"

#include <stddef.h>

#include "string.h"

#define SEARCH_START 0xe0000ull
#define SEARCH_END 0x100000ull
#define RSDP_SIZE_1 20 /* revision 0: up to and with the RSDT's address */

bool acpi_checksum_ok(const void *table, uint32_t length)
{
    uint8_t sum = 0;
    for (const uint8_t *byte = table; length; length--)
        sum += *byte++;
    return sum == 0;
}

const struct acpi_rsdp *acpi_rsdp(void)
{
    static const struct acpi_rsdp *found;
    static bool searched;
    for (uint64_t address = SEARCH_START; !searched && address < SEARCH_END; address += 16) {
        const struct acpi_rsdp *rsdp = (const struct acpi_rsdp *)address;
        if (!memcmp(rsdp->signature, "RSD PTR ", 8) && acpi_checksum_ok(rsdp, RSDP_SIZE_1)) {
            found = rsdp;
            break;
        }
    }
    searched = true;
    return found;
}

const struct acpi_header *acpi_table_at(unsigned index)
{
    const struct acpi_rsdp *rsdp = acpi_rsdp();
    if (!rsdp)
        return NULL;
    bool wide = rsdp->revision >= 2 && rsdp->xsdt;
    const struct acpi_header *root = (const void *)(wide ? rsdp->xsdt : rsdp->rsdt);
    unsigned size = wide ? 8 : 4;
    if (index >= (root->length - sizeof(*root)) / size)
        return NULL;
    uint64_t address = 0;
    memcpy(&address, (const char *)(root + 1) + index * size, size);
    return (const void *)address;
}

const void *acpi_table(const char *signature)
{
    const struct acpi_header *table;
    for (unsigned i = 0; (table = acpi_table_at(i)); i++)
        if (!memcmp(table->signature, signature, 4))
            return table;
    return NULL;
}

const struct acpi_fadt *acpi_fadt(void)
{
    static const struct acpi_fadt *fadt;
    if (!fadt)
        fadt = acpi_table("FACP");
    return fadt;
}

const struct acpi_madt *acpi_madt(void)
{
    static const struct acpi_madt *madt;
    if (!madt)
        madt = acpi_table("APIC");
    return madt;
}

/* Is a field of the FADT, which grew with each revision, within its length? */
#define FADT_HAS(fadt, field) \
    ((fadt)->header.length >= offsetof(struct acpi_fadt, field) + sizeof((fadt)->field))

const struct acpi_header *acpi_dsdt(void)
{
    const struct acpi_fadt *fadt = acpi_fadt();
    if (!fadt)
        return NULL;
    if (FADT_HAS(fadt, x_dsdt) && fadt->x_dsdt)
        return (const void *)fadt->x_dsdt;
    return (const void *)(uint64_t)fadt->dsdt;
}

const void *madt_next(uint8_t type, const void *previous)
{
    const struct acpi_madt *madt = acpi_madt();
    if (!madt)
        return NULL;
    const uint8_t *end = (const uint8_t *)madt + madt->header.length;
    const uint8_t *entry = previous ? (const uint8_t *)previous + ((const uint8_t *)previous)[1] : madt->entries;
    for (; entry + 2 <= end && entry[1] >= 2; entry += entry[1])
        if (entry[0] == type)
            return entry;
    return NULL;
}

unsigned madt_cpu_count(void)
{
    unsigned count = 0;
    const struct madt_lapic *lapic = NULL;
    const struct madt_x2apic *x2apic = NULL;
    while ((lapic = madt_next(MADT_LAPIC, lapic)))
        count += lapic->flags & 1;
    while ((x2apic = madt_next(MADT_X2APIC, x2apic)))
        count += x2apic->flags & 1;
    return count;
}

/* One AML integer (ACPI specification 20.2.3); moves on behind it. */
static uint8_t aml_byte(const uint8_t **aml)
{
    switch (*(*aml)++) {
    case 0x01: /* OneOp */
        return 1;
    case 0x0a: /* BytePrefix */
        return *(*aml)++;
    case 0x0b: /* WordPrefix */
        *aml += 2;
        return (*aml)[-2];
    default: /* ZeroOp; anything else is no sleep type */
        return 0;
    }
}

bool acpi_s5(uint8_t *type_a, uint8_t *type_b)
{
    const struct acpi_header *dsdt = acpi_dsdt();
    if (!dsdt)
        return false;
    const uint8_t *end = (const uint8_t *)dsdt + dsdt->length;
    for (const uint8_t *aml = (const uint8_t *)(dsdt + 1); aml + 8 < end; aml++) {
        /* NameOp "_S5_" PackageOp PkgLength NumElements; the name may carry a root prefix. */
        if (memcmp(aml, "_S5_", 4) || aml[4] != 0x12 || (aml[-1] != 0x08 && aml[-1] != '\\'))
            continue;
        const uint8_t *element = aml + 5;
        element += 1 + (*element >> 6); /* PkgLength: bits 7:6 count the bytes that follow */
        if (*element++ < 1)
            return false;
        *type_a = aml_byte(&element);
        *type_b = aml_byte(&element);
        return true;
    }
    return false;
}
