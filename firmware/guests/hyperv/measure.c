/* SPDX-License-Identifier: Apache-2.0 */
/* How many cycles hypercalls take, and a port write. */
#include "parts.h"

/* A kind of exit to measure: a port write, or a call of `page` that has to answer `wanted`. */
struct kind {
    const char *name;
    const void *page;
    uint64_t control, first, second, wanted;
};

static uint64_t port_cycles(uint64_t count)
{
    uint64_t left = count, start = rdtsc();
    asm volatile("1: outb %%al, $0x80\n"
                 "   decq %0\n"
                 "   jnz 1b"
                 : "+r"(left)
                 : "a"(0)
                 : "cc");
    return (rdtsc() - start) / count;
}

/* A call changes no register but RAX, so nothing is loaded anew. */
static uint64_t call_cycles(uint64_t count, const struct kind *kind)
{
    uint64_t left = count, control = kind->control, first = kind->first, rax = kind->wanted, start = rdtsc();
    register uint64_t r8 asm("r8") = kind->second;
    asm volatile("1: call *%[page]\n"
                 "   decq %[left]\n"
                 "   jnz 1b"
                 : "+a"(rax), [left] "+r"(left), "+c"(control), "+d"(first), "+r"(r8)
                 : [page] "r"(kind->page)
                 : "memory", "cc", "r9", "r10", "r11");
    uint64_t cycles = (rdtsc() - start) / count;
    if (rax != kind->wanted)
        abort_run("%s answers 0x%lx instead of 0x%lx", kind->name, rax, kind->wanted);
    return cycles;
}

#define KINDS 5
#define ROUNDS 50

/* In rounds of all kinds, the least of each: whatever else the host does only adds. */
void measure(uint64_t count)
{
    static const uint8_t called_port[] = {0xe6, 0x80, 0xc3}; /* out %al, $0x80; ret */
    uint64_t get = HV_CALL_GET_REGISTERS | HV_REPS(1), least[KINDS];
    const struct kind kinds[KINDS] = {
        {.name = "port"},
        {.name = "called-port", .page = called_port},
        /* An IPI to no processor: the least that a call with a handler can do. */
        {"null-fast", call_page, HV_CALL_SEND_IPI | HV_FAST, IPI_VECTOR, 0, 0},
        {"get-register-slow", call_page, get, (uintptr_t)input, (uintptr_t)output, HV_REPS(1)},
        {"get-register-fast", call_page, get | HV_FAST, HV_SELF_PARTITION, HV_SELF_VP, HV_REPS(1)},
    };
    wrmsr(HV_MSR_GUEST_OS_ID, OS_ID);
    wrmsr(HV_MSR_HYPERCALL, (uint64_t)(uintptr_t)call_page | 1);
    write_cr4(read_cr4() | CR4_OSFXSR);
    input[0] = HV_SELF_PARTITION;
    input[1] = HV_SELF_VP;
    input[2] = REGISTER_VP_INDEX;
    asm volatile("movdqu (%0), %%xmm0" : : "r"(input + 2) : "memory");
    count = count / ROUNDS + 1;
    port_cycles(10 * count); /* warm */
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < KINDS; i++) {
            uint64_t now = kinds[i].page ? call_cycles(count, &kinds[i]) : port_cycles(count);
            if (round == 0 || now < least[i])
                least[i] = now;
        }
    }
    for (unsigned i = 0; i < KINDS; i++)
        printf("%s: %lu cycles\n", kinds[i].name, least[i]);
}
