/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI tables. ACPI specification 6.5, chapters 5 and 16. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct acpi_rsdp {
    char signature[8];
    uint8_t checksum;
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum;
    uint8_t reserved[3];
} __attribute__((packed));

struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem_id[6];
    char oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
} __attribute__((packed));

struct acpi_address {
    uint8_t space, bit_width, bit_offset, access_size;
    uint64_t address;
} __attribute__((packed));

struct acpi_fadt {
    struct acpi_header header;
    uint32_t facs, dsdt;
    uint8_t reserved0, preferred_profile;
    uint16_t sci_interrupt;
    uint32_t smi_command;
    uint8_t acpi_enable, acpi_disable, s4bios_request, pstate_control;
    uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
    uint8_t pm1_event_length, pm1_control_length, pm2_control_length, pm_timer_length;
    uint8_t gpe0_length, gpe1_length, gpe1_base, cstate_control;
    uint16_t c2_latency, c3_latency, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
    uint16_t boot_flags;
    uint8_t reserved1;
    uint32_t flags;
    struct acpi_address reset_register;
    uint8_t reset_value;
    uint16_t arm_boot_flags;
    uint8_t minor_version;
    uint64_t x_facs, x_dsdt;
} __attribute__((packed));

#define FADT_FLAG_TIMER_32_BIT (1u << 8)
#define FADT_FLAG_RESET_REGISTER (1u << 10)

struct acpi_madt {
    struct acpi_header header;
    uint32_t apic_address;
    uint32_t flags;
    uint8_t entries[];
} __attribute__((packed));

#define MADT_LAPIC 0
#define MADT_IOAPIC 1
#define MADT_OVERRIDE 2
#define MADT_X2APIC 9

struct madt_lapic {
    uint8_t type, length, processor_uid, apic_id;
    uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
    uint8_t type, length, id, reserved;
    uint32_t address, gsi_base;
} __attribute__((packed));

struct madt_override {
    uint8_t type, length, bus, source;
    uint32_t gsi;
    uint16_t flags;
} __attribute__((packed));

struct madt_x2apic {
    uint8_t type, length;
    uint16_t reserved;
    uint32_t apic_id, flags, processor_uid;
} __attribute__((packed));

/* NULL when there is no ACPI. */
const struct acpi_rsdp *acpi_rsdp(void);
/* The n-th table of XSDT (or RSDT), NULL behind the last one; DSDT and FACS hang off the FADT. */
const struct acpi_header *acpi_table_at(unsigned index);
const void *acpi_table(const char *signature);
const struct acpi_fadt *acpi_fadt(void);
const struct acpi_madt *acpi_madt(void);
const struct acpi_header *acpi_dsdt(void);
/* Do the bytes sum up to 0? */
bool acpi_checksum_ok(const void *table, uint32_t length);

/* The next entry of `type` behind `previous` (NULL: the first), NULL when there is none. */
const void *madt_next(uint8_t type, const void *previous);
/* Processors the MADT calls enabled. */
unsigned madt_cpu_count(void);

/* SLP_TYP of \_S5 for PM1a and PM1b; false when the DSDT has no such package. */
bool acpi_s5(uint8_t *type_a, uint8_t *type_b);
