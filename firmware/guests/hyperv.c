/* SPDX-License-Identifier: Apache-2.0 */
/* The Hyper-V interface as a guest finds it: CPUID, MSRs, hypercalls, SynIC, timers, reference time, IPIs and TLB
 * flushes. Needs two processors for the last two. Structures: TLFS.
 *
 * crash     no checks, but a crash report with a text
 * reset     no checks, but a reset by MSR, and a look at what is left after it
 * user      no checks, but a hypercall from ring 3
 * bench=N   no checks, but N hypercalls of each kind and N port writes: a line "NAME: CYCLES cycles" for each kind,
 *           the average of its fastest round
 */
#include "hyperv/parts.h"

#define REGISTER_GUEST_OS_ID 0x00090002
#define REGISTER_CR3 0x00040002
#define REGISTER_RBX 0x00020003

#define SINT 3
#define SINT_VECTOR 0x50
#define DIRECT_VECTOR 0x51
#define TIMER_MESSAGE 0x80000010u
#define MS_100NS 10000ull

#define STIMER_ENABLED 1ull
#define STIMER_PERIODIC 2ull
#define STIMER_AUTO_ENABLE 8ull
#define STIMER_DIRECT(vector) ((uint64_t)(vector) << 4 | 1ull << 12)
#define STIMER_SINT(n) ((uint64_t)(n) << 16)

struct message {
    uint32_t type;
    uint8_t size, flags, reserved[2];
    uint64_t sender;
    uint32_t timer, reserved1;
    uint64_t expiration, delivery;
    uint8_t rest[216];
};

uint8_t call_page[4096] __attribute__((aligned(4096)));
static uint8_t message_page[4096] __attribute__((aligned(4096)));
static uint8_t event_page[4096] __attribute__((aligned(4096)));
static uint8_t time_page[4096] __attribute__((aligned(4096)));
uint64_t input[512] __attribute__((aligned(4096)));
uint64_t output[512] __attribute__((aligned(4096)));

static void *const volatile page_entry_point = call_page;
static volatile uint32_t sint_count, direct_count;

/* What a call leaves in the registers that it may not change. */
struct registers {
    uint64_t rax, rcx, rdx, r8, rbx, rsi, rdi, r9, r10, r11, flags, rsp_before, rsp_after;
};

static uint64_t call_with(struct registers *seen, uint64_t control, uint64_t first, uint64_t second)
{
    uint64_t rax, rcx = control, rdx = first, rbx, rsi, rdi, flags, before, after;
    register uint64_t r8 asm("r8") = second;
    register uint64_t r9 asm("r9") = 0x9999;
    register uint64_t r10 asm("r10") = 0x1010;
    register uint64_t r11 asm("r11") = 0x1111;
    rbx = 0xbbbb, rsi = 0x5151, rdi = 0xd1d1;
    asm volatile("mov %%rsp, %[before]\n\t"
                 "stc\n\t"
                 "call *%[page]\n\t"
                 "pushfq\n\t"
                 "popq %[flags]\n\t"
                 "mov %%rsp, %[after]"
                 : "=a"(rax), "+c"(rcx), "+d"(rdx), "+r"(r8), "+b"(rbx), "+S"(rsi), "+D"(rdi), "+r"(r9),
                   "+r"(r10), "+r"(r11), [flags] "=&r"(flags), [before] "=&r"(before), [after] "=&r"(after)
                 : [page] "m"(page_entry_point)
                 : "memory", "cc");
    if (seen)
        *seen = (struct registers){rax, rcx, rdx, r8, rbx, rsi, rdi, r9, r10, r11, flags, before, after};
    return rax;
}

uint64_t hypercall(uint64_t control, uint64_t first, uint64_t second)
{
    return call_with(NULL, control, first, second);
}

static void check_cpuid(void)
{
    struct cpuid vendor = cpuid(HV_LEAF_VENDOR, 0);
    report(vendor.eax >= 0x40000005 && !memcmp(&vendor.ebx, "Microsoft Hv", 12), "vendor, leaves to 0x%x",
           vendor.eax);
    report(cpuid(HV_LEAF_INTERFACE, 0).eax == 0x31237648, "interface Hv#1");
    struct cpuid features = cpuid(HV_LEAF_FEATURES, 0);
    report((features.eax & 0x6f) == 0x6f, "MSRs announced: 0x%x", features.eax);
    report(cpuid(HV_LEAF_RECOMMENDATIONS, 0).eax & 1 << 9, "AutoEoi is deprecated");
}

static void check_msrs(void)
{
    uint64_t value;
    report(rdmsr(HV_MSR_VP_INDEX) == 0, "VP index");
    report(rdmsr(HV_MSR_VP_RUNTIME) > 0, "VP run time");
    uint64_t hz = rdmsr(HV_MSR_TSC_FREQUENCY), measured = tsc_hz();
    report(hz > measured / 100 * 98 && hz < measured / 100 * 102, "TSC frequency %lu, measured %lu", hz, measured);
    report(rdmsr(HV_MSR_SVERSION) == 1, "SynIC version");
    report(wrmsr_safe(HV_MSR_VP_INDEX, 1) == VECTOR_GP, "a read-only MSR refuses a write");
    report(rdmsr_safe(HV_MSR_EOI, &value) == VECTOR_GP, "a write-only MSR refuses a read");
    report(rdmsr_safe(0x400001f0, &value) == VECTOR_GP, "an unknown MSR refuses a read");
    report(wrmsr_safe(HV_MSR_SINT0 + SINT, 5) == VECTOR_GP, "a SINT refuses vector 5");
    wrmsr(HV_MSR_TPR, 0x40);
    report(apic_read(APIC_TPR) == 0x40 && rdmsr(HV_MSR_TPR) == 0x40, "TPR by MSR: 0x%x", apic_read(APIC_TPR));
    wrmsr(HV_MSR_TPR, 0);
}

static volatile uint32_t refused_writes;
static uint64_t behind_write;

static void write_refused(struct frame *frame)
{
    refused_writes++;
    frame->rip = behind_write; /* which it may be already: KVM's emulator is past the instruction */
}

static void write_to_page(void)
{
    uint8_t before = call_page[100];
    interrupt_set_handler(VECTOR_GP, write_refused);
    asm volatile("lea 1f(%%rip), %%rax\n\t"
                 "mov %%rax, %[behind]\n\t"
                 "movb $0x5b, %[byte]\n"
                 "1:"
                 : [behind] "=m"(behind_write), [byte] "+m"(call_page[100])
                 :
                 : "rax", "memory");
    report(refused_writes == 1 && call_page[100] == before, "which may only be read: %u #GP", refused_writes);
    asm volatile("lea 1f(%%rip), %%rax\n\t"
                 "mov %%rax, %[behind]\n\t"
                 "lock addb $1, %[byte]\n"
                 "1:"
                 : [behind] "=m"(behind_write), [byte] "+m"(call_page[100])
                 :
                 : "rax", "memory", "cc");
    interrupt_set_handler(VECTOR_GP, NULL);
    report(refused_writes == 2 && call_page[100] == before, "also with LOCK: %u #GP", refused_writes);
}

static void check_page(void)
{
    wrmsr(HV_MSR_HYPERCALL, (uint64_t)(uintptr_t)call_page | 1);
    report(!(rdmsr(HV_MSR_HYPERCALL) & 1), "no hypercall page without an OS id");
    call_page[100] = 0x5a;
    wrmsr(HV_MSR_GUEST_OS_ID, OS_ID);
    wrmsr(HV_MSR_HYPERCALL, (uint64_t)(uintptr_t)call_page | 1);
    report(rdmsr(HV_MSR_HYPERCALL) & 1, "hypercall page enabled");
    report(call_page[100] != 0x5a, "the page covers memory");
    write_to_page();
    printf("trap: %02x %02x %02x\n", call_page[0], call_page[1], call_page[2]);
    wrmsr(HV_MSR_HYPERCALL, 0);
    report(call_page[100] == 0x5a, "and gives it back");
    wrmsr(HV_MSR_HYPERCALL, (uint64_t)(uintptr_t)call_page | 1);
}

static void check_calls(void)
{
    struct registers seen;
    uint64_t result = call_with(&seen, HV_CALL_SPIN_WAIT | HV_FAST, 1000, 0x8888);
    report(result == 0, "a fast call: 0x%lx", result);
    report(seen.rcx == (HV_CALL_SPIN_WAIT | HV_FAST) && seen.rdx == 1000 && seen.r8 == 0x8888 && seen.rbx == 0xbbbb &&
               seen.rsi == 0x5151 && seen.rdi == 0xd1d1 && seen.r9 == 0x9999 && seen.r10 == 0x1010 &&
               seen.r11 == 0x1111 && seen.rsp_before == seen.rsp_after,
           "changes no register but RAX");
    report(seen.flags & 1, "nor a flag");
    report(hypercall(0x7777, 0, 0) == HV_STATUS_INVALID_CODE, "unknown code");
    report(hypercall(HV_CALL_SPIN_WAIT | HV_FAST | 1ull << 27, 0, 0) == HV_STATUS_INVALID_INPUT, "reserved bit");
    report(hypercall(HV_CALL_GET_REGISTERS | HV_REPS(1), 4, (uintptr_t)output) == HV_STATUS_INVALID_ALIGNMENT,
           "misaligned input");
    report(hypercall(HV_CALL_SPIN_WAIT, (uintptr_t)input, 0) == 0, "a slow call");
}

static void check_registers(void)
{
    memset(output, 0xff, sizeof output);
    input[0] = HV_SELF_PARTITION;
    input[1] = HV_SELF_VP;
    ((uint32_t *)input)[4] = REGISTER_VP_INDEX;
    ((uint32_t *)input)[5] = REGISTER_GUEST_OS_ID;
    ((uint32_t *)input)[6] = REGISTER_CR3;
    ((uint32_t *)input)[7] = REGISTER_RBX;
    uint64_t result = hypercall(HV_CALL_GET_REGISTERS | HV_REPS(4), (uintptr_t)input, (uintptr_t)output);
    report(result == HV_REPS(4), "slow GetVpRegisters: 0x%lx", result);
    report(output[0] == 0 && output[2] == OS_ID && output[4] == read_cr3() && output[6] == 0xbbbb && !output[7],
           "their values: 0x%lx 0x%lx 0x%lx 0x%lx", output[0], output[2], output[4], output[6]);
    report(output[8] == ~0ull, "nothing behind them is written");
    ((uint32_t *)input)[5] = 0x12345678;
    result = hypercall(HV_CALL_GET_REGISTERS | HV_REPS(4), (uintptr_t)input, (uintptr_t)output);
    report(result == (HV_STATUS_INVALID_PARAMETER | HV_REPS(1)), "stops at an unknown one: 0x%lx", result);

    memset(input, 0, 64);
    input[0] = HV_SELF_PARTITION;
    input[1] = HV_SELF_VP;
    ((uint32_t *)input)[4] = REGISTER_GUEST_OS_ID;
    input[4] = OS_ID + 1;
    result = hypercall(HV_CALL_SET_REGISTERS | HV_REPS(1), (uintptr_t)input, 0);
    report(result == HV_REPS(1) && rdmsr(HV_MSR_GUEST_OS_ID) == OS_ID + 1, "SetVpRegisters: 0x%lx", result);
    wrmsr(HV_MSR_GUEST_OS_ID, OS_ID);
}

/* Output of a fast call begins in the first XMM register behind the input: XMM1 here. */
static void check_fast_registers(void)
{
    static uint64_t in[4] __attribute__((aligned(16))), out[4] __attribute__((aligned(16)));
    uint64_t rax, rcx = HV_CALL_GET_REGISTERS | HV_FAST | HV_REPS(1), rdx = HV_SELF_PARTITION;
    register uint64_t r8 asm("r8") = HV_SELF_VP;
    write_cr4(read_cr4() | CR4_OSFXSR);
    in[0] = REGISTER_GUEST_OS_ID;
    in[2] = in[3] = ~0ull;
    asm volatile("movdqu (%[in]), %%xmm0\n\t"
                 "movdqu 16(%[in]), %%xmm1\n\t"
                 "call *%[page]\n\t"
                 "movdqu %%xmm0, (%[out])\n\t"
                 "movdqu %%xmm1, 16(%[out])"
                 : "=a"(rax), "+c"(rcx), "+d"(rdx), "+r"(r8)
                 : [in] "r"(in), [out] "r"(out), [page] "m"(page_entry_point)
                 : "memory", "cc");
    report(rax == HV_REPS(1), "fast GetVpRegisters: 0x%lx", rax);
    report(out[2] == OS_ID && out[3] == 0, "its value in XMM1: 0x%lx 0x%lx", out[2], out[3]);
    report(out[0] == REGISTER_GUEST_OS_ID && out[1] == 0, "XMM0 stays");
}

static volatile uint32_t refusals;

static void refused(struct frame *frame)
{
    refusals++;
    frame->rip = *(uint64_t *)frame->rsp; /* back to the caller of the page */
    frame->rsp += 8;
}

static void check_refusal(void)
{
    uint8_t code[64];
    memcpy(code, call_page, sizeof code);
    wrmsr(HV_MSR_GUEST_OS_ID, 0);
    report(!(rdmsr(HV_MSR_HYPERCALL) & 1), "OS id 0 takes the page away");
    memcpy(call_page, code, sizeof code);
    interrupt_set_handler(VECTOR_UD, refused);
    struct registers seen;
    call_with(&seen, HV_CALL_SPIN_WAIT | HV_FAST, 1, 0);
    /* A VMCALL is then one of KVM's own, which does not know it (-KVM_ENOSYS). */
    bool own = call_page[0] == 0x0f && seen.rax == -1000ull;
    report(refusals == 1 || own, "a call without the interface is #UD");
    wrmsr(HV_MSR_GUEST_OS_ID, OS_ID);
    wrmsr(HV_MSR_HYPERCALL, (uint64_t)(uintptr_t)call_page | 1);
    report(hypercall(HV_CALL_SPIN_WAIT | HV_FAST, 1, 0) == 0 && refusals == !own, "and with it works again");
    outb(0xec, 0);
    report(true, "the page's port does nothing for others");
    interrupt_set_handler(VECTOR_UD, NULL);
}

static struct message *slot(void)
{
    return (struct message *)message_page + SINT;
}

static void sint_handler(struct frame *frame)
{
    (void)frame;
    sint_count++;
    apic_eoi();
}

static void direct_handler(struct frame *frame)
{
    (void)frame;
    direct_count++;
    apic_eoi();
}

static void release_slot(void)
{
    bool pending = slot()->flags & 1;
    slot()->type = 0;
    asm volatile("mfence" : : : "memory");
    if (pending || slot()->flags & 1)
        wrmsr(HV_MSR_EOM, 0);
}

static void check_synic(void)
{
    interrupt_set_handler(SINT_VECTOR, sint_handler);
    interrupt_set_handler(DIRECT_VECTOR, direct_handler);
    wrmsr(HV_MSR_SIMP, (uint64_t)(uintptr_t)message_page | 1);
    wrmsr(HV_MSR_SIEFP, (uint64_t)(uintptr_t)event_page | 1);
    wrmsr(HV_MSR_SCONTROL, 1);
    wrmsr(HV_MSR_SINT0 + SINT, SINT_VECTOR);
    interrupts_on();

    uint64_t due = rdmsr(HV_MSR_TIME_REF_COUNT) + 2 * MS_100NS;
    wrmsr(HV_MSR_STIMER0_COUNT, due);
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_ENABLED | STIMER_SINT(SINT));
    report(WAIT_FOR(sint_count == 1, 1000), "a timer message interrupts");
    struct message *m = slot();
    report(m->type == TIMER_MESSAGE && m->size == 24 && m->timer == 0, "message 0x%x of %u bytes", m->type, m->size);
    report(m->expiration == due && m->delivery >= due && m->delivery <= rdmsr(HV_MSR_TIME_REF_COUNT),
           "due %lu, delivered %lu", m->expiration, m->delivery);
    report(!(rdmsr(HV_MSR_STIMER0_CONFIG) & STIMER_ENABLED), "a one-shot timer is off then");

    /* The slot is taken: the next message waits for it. */
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_AUTO_ENABLE | STIMER_SINT(SINT));
    wrmsr(HV_MSR_STIMER0_COUNT, rdmsr(HV_MSR_TIME_REF_COUNT) + MS_100NS);
    report(WAIT_FOR(slot()->flags & 1, 1000) && sint_count == 1, "a taken slot is marked pending");
    release_slot();
    report(WAIT_FOR(sint_count == 2, 1000) && slot()->type == TIMER_MESSAGE, "EOM brings the next message");
    release_slot();

    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_DIRECT(DIRECT_VECTOR) | STIMER_PERIODIC | STIMER_AUTO_ENABLE);
    wrmsr(HV_MSR_STIMER0_COUNT, 2 * MS_100NS);
    bool came = WAIT_FOR(direct_count >= 5, 1000);
    report(came, "a periodic direct timer: %u interrupts", direct_count);
    wrmsr(HV_MSR_STIMER0_CONFIG, 0);
    wait_us(50000); /* one may be on its way, for long on a busy host */
    uint32_t before = direct_count;
    wait_us(10000);
    report(direct_count == before, "silent when off");
    interrupts_off();
}

static void check_time(void)
{
    struct hv_tsc_page *page = (struct hv_tsc_page *)time_page;
    wrmsr(HV_MSR_REFERENCE_TSC, (uint64_t)(uintptr_t)time_page | 1);
    if (!page->sequence) {
        report_skip("no reference TSC page on this host");
        return;
    }
    uint32_t outside = 0;
    for (unsigned i = 0; i < 200; i++) {
        uint64_t first = hv_page_time(page), counter = rdmsr(HV_MSR_TIME_REF_COUNT), last = hv_page_time(page);
        outside += counter < first || counter > last;
    }
    report(outside == 0, "the counter lies between two reads of the page: %u times not", outside);
    /* The host may take the processor away between any two reads, so each is bounded by those around it. */
    uint64_t before_first = rdtsc(), first = hv_page_time(page), after_first = rdtsc();
    wait_us(20000);
    uint64_t before_last = rdtsc(), elapsed = hv_page_time(page) - first, after_last = rdtsc();
    uint64_t least = tsc_to_ns(before_last - after_first) / 100, most = tsc_to_ns(after_last - before_first) / 100;
    report(elapsed + least / 20 + 100 > least && elapsed < most + most / 20 + 100, "100 ns units: %lu, by the TSC %lu to %lu",
           elapsed, least, most);
    wrmsr(HV_MSR_REFERENCE_TSC, 0);
}

static void report_crash(void)
{
    static const char text[] = "something\tbroke\033[2J\nin two lines";
    static const char plain[] = "something broke";
    wrmsr(HV_MSR_CRASH_P0, 0xbad);
    wrmsr(HV_MSR_CRASH_P0 + 1, 2);
    wrmsr(HV_MSR_CRASH_P0 + 3, (uintptr_t)plain);
    wrmsr(HV_MSR_CRASH_P0 + 4, sizeof plain);
    wrmsr(HV_MSR_CRASH_CTL, rdmsr(HV_MSR_CRASH_CTL));
    wrmsr(HV_MSR_CRASH_P0 + 3, (uintptr_t)text);
    wrmsr(HV_MSR_CRASH_P0 + 4, sizeof text);
    wrmsr(HV_MSR_CRASH_CTL, rdmsr(HV_MSR_CRASH_CTL));
    report(true, "the guest goes on");
}

/* RAM keeps its contents over a reset, except what the loader writes: the image, this variable with it. */
#define MARK (*(volatile uint64_t *)0x1800000)
#define MARK_VALUE 0x5a5a1234u

static void reset_once(void)
{
    if (MARK == MARK_VALUE) {
        MARK = 0;
        report(!rdmsr(HV_MSR_GUEST_OS_ID) && !rdmsr(HV_MSR_HYPERCALL) && !rdmsr(HV_MSR_SIMP) &&
                   !rdmsr(HV_MSR_STIMER0_CONFIG) && rdmsr(HV_MSR_SINT0 + SINT) == 1 << 16,
               "all is as after power-on");
        return;
    }
    MARK = MARK_VALUE;
    wrmsr(HV_MSR_GUEST_OS_ID, OS_ID);
    wrmsr(HV_MSR_HYPERCALL, (uint64_t)(uintptr_t)call_page | 1);
    wrmsr(HV_MSR_SIMP, (uint64_t)(uintptr_t)message_page | 1);
    wrmsr(HV_MSR_SINT0 + SINT, SINT_VECTOR);
    wrmsr(HV_MSR_STIMER0_CONFIG, STIMER_AUTO_ENABLE | STIMER_PERIODIC | STIMER_DIRECT(DIRECT_VECTOR));
    wrmsr(HV_MSR_STIMER0_COUNT, MS_100NS);
    printf("before the reset\n");
    console_drain();
    wrmsr(HV_MSR_RESET, 1);
    abort_run("the reset did not come");
}

static void call_from_user_mode(void)
{
    wrmsr(HV_MSR_GUEST_OS_ID, OS_ID);
    wrmsr(HV_MSR_HYPERCALL, (uint64_t)(uintptr_t)call_page | 1);
    struct user_call call = {.rax = 0x1234, .rcx = HV_CALL_SPIN_WAIT | HV_FAST};
    user_mode_call(page_entry_point, &call);
    report(call.cs == (SELECTOR_USER_CODE64 | 3) && call.rax == 0x1234, "a call from ring 3 is refused, exception %lu",
           call.vector);
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    if (memcmp(&(uint32_t[3]){cpuid(HV_LEAF_VENDOR, 0).ebx, cpuid(HV_LEAF_VENDOR, 0).ecx, cpuid(HV_LEAF_VENDOR, 0).edx},
               "Microsoft Hv", 12)) {
        report_skip("no Hyper-V interface");
        return report_summary();
    }
    if (argument_given("crash"))
        report_crash();
    else if (argument_given("reset"))
        reset_once();
    else if (argument_given("user"))
        call_from_user_mode();
    if (argument_given("crash") || argument_given("reset") || argument_given("user"))
        return report_summary();
    uint64_t bench = argument_number("bench", 0);
    if (bench) {
        measure(bench);
        return EXIT_PASS;
    }
    check_cpuid();
    check_msrs();
    check_page();
    check_calls();
    check_registers();
    check_fast_registers();
    check_refusal();
    check_synic();
    check_time();
    check_processors();
    return report_summary();
}
