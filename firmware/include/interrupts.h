/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions and interrupts. */
#pragma once

#include <stdint.h>

#include "cpu.h"

#define VECTOR_DE 0
#define VECTOR_DB 1
#define VECTOR_NMI 2
#define VECTOR_BP 3
#define VECTOR_UD 6
#define VECTOR_DF 8
#define VECTOR_GP 13
#define VECTOR_PF 14

#define VECTOR_PIC 0x20 /* 16 vectors, where pic_init puts the two PICs */
#define VECTOR_CALL 0xf0 /* smp.c wakes a processor with it */
#define VECTOR_SPURIOUS 0xff

/* The stack after an interrupt; interrupts.S builds it. Changes take effect on return. */
struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error_code; /* error_code is 0 where the processor pushes none */
    uint64_t rip, cs, rflags, rsp, ss;
};

typedef void (*interrupt_handler)(struct frame *frame);

/* Builds the IDT; every vector without a handler ends the guest with its registers and code 63. */
void interrupts_init(void);

/* Runs `handler` with interrupts off; it sends its own EOI. NULL: unexpected again. For the VTL that runs, or any. */
void interrupt_set_handler(uint8_t vector, interrupt_handler handler);
void interrupt_set_handler_of(unsigned vtl, uint8_t vector, interrupt_handler handler);

/* Turns interrupts on until one has come, and off again; gives up soon. A host that emulates instructions may let a few
 * pass between STI and the interrupt. */
void interrupts_take(void);

/* Prints the registers of `frame`. */
void frame_print(const struct frame *frame);

/* Each VTL has an IDT of its own; this loads that of the one that runs. */
void idt_load(void);
struct table_pointer idt_pointer(unsigned vtl);
