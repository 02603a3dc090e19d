/* SPDX-License-Identifier: Apache-2.0 */
/* From the loader's 32-bit protected mode to 64-bit C.
 *
 * The loader jumps to _start with EAX = 0x2badb002, EBX = multiboot information, paging off, flat segments,
 * interrupts off, ESP undefined (Multiboot specification 0.6.96, section 3.2). It has zeroed .bss.
 */

#define MULTIBOOT_HEADER_MAGIC  0x1badb002
#define MULTIBOOT_MEMORY_INFO   0x00000002  /* header flag: fill in the memory map */

#define CODE64  0x08
#define DATA    0x10
#define CODE32  0x18

#define CR0_PE  0x00000001
#define CR0_ENABLE 0x80010033               /* PG, WP, NE, ET, MP, PE */
#define CR4_PAE 0x00000020
#define MSR_EFER 0xc0000080
#define EFER_LME 0x00000100

#define ENTRY_FLAGS 0x003                   /* present, writable */
#define LARGE_PAGE  0x083                   /* and 2 MiB */
#define UNCACHED    0x018                   /* PWT, PCD: device registers */

    .section .multiboot, "a", @progbits
    .balign 4
    .long MULTIBOOT_HEADER_MAGIC
    .long MULTIBOOT_MEMORY_INFO
    .long -(MULTIBOOT_HEADER_MAGIC + MULTIBOOT_MEMORY_INFO)

    .section .start, "ax", @progbits
    .code32
    .globl _start
_start:
    /* struct entry_state, for guests that check the loader's work. MOV changes no flag. */
    movl    %eax, entry_state
    movl    %ebx, entry_state + 4
    movl    %esp, entry_state + 8
    movl    $boot_stack_top, %esp
    pushfl
    popl    entry_state + 12
    movl    %cr0, %eax
    movl    %eax, entry_state + 16
    movl    %cr3, %eax
    movl    %eax, entry_state + 20
    movl    %cr4, %eax
    movl    %eax, entry_state + 24
    movl    %cs, %eax
    movl    %eax, entry_state + 28
    movl    %ds, %eax
    movl    %eax, entry_state + 32
    movl    %es, %eax
    movl    %eax, entry_state + 36
    movl    %fs, %eax
    movl    %eax, entry_state + 40
    movl    %gs, %eax
    movl    %eax, entry_state + 44
    movl    %ss, %eax
    movl    %eax, entry_state + 48

    cld
    lgdt    boot_gdt_pointer
    ljmp    $CODE32, $1f
1:  call    enable_long_mode
    ljmp    $CODE64, $boot64

/* Where trampoline.S sends the other processors, in protected mode. */
    .globl ap_start32
ap_start32:
    movl    $DATA, %eax
    movl    %eax, %ds
    movl    %eax, %ss
    /* All come at once: each takes a number, and with it a struct cpu and a stack, both below 4 GiB. */
    movl    $1, %edi
    lock xaddl %edi, ap_arrivals
    cmpl    ap_limit, %edi
    jae     park
    movl    ap_cpus(, %edi, 8), %edi
    movl    8(%edi), %esp                   /* stack_top */
    call    enable_long_mode
    ljmp    $CODE64, $ap64

/* More processors than we were told of: they stay here. */
park:
    cli
    hlt
    jmp     park

enable_long_mode:
    movl    $DATA, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    xorl    %eax, %eax
    movl    %eax, %fs
    movl    %eax, %gs
    movl    $CR4_PAE, %eax
    movl    %eax, %cr4
    movl    $page_table_root, %eax
    movl    %eax, %cr3
    movl    $MSR_EFER, %ecx
    rdmsr
    orl     $EFER_LME, %eax
    wrmsr
    movl    $CR0_ENABLE, %eax
    movl    %eax, %cr0
    ret

    .code64
boot64:
    movl    $boot_stack_top, %esp
    xorl    %ebp, %ebp
    call    runtime_main
2:  cli
    hlt
    jmp     2b

ap64:
    movl    %edi, %edi                      /* upper halves are undefined after the switch of modes */
    movl    %esp, %esp
    xorl    %ebp, %ebp
    call    ap_main
3:  cli
    hlt
    jmp     3b

    .section .rodata
    .balign 8
    .globl boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff                /* 0x08: 64-bit code */
    .quad 0x00cf93000000ffff                /* 0x10: data */
    .quad 0x00cf9b000000ffff                /* 0x18: 32-bit code */
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .long boot_gdt

/* 0..4 GiB mapped to itself. Filled in here, not at run time: a guest's first instructions may be slow. */
    .section .data.page_tables, "aw", @progbits
    .balign 4096
    .globl page_table_root
page_table_root:
    .quad page_table_gib + ENTRY_FLAGS
    .fill 511, 8, 0
page_table_gib:
    .quad page_table_mib + ENTRY_FLAGS
    .quad page_table_mib + 0x1000 + ENTRY_FLAGS
    .quad page_table_mib + 0x2000 + ENTRY_FLAGS
    .quad page_table_mib + 0x3000 + ENTRY_FLAGS
    .fill 508, 8, 0
page_table_mib:
    .set address, 0
    .rept 4 * 512
    .if address >= 0xfe000000
    .quad address + LARGE_PAGE + UNCACHED
    .else
    .quad address + LARGE_PAGE
    .endif
    .set address, address + 0x200000
    .endr

    .section .bss
    .balign 16
    .fill 32768, 1, 0
    .globl boot_stack_top
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
