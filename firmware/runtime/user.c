/* SPDX-License-Identifier: Apache-2.0 */
/* Code in ring 3. */
#include "user.h"

#include <stddef.h>

#include "cpu.h"
#include "interrupts.h"
#include "paging.h"
#include "smp.h"

#define STACK_BYTES 4096

void user_mode_allow(void)
{
    uint64_t *level = (uint64_t *)(read_cr3() & PTE_ADDRESS);
    for (unsigned above = 0; above < 2; above++) {
        level[0] |= PTE_USER;
        level = (uint64_t *)(level[0] & PTE_ADDRESS);
    }
    for (unsigned i = 0; i < 512; i++)
        level[i] |= PTE_USER;
    tlb_flush();
}

static volatile uint64_t ended_cs, ended_vector;
static uint64_t kernel_stack;

static void end_call(struct frame *frame)
{
    ended_cs = frame->cs, ended_vector = frame->vector;
    frame->cs = SELECTOR_CODE64, frame->ss = SELECTOR_DATA;
    frame->rip = *(uint64_t *)frame->rsp; /* behind the call */
    frame->rsp = kernel_stack;
}

void user_mode_call(const void *entry, struct user_call *call)
{
    static uint8_t user_stack[STACK_BYTES] __attribute__((aligned(16)));
    static uint8_t handler_stack[STACK_BYTES] __attribute__((aligned(16)));
    uint64_t rax = call->rax, rcx = call->rcx, rdx = call->rdx, rsp0 = this_cpu()->tss.rsp[0];
    interrupt_set_handler(VECTOR_UD, end_call);
    interrupt_set_handler(VECTOR_GP, end_call);
    user_mode_allow();
    this_cpu()->tss.rsp[0] = (uint64_t)handler_stack + sizeof handler_stack; /* this one is in use */
    asm volatile("push %%rbx\n\t"
                 "push %%rbp\n\t"
                 "mov %%rsp, %[kernel]\n\t"
                 "push %[ss]\n\t"
                 "push %[stack]\n\t"
                 "push $0x3002\n\t" /* IOPL 3 */
                 "push %[cs]\n\t"
                 "push $1f\n\t"
                 "iretq\n"
                 "1: call *%[entry]\n\t" /* the exception comes back to the next instruction, in ring 0 */
                 "pop %%rbp\n\t"
                 "pop %%rbx"
                 : "+a"(rax), "+c"(rcx), "+d"(rdx), [kernel] "=m"(kernel_stack)
                 : [ss] "i"(SELECTOR_USER_DATA | 3), [cs] "i"(SELECTOR_USER_CODE64 | 3),
                   [stack] "r"(user_stack + sizeof user_stack), [entry] "r"(entry)
                 : "memory", "cc");
    this_cpu()->tss.rsp[0] = rsp0;
    interrupt_set_handler(VECTOR_UD, NULL);
    interrupt_set_handler(VECTOR_GP, NULL);
    *call = (struct user_call){rax, rcx, rdx, ended_cs, ended_vector};
}
