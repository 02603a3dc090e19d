/* SPDX-License-Identifier: Apache-2.0 */
/* The processor: CPUID, MSRs, control registers, the per-CPU area. SDM volume 3. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SELECTOR_CODE64 0x08
#define SELECTOR_DATA 0x10
#define SELECTOR_CODE32 0x18
#define SELECTOR_USER_DATA 0x20
#define SELECTOR_USER_CODE64 0x28
#define SELECTOR_TSS 0x30

#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define RFLAGS_IF (1u << 9)
#define VTLS 3 /* that a guest may use */

#define MSR_APIC_BASE 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC 0x800
#define MSR_PAT 0x277
#define MSR_EFER 0xc0000080
#define MSR_GS_BASE 0xc0000101
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NX (1u << 11)

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
    return r;
}

static inline bool cpu_has_x2apic(void)
{
    return cpuid(1, 0).ecx >> 21 & 1;
}

static inline bool cpu_has_tsc_deadline(void)
{
    return cpuid(1, 0).ecx >> 24 & 1;
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
    asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

#define CONTROL_REGISTER(name)                                        \
    static inline uint64_t read_##name(void)                          \
    {                                                                 \
        uint64_t value;                                               \
        asm volatile("mov %%" #name ", %0" : "=r"(value) : : "memory"); \
        return value;                                                 \
    }                                                                 \
    static inline void write_##name(uint64_t value)                   \
    {                                                                 \
        asm volatile("mov %0, %%" #name : : "r"(value) : "memory");     \
    }

CONTROL_REGISTER(cr0)
CONTROL_REGISTER(cr3)
CONTROL_REGISTER(cr4)
CONTROL_REGISTER(cr8)

static inline uint64_t read_cr2(void)
{
    uint64_t value;
    asm volatile("mov %%cr2, %0" : "=r"(value));
    return value;
}

static inline uint64_t read_rflags(void)
{
    uint64_t value;
    asm volatile("pushfq; popq %0" : "=r"(value) : : "memory");
    return value;
}

static inline void interrupts_on(void)
{
    asm volatile("sti" : : : "memory");
}

static inline void interrupts_off(void)
{
    asm volatile("cli" : : : "memory");
}

/* STI delays interrupts by one instruction, so none is lost between it and HLT. */
static inline void halt_until_interrupt(void)
{
    asm volatile("sti; hlt" : : : "memory");
}

static inline void halt_for_ever(void) __attribute__((noreturn));
static inline void halt_for_ever(void)
{
    for (;;)
        asm volatile("cli; hlt" : : : "memory");
}

struct table_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t io_bitmap_offset;
} __attribute__((packed));

/* What the last instruction under a fixup (fault.h) met. */
struct fault {
    uint64_t error_code;
    uint64_t address; /* CR2 of a page fault */
    uint32_t vector;
    bool happened;
};

typedef void (*cpu_function)(void *argument);

/* One processor, as one VTL has it (vsm.h). GS base points to it. start.S knows the second offset, vsm.S the next two. */
struct cpu {
    struct cpu *self;
    uint64_t stack_top;
    uint64_t vtl_return_entry, vtl_return_control;
    uint32_t vtl; /* 0; 1 and 2 in the structs that these have of the same processor */
    uint32_t index;
    uint32_t apic_id;
    bool online;
    bool x2apic; /* the mode of its APIC */
    volatile uint64_t interrupts; /* and exceptions taken */
    cpu_function function; /* what smp.c asked this processor to run, or NULL */
    void *argument;
    struct fault fault;
    uint64_t gdt[8];
    struct tss tss;
};

static inline struct cpu *this_cpu(void)
{
    struct cpu *cpu;
    asm volatile("movq %%gs:0, %0" : "=r"(cpu));
    return cpu;
}

/* Fills the GDT and TSS of `cpu`, with its VTL's stack for #DF. */
void cpu_fill_tables(struct cpu *cpu);
/* Does that, and loads GDT, TSS, IDT and GS base of the running processor. */
void cpu_init(struct cpu *cpu);

extern struct cpu boot_cpu;
