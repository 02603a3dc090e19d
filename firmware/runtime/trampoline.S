/* SPDX-License-Identifier: Apache-2.0 */
/* The first instructions of the other processors, in real mode at the page that STARTUP names.
 * smp.c copies them below 1 MiB; all addresses are relative to that page (CS = page >> 4, IP = 0).
 */

#define CODE32 0x18

    .section .rodata
    .code16
    .globl trampoline, trampoline_end
trampoline:
    cli
    movw    %cs, %ax
    movw    %ax, %ds
    lgdtl   trampoline_gdt - trampoline
    movl    %cr0, %eax
    orl     $1, %eax                        /* PE */
    movl    %eax, %cr0
    ljmpl   $CODE32, $ap_start32
    .balign 4
trampoline_gdt:
    .word   4 * 8 - 1                       /* start.S: boot_gdt */
    .long   boot_gdt
trampoline_end:

    .section .note.GNU-stack, "", @progbits
