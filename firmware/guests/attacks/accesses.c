/* SPDX-License-Identifier: Apache-2.0 */
/* Single accesses, from ring 0 and ring 3: of every kind, to what VTL0 may do nothing with, may not write, may not execute. */
#include "attacks.h"

#define CR4_OSXSAVE (1u << 18)

A(load, "movq (%rdi), %rax; movq %rax, (%rsi)");
A(load_byte, "movzbl (%rdi), %eax; movq %rax, (%rsi)");
A(store, "movq %rsi, (%rdi)");
A(store_constant, "movl $0x41414141, (%rdi)");
A(add, "addq %rsi, (%rdi)");
A(compare, "cmpq %rsi, (%rdi)");
A(xadd, "lock; xaddq %rsi, (%rdi)");
A(cmpxchg, "xorl %eax, %eax; lock; cmpxchgq %rsi, (%rdi); movq %rax, (%rsi)");
A(cmpxchg16, "xorl %eax, %eax; xorl %edx, %edx; lock; cmpxchg16b (%rdi)");
A(exchange, "movq %rsi, %rax; xchgq %rax, (%rdi); movq %rax, (%rsi)");
A(push_from, "pushq (%rdi); popq %rax; movq %rax, (%rsi)");
A(pop_to, "pushq $0x41; popq (%rdi)");
A(push_on, "movq %rsp, %r11; leaq 8(%rdi), %rsp; pushq $0x41; movq %r11, %rsp");
A(pop_off, "movq %rsp, %r11; movq %rdi, %rsp; popq %rax; movq %r11, %rsp; movq %rax, (%rsi)");
A(call_on, "movq %rsp, %r11; leaq 8(%rdi), %rsp; call 1f; 1: movq %r11, %rsp");
A(return_off, "movq %rdi, %rsp");
A(iret_off, "movq %rdi, %rsp; iretq");
A(leave_off, "movq %rsp, %r11; movq %rdi, %rbp; leave; movq %r11, %rsp; movq %rbp, (%rsi)");
A(jump_through, "jmp *(%rdi)");
A(call_through, "call *(%rdi)");
A(movs_from, "xchgq %rdi, %rsi; movsq");
A(movs_to, "movsq");
A(stos_to, "xorl %eax, %eax; stosq");
A(lods_from, "movq %rsi, %rdx; movq %rdi, %rsi; lodsq; movq %rax, (%rdx)");
A(scas, "xorl %eax, %eax; scasq");
A(cmps, "cmpsq");
A(rep_movs_from, "xchgq %rdi, %rsi; movl $64, %ecx; rep movsb");
A(rep_movs_to, "movl $8, %ecx; rep movsq");
A(rep_stos_to, "movl $0x11, %eax; movl $64, %ecx; rep stosb");
A(rep_cmps, "movl $64, %ecx; repe cmpsb");
A(rep_scas, "xorl %eax, %eax; movl $64, %ecx; repne scasb");
A(rep_lods, "movq %rdi, %rsi; movl $8, %ecx; rep lodsq");
A(bit_test, "btq $3, (%rdi)");
A(bit_test_far, "movl $32768, %eax; btq %rax, -4096(%rdi)"); /* the bit's number leads into the page */
A(bit_set, "lock; btsq $3, (%rdi)");
A(vector_load, "movdqu (%rdi), %xmm0; movdqu %xmm0, (%rsi)");
A(vector_store, "movdqu (%rsi), %xmm0; movdqu %xmm0, (%rdi)");
A(aligned_load, "movaps (%rdi), %xmm0; movaps %xmm0, (%rsi)");
A(aligned_store, "movaps (%rsi), %xmm0; movaps %xmm0, (%rdi)");
A(nontemporal_store, "movnti %rsi, (%rdi)");
A(save_fpu, "fxsave (%rdi)");
A(restore_fpu, "fxrstor (%rdi)");
A(x87_load, "fildll (%rdi); fistpll (%rsi)");
A(x87_store, "fistpll (%rdi)"); /* an empty stack gives the indefinite integer */
A(avx_load, "vmovdqu (%rdi), %ymm0; vmovdqu %ymm0, (%rsi); vzeroupper");
A(avx_store, "vmovdqu (%rsi), %ymm0; vmovdqu %ymm0, (%rdi); vzeroupper");
A(store_gdtr, "sgdt (%rdi)");
A(store_idtr, "sidt (%rdi)");
A(load_idtr, "lidt (%rdi)");
A(ins_to, "movl $0x511, %edx; insb");
A(rep_ins_to, "movl $0x511, %edx; movl $64, %ecx; rep insb");
A(outs_from, "movq %rdi, %rsi; movl $0x80, %edx; outsb");
A(call_into, "call *%rdi");
A(jump_into, "jmp *%rdi");
A(return_into, "pushq %rdi");
A(iret_into, "movq %rsp, %r11; pushq $0x10; pushq %r11; pushfq; pushq $8; pushq %rdi; iretq");

#define ANYWHERE 0x7fff
#define AVX 1

struct access_row {
    const char *name;
    attempted function;
    uint8_t place;
    uint8_t wanted;      /* which access types VTL1 may be told */
    int16_t target, gpa; /* from the page's start; GPA of the first byte refused */
    uint8_t needs;
};

static const struct access_row access_rows[] = {
    {"MOV load", load, SECRETS, R, 0x80, 0x80, 0},
    {"MOV load of the last byte", load_byte, SECRETS, R, 0xfff, 0xfff, 0},
    {"MOV store", store, SECRETS, W, 0x88, 0x88, 0},
    {"MOV store of a constant", store_constant, SECRETS, W, 0xffc, 0xffc, 0},
    {"ADD to memory", add, SECRETS, RW, 0x90, 0x90, 0},
    {"CMP with memory", compare, SECRETS, R, 0x98, 0x98, 0},
    {"LOCK XADD", xadd, SECRETS, W, 0xa0, 0xa0, 0},
    {"LOCK CMPXCHG", cmpxchg, SECRETS, W, 0xa8, 0xa8, 0},
    {"LOCK CMPXCHG16B", cmpxchg16, SECRETS, W, 0xb0, 0xb0, 0},
    {"XCHG", exchange, SECRETS, W, 0xc0, 0xc0, 0},
    {"LOCK BTS", bit_set, SECRETS, W, 0xc8, 0xc8, 0},
    {"BT", bit_test, SECRETS, R, 0xd0, 0xd0, 0},
    {"BT of a bit far away", bit_test_far, SECRETS, R, 0xd8, 0xd8, 0},
    {"PUSH of memory", push_from, SECRETS, R, 0xe0, 0xe0, 0},
    {"POP to memory", pop_to, SECRETS, W, 0xe8, 0xe8, 0},
    {"PUSH, the stack there", push_on, SECRETS, W, 0xf0, 0xf0, 0},
    {"POP, the stack there", pop_off, SECRETS, R, 0xf8, 0xf8, 0},
    {"CALL, the stack there", call_on, SECRETS, W, 0x100, 0x100, 0},
    {"RET, the stack there", return_off, SECRETS, R, 0x108, 0x108, 0},
    {"IRET, the stack there", iret_off, SECRETS, R, 0x110, ANYWHERE, 0},
    {"LEAVE, the frame there", leave_off, SECRETS, R, 0x118, 0x118, 0},
    {"JMP through memory", jump_through, SECRETS, R, 0x120, 0x120, 0},
    {"CALL through memory", call_through, SECRETS, R, 0x128, 0x128, 0},
    {"MOVS from", movs_from, SECRETS, R, 0x130, 0x130, 0},
    {"MOVS to", movs_to, SECRETS, W, 0x138, 0x138, 0},
    {"STOS", stos_to, SECRETS, W, 0x140, 0x140, 0},
    {"LODS", lods_from, SECRETS, R, 0x148, 0x148, 0},
    {"SCAS", scas, SECRETS, R, 0x150, 0x150, 0},
    {"CMPS", cmps, SECRETS, R, 0x158, 0x158, 0},
    {"REP MOVS from, across the border", rep_movs_from, SECRETS, R, -16, 0, 0},
    {"REP MOVS to, across the border", rep_movs_to, SECRETS, W, -16, 0, 0},
    {"REP STOS across the border", rep_stos_to, SECRETS, W, -16, 0, 0},
    {"REPE CMPS across the border", rep_cmps, SECRETS, R, -16, 0, 0},
    {"REPNE SCAS across the border", rep_scas, SECRETS, R, -16, 0, 0},
    {"REP LODS across the border", rep_lods, SECRETS, R, -16, 0, 0},
    {"MOVDQU load", vector_load, SECRETS, R, 0x161, 0x161, 0},
    {"MOVDQU store", vector_store, SECRETS, W, 0x171, 0x171, 0},
    {"MOVAPS load", aligned_load, SECRETS, R, 0x180, 0x180, 0},
    {"MOVAPS store", aligned_store, SECRETS, W, 0x190, 0x190, 0},
    {"MOVNTI", nontemporal_store, SECRETS, W, 0x1a0, 0x1a0, 0},
    {"FXSAVE", save_fpu, SECRETS, W, 0x200, ANYWHERE, 0},
    {"FXRSTOR", restore_fpu, SECRETS, R, 0x200, ANYWHERE, 0},
    {"FILD", x87_load, SECRETS, R, 0x1a8, 0x1a8, 0},
    {"FISTP", x87_store, SECRETS, W, 0x1b0, 0x1b0, 0},
    {"AVX load", avx_load, SECRETS, R, 0x1c0, 0x1c0, AVX},
    {"AVX store", avx_store, SECRETS, W, 0x1e0, 0x1e0, AVX},
    {"load across the border from below", load, SECRETS, R, -4, 0, 0},
    {"load across the border from above", load, SECRETS, R, 0xffc, 0xffc, 0},
    {"store across the border from below", store, SECRETS, W, -4, 0, 0},
    {"store across the border from above", store, SECRETS, W, 0xffc, 0xffc, 0},
    {"LOCK XADD across the border", xadd, SECRETS, RW, -4, 0, 0},
    {"MOVDQU load across the border", vector_load, SECRETS, R, -8, 0, 0},
    {"MOVDQU store across the border", vector_store, SECRETS, W, 0xff8, 0xff8, 0},
    {"SGDT", store_gdtr, SECRETS, W, 0x1f0, ANYWHERE, 0},
    {"SIDT", store_idtr, SECRETS, W, 0x1f0, ANYWHERE, 0},
    {"LIDT", load_idtr, SECRETS, R, 0x1f0, ANYWHERE, 0},
    {"INS", ins_to, SECRETS, W, 0x210, 0x210, 0},
    {"REP INS across the border", rep_ins_to, SECRETS, W, -16, 0, 0},
    {"OUTS", outs_from, SECRETS, R, 0x218, 0x218, 0},
};

static const struct access_row user_rows[] = {
    {"MOV load", load, SECRETS, R, 0x300, 0x300, 0},
    {"MOV store", store, SECRETS, W, 0x308, 0x308, 0},
    {"LOCK XADD", xadd, SECRETS, W, 0x310, 0x310, 0},
    {"PUSH, the stack there", push_on, SECRETS, W, 0x318, 0x318, 0},
    {"POP, the stack there", pop_off, SECRETS, R, 0x320, 0x320, 0},
    {"REP MOVS from, across the border", rep_movs_from, SECRETS, R, -16, 0, 0},
    {"REP STOS across the border", rep_stos_to, SECRETS, W, -16, 0, 0},
    {"MOVDQU load", vector_load, SECRETS, R, 0x328, 0x328, 0},
    {"load across the border from above", load, SECRETS, R, 0xffc, 0xffc, 0},
    {"CALL into", call_into, SECRETS, X, 0x330, 0x330, 0},
    {"store to VTL1's code", store, CODE, W, 0x300, 0x300, 0},
    {"store to kernel text", store, KERNEL, W, 0x300, 0x300, 0},
    {"CALL into data", call_into, DATA, X, CODE_OFFSET, CODE_OFFSET, 0},
};

static const struct access_row read_only_rows[] = {
    {"store to VTL1's code", store, CODE, W, CODE_OFFSET, CODE_OFFSET, 0},
    {"ADD to it", add, CODE, W, 0x200, 0x200, 0},
    {"LOCK XADD", xadd, CODE, W, 0x208, 0x208, 0},
    {"LOCK CMPXCHG that compares unequal", cmpxchg, CODE, W, 0x210, 0x210, 0},
    {"XCHG", exchange, CODE, W, 0x218, 0x218, 0},
    {"PUSH, the stack there", push_on, CODE, W, 0x220, 0x220, 0},
    {"CALL, the stack there", call_on, CODE, W, 0x228, 0x228, 0},
    {"REP MOVS to, across the border", rep_movs_to, CODE, W, -16, 0, 0},
    {"store across the border from below", store, CODE, W, -4, 0, 0},
    {"store across the border from above", store, CODE, W, 0xffc, 0xffc, 0},
    {"MOVAPS store", aligned_store, CODE, W, 0x230, 0x230, 0},
    {"FXSAVE", save_fpu, CODE, W, 0x400, ANYWHERE, 0},
    {"AVX store", avx_store, CODE, W, 0x240, 0x240, AVX},
    {"INS", ins_to, CODE, W, 0x260, 0x260, 0},
    {"SGDT", store_gdtr, CODE, W, 0x268, ANYWHERE, 0},
    {"a patch of kernel text", store_constant, KERNEL, W, 0x123, 0x123, 0},
    {"LOCK BTS in kernel text", bit_set, KERNEL, W, 0x128, 0x128, 0},
    {"STOS to kernel text", stos_to, KERNEL, W, 0x130, 0x130, 0},
};

static const struct access_row fetch_rows[] = {
    {"CALL into data", call_into, DATA, X, CODE_OFFSET, CODE_OFFSET, 0},
    {"JMP into data", jump_into, DATA, X, CODE_OFFSET, CODE_OFFSET, 0},
    {"RET into data", return_into, DATA, X, CODE_OFFSET, CODE_OFFSET, 0},
    {"IRET into data", iret_into, DATA, X, CODE_OFFSET, CODE_OFFSET, 0},
    {"an instruction that begins before data", call_into, DATA, X, -2, 0, 0},
    {"CALL into VTL1's data", call_into, SECRETS, X, 0x100, 0x100, 0},
    {"JMP into VTL1's data", jump_into, SECRETS, X, 0x108, 0x108, 0},
    {"RET into VTL1's data", return_into, SECRETS, X, 0x110, 0x110, 0},
    {"an instruction that begins before VTL1's data", call_into, SECRETS, X, -2, 0, 0},
};

static bool avx_on(void)
{
    static int known = -1;
    if (known < 0) {
        uint32_t features = cpuid(1, 0).ecx;
        known = features >> 26 & 1 && features >> 28 & 1 && cpuid(0xd, 0).eax >> 2 & 1;
        if (known) {
            write_cr4(read_cr4() | CR4_OSXSAVE);
            asm volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
        }
    }
    return known;
}

static void make_accesses(enum class which, const struct access_row *rows, unsigned count)
{
    begin_class(which);
    for (const struct access_row *r = rows; r < rows + count; r++) {
        uint8_t *target = place_at[r->place] + r->target;
        if (left_out(r->name))
            continue;
        if (place_status[r->place]) {
            row_skipped(r->name, place_names[r->place], place_status[r->place]);
            continue;
        }
        if (r->needs == AVX && !avx_on()) {
            row_not_here(r->name, "the processor has no AVX");
            continue;
        }
        clear_scratch();
        warden_clear(POLICY_ABANDON);
        enum outcome outcome = (which == USER ? attempt_in_user_mode : attempt)(r->function, target, scratch);
        bool exact = r->gpa != ANYWHERE;
        uint64_t gpa = (uint64_t)place_at[r->place] + (exact ? r->gpa : 0);
        bool right = told(outcome, r->wanted, gpa, gpa, exact) && !leaked() && intact(r->place);
        told_row(r->name, right, outcome);
    }
    report_prefix_pop();
}

/* What VTL0 may do goes on as if nobody watched. */
static void check_allowed(void)
{
    begin_class(READ_ONLY);
    warden_clear(POLICY_ABANDON);
    clear_scratch();
    enum outcome outcome = attempt(call_into, place_at[CODE] + CODE_OFFSET, scratch);
    row(outcome == OUTCOME_RETURNED && scratch[0] == CODE_RESULT && !warden()->count, "VTL1's code", "VTL0 may execute it");
    outcome = attempt(load, place_at[CODE] + 0x200, scratch);
    row(outcome == OUTCOME_RETURNED && scratch[0] == FILL && !warden()->count, "VTL1's code", "VTL0 may read it");
    report_prefix_pop();
}

static void fetch_default(void)
{
    begin_class(FETCH);
    const char *name = "CALL into a page that only the default mask protects";
    if (ordinary & RIGHT_EXECUTE) {
        row_not_here(name, "it lets VTL0 execute (mask=3 does not)");
    } else {
        uint8_t *page = page_alloc();
        memcpy(page, code, sizeof code);
        clear_scratch();
        warden_clear(POLICY_ABANDON);
        enum outcome outcome = attempt(call_into, page, scratch);
        told_row(name, told(outcome, X, (uint64_t)page, (uint64_t)page, true) && scratch[0] == FILL, outcome);
    }
    report_prefix_pop();
}

/* The byte before a place begins an instruction that goes on in it. */
static void plant_instructions(void)
{
    static const unsigned before[] = {SECRETS, DATA};
    for (unsigned i = 0; i < ARRAY_SIZE(before); i++)
        memcpy(place_at[before[i]] - 2, (uint8_t[]){0xb8, 0}, 2); /* mov $..., %eax */
}

void accesses(void)
{
    make_accesses(ACCESS, access_rows, ARRAY_SIZE(access_rows));
}

void user_accesses(void)
{
    make_accesses(USER, user_rows, ARRAY_SIZE(user_rows));
}

void writes(void)
{
    make_accesses(READ_ONLY, read_only_rows, ARRAY_SIZE(read_only_rows));
    check_allowed();
}

void fetches(void)
{
    plant_instructions();
    make_accesses(FETCH, fetch_rows, ARRAY_SIZE(fetch_rows));
    fetch_default();
}

