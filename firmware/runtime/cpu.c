/* SPDX-License-Identifier: Apache-2.0 */
/* Segments of one processor. SDM volume 3, 3.4.5 (descriptors), 8.7 (64-bit TSS). */
#include "cpu.h"

#include "interrupts.h"

#define IST_STACK_SIZE 4096

extern char boot_stack_top[];

struct cpu boot_cpu = {.self = &boot_cpu, .stack_top = (uint64_t)boot_stack_top};
/* #DF has a stack of its own: a bad RSP must still end in a message. One for all of a VTL, the first one to fail. */
static uint8_t double_fault_stacks[VTLS][IST_STACK_SIZE] __attribute__((aligned(16)));

_Static_assert(offsetof(struct cpu, stack_top) == 8, "start.S reads stack_top at offset 8");
_Static_assert(sizeof(struct tss) == 104, "64-bit TSS");

void cpu_fill_tables(struct cpu *cpu)
{
    uint64_t tss = (uint64_t)&cpu->tss;
    cpu->gdt[SELECTOR_CODE64 / 8] = 0x00af9b000000ffff;
    cpu->gdt[SELECTOR_DATA / 8] = 0x00cf93000000ffff;
    cpu->gdt[SELECTOR_CODE32 / 8] = 0x00cf9b000000ffff;
    cpu->gdt[SELECTOR_USER_DATA / 8] = 0x00cff3000000ffff;
    cpu->gdt[SELECTOR_USER_CODE64 / 8] = 0x00affb000000ffff;
    /* Type 9: available 64-bit TSS, present. */
    cpu->gdt[SELECTOR_TSS / 8] = (sizeof(struct tss) - 1) | (tss & 0xffffff) << 16 | 0x89ull << 40 |
                                 (tss >> 24 & 0xff) << 56;
    cpu->gdt[SELECTOR_TSS / 8 + 1] = tss >> 32;
    cpu->tss.rsp[0] = cpu->stack_top;
    cpu->tss.ist[0] = (uint64_t)double_fault_stacks[cpu->vtl] + IST_STACK_SIZE;
    cpu->tss.io_bitmap_offset = sizeof(struct tss);
}

void cpu_init(struct cpu *cpu)
{
    cpu_fill_tables(cpu);
    struct table_pointer gdt = {sizeof(cpu->gdt) - 1, (uint64_t)cpu->gdt};
    asm volatile("lgdt %0" : : "m"(gdt));
    asm volatile("ltr %w0" : : "r"(SELECTOR_TSS));
    wrmsr(MSR_GS_BASE, (uint64_t)cpu);
    if (cpuid(0x80000000, 0).eax >= 0x80000001 && cpuid(0x80000001, 0).edx >> 20 & 1)
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NX);
    idt_load();
}
