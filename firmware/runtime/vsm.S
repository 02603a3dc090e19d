/* SPDX-License-Identifier: Apache-2.0 */
/* VTL1's outermost loop. The general registers but RSP are shared by the VTLs: each time VTL1 runs they are VTL0's, which
 * has to find them again. The stack then is struct vtl_frame; the offsets are those of struct cpu.
 */

#define VTL_RETURN_ENTRY 16
#define VTL_RETURN_CONTROL 24

    .text
    .globl vtl1_loop
vtl1_loop:
    cli
    pushq   %rax
    pushq   %rcx
    pushq   %rdx
    pushq   %rbx
    pushq   %rbp
    pushq   %rsi
    pushq   %rdi
    pushq   %r8
    pushq   %r9
    pushq   %r10
    pushq   %r11
    pushq   %r12
    pushq   %r13
    pushq   %r14
    pushq   %r15
    movq    %rsp, %rdi
    call    vtl1_entered
    popq    %r15
    popq    %r14
    popq    %r13
    popq    %r12
    popq    %r11
    popq    %r10
    popq    %r9
    popq    %r8
    popq    %rdi
    popq    %rsi
    popq    %rbp
    popq    %rbx
    popq    %rdx
    /* RAX and RCX are the return's own; it loads VTL0's from the VP assist page. */
    addq    $16, %rsp
    movq    %gs:VTL_RETURN_CONTROL, %rcx
    cmpb    $0, vtl1_waits_with_interrupts_on
    je      1f
    sti                                     /* what makes VTL1 enter then is handled at once */
1:  call    *%gs:VTL_RETURN_ENTRY
    jmp     vtl1_loop                       /* here at the next entry */

    .section .note.GNU-stack, "", @progbits
