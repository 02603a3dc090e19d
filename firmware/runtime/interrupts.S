/* SPDX-License-Identifier: Apache-2.0 */
/* 256 entry points of 16 bytes each, and the way to C and back. The stack then is struct frame. */

/* Exceptions that push an error code: #DF #TS #NP #SS #GP #PF #AC #CP #VC #SX. */
#define HAS_ERROR_CODE(vector) \
    ((vector) == 8 || ((vector) >= 10 && (vector) <= 14) || (vector) == 17 || (vector) == 21 || \
     (vector) == 29 || (vector) == 30)

    .text
    .balign 16
    .globl interrupt_entries
interrupt_entries:
    .set vector, 0
    .rept 256
    .balign 16
    .if !HAS_ERROR_CODE(vector)
    pushq   $0
    .endif
    pushq   $vector
    jmp     interrupt_common
    .set vector, vector + 1
    .endr

interrupt_common:
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
    cld
    movq    %rsp, %rdi
    call    interrupt_dispatch
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
    popq    %rcx
    popq    %rax
    addq    $16, %rsp                       /* vector, error code */
    iretq

    .section .note.GNU-stack, "", @progbits
