/* SPDX-License-Identifier: Apache-2.0 */
/* Instructions that some KVM hosts cannot emulate in ring 0: KVM then stops with KVM_EXIT_INTERNAL_ERROR.
 *
 * Arguments: names from the table below (clac when none is given), or "all" for all but vmcall and vmmcall, which
 * may spin in the host's kernel for ever. Each must do what the SDM says for this CPUID.
 */
#include "runtime.h"

#define CR4_OSXSAVE (1u << 18)
#define TEST_VECTOR 0x40
#define EXECUTES FAULT_NONE

struct instruction {
    const char *name;
    void (*execute)(void);
    /* The CPUID bit it needs, in CPUID(leaf, 0); leaf 0: none. Without it: #UD. */
    uint32_t leaf;
    char reg;
    uint8_t bit;
    int outcome; /* vector, or EXECUTES */
    bool risky;
};

static uint8_t scratch[64] __attribute__((aligned(64)));
static struct {
    uint64_t pcid, address;
} invpcid_descriptor;

#define EXECUTE(name, text, ...)                      \
    static void name(void)                            \
    {                                                 \
        asm volatile(FAULT_GUARD(text) : __VA_ARGS__); \
    }

EXECUTE(do_clac, "clac", : : "memory")
EXECUTE(do_stac, "stac", : : "memory")
EXECUTE(do_int3, "int3", : : "memory")
EXECUTE(do_int, "int $0x40", : : "memory")
EXECUTE(do_invpcid, "invpcid (%0), %1", : "r"(&invpcid_descriptor), "r"(2ull) : "memory")
EXECUTE(do_clwb, "clwb (%0)", : "r"(scratch) : "memory")
EXECUTE(do_clflushopt, "clflushopt (%0)", : "r"(scratch) : "memory")
EXECUTE(do_movbe_register, ".byte 0x0f, 0x38, 0xf0, 0xc0", : : "memory")
EXECUTE(do_rdpru, ".byte 0x0f, 0x01, 0xfd", : "c"(0) : "eax", "edx")
EXECUTE(do_monitor, ".byte 0x0f, 0x01, 0xc8", : "a"(scratch), "c"(0), "d"(0) : "memory")
EXECUTE(do_ud2, "ud2", : : "memory")
EXECUTE(do_vmcall, "vmcall", : "a"(0) : "memory", "rbx", "rcx", "rdx", "rsi", "rdi")
EXECUTE(do_vmmcall, "vmmcall", : "a"(0) : "memory", "rbx", "rcx", "rdx", "rsi", "rdi")

static void do_xgetbv(void)
{
    write_cr4(read_cr4() | CR4_OSXSAVE);
    asm volatile(FAULT_GUARD("xgetbv") : : "c"(0) : "eax", "edx");
}

static void do_xsetbv(void)
{
    write_cr4(read_cr4() | CR4_OSXSAVE);
    asm volatile(FAULT_GUARD("xsetbv") : : "c"(0), "a"(3), "d"(0)); /* x87 and SSE */
}

static const struct instruction instructions[] = {
    {"clac", do_clac, 7, 'b', 20, EXECUTES, false},
    {"stac", do_stac, 7, 'b', 20, EXECUTES, false},
    {"int3", do_int3, 0, 0, 0, VECTOR_BP, false},
    {"int", do_int, 0, 0, 0, TEST_VECTOR, false},
    {"xgetbv", do_xgetbv, 1, 'c', 26, EXECUTES, false},
    {"xsetbv", do_xsetbv, 1, 'c', 26, EXECUTES, false},
    {"invpcid", do_invpcid, 7, 'b', 10, EXECUTES, false},
    {"clwb", do_clwb, 7, 'b', 24, EXECUTES, false},
    {"clflushopt", do_clflushopt, 7, 'b', 23, EXECUTES, false},
    {"movbe", do_movbe_register, 0, 0, 0, VECTOR_UD, false},
    {"rdpru", do_rdpru, 0x80000008, 'b', 4, EXECUTES, false},
    {"monitor", do_monitor, 1, 'c', 3, EXECUTES, false},
    {"ud2", do_ud2, 0, 0, 0, VECTOR_UD, false},
    {"vmcall", do_vmcall, 0, 0, 0, EXECUTES, true},
    {"vmmcall", do_vmmcall, 0, 0, 0, EXECUTES, true},
};

static int trapped;

/* Traps (INT n, INT3) return behind the instruction, so no fixup finds them. */
static void count_trap(struct frame *frame)
{
    trapped = (int)frame->vector;
}

static int expected(const struct instruction *instruction)
{
    if (!instruction->leaf)
        return instruction->outcome;
    struct cpuid r = cpuid(instruction->leaf, 0);
    uint32_t reg = instruction->reg == 'b' ? r.ebx : instruction->reg == 'c' ? r.ecx : r.edx;
    return reg >> instruction->bit & 1 ? instruction->outcome : VECTOR_UD;
}

static void print_outcome(char *text, size_t size, int outcome)
{
    if (outcome == EXECUTES)
        snprintf(text, size, "no exception");
    else
        snprintf(text, size, "vector %d", outcome);
}

static void run(const struct instruction *instruction)
{
    char want[20], got[20];
    uint64_t cr4 = read_cr4();
    int wanted = expected(instruction);
    /* Without OSXSAVE's CPUID bit, CR4.OSXSAVE is reserved. */
    if (wanted == VECTOR_UD && (instruction->execute == do_xgetbv || instruction->execute == do_xsetbv)) {
        report_skip("%s: no XSAVE", instruction->name);
        return;
    }
    printf("executing %s\n", instruction->name);
    console_drain();
    trapped = FAULT_NONE;
    fault_clear();
    instruction->execute();
    write_cr4(cr4);
    int outcome = trapped != FAULT_NONE ? trapped : fault_vector();
    print_outcome(want, sizeof(want), wanted);
    print_outcome(got, sizeof(got), outcome);
    report(outcome == wanted, "%s: %s, expected %s", instruction->name, got, want);
}

int main(int argc, char **argv)
{
    bool all = argument_given("all");
    interrupt_set_handler(VECTOR_BP, count_trap);
    interrupt_set_handler(TEST_VECTOR, count_trap);
    for (unsigned i = 0; i < ARRAY_SIZE(instructions); i++) {
        const struct instruction *instruction = &instructions[i];
        if (argument_given(instruction->name) || (all && !instruction->risky) || (argc < 2 && i == 0))
            run(instruction);
    }
    (void)argv;
    return report_summary();
}
