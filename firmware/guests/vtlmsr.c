/* SPDX-License-Identifier: Apache-2.0 */
/* MSR intercepts: VTL1 hears of VTL0's RDMSR and WRMSR before they have any effect, by the CrIntercept registers and by
 * HvCallInstallIntercept. TLFS 6.1, 15.13.4.
 */
#include "fault.h"
#include "hyperv.h"
#include "listen.h"
#include "runtime.h"
#include "vsm.h"

#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_MISC_ENABLE 0x1a0
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103
#define NO_MSR 0x12345678
#define HV_MSR_NOBODYS 0x4000017f

#define CONTROL_MISC_ENABLE_WRITE (1u << 4)
#define CONTROL_LSTAR_READ (1u << 5)
#define CONTROL_LSTAR_WRITE (1u << 6)
#define CONTROL_APIC_BASE_WRITE (1u << 12)
#define CONTROL_EFER_WRITE (1u << 14)
#define NOT_CANONICAL (1ull << 62)
#define EVENT_GP (1ull | 1ull << 8 | 13ull << 16)
#define EVENT_PENDING_ALREADY (1ull | 3ull << 1 | 1ull << 4 | 11ull << 16) /* HvRegisterPendingInterruption: #NP */
#define HV_REGISTER_PENDING_INTERRUPTION 0x00010002

extern const char at_write[], at_read[];

static __attribute__((noinline, noclone)) void write_lstar(uint64_t value)
{
    asm volatile("at_write: wrmsr"
                 :
                 : "c"(MSR_LSTAR), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                 : "memory");
}

static __attribute__((noinline, noclone)) uint64_t read_lstar(void)
{
    uint32_t low = 0x10, high = 0x20;
    asm volatile("at_read: rdmsr" : "+a"(low), "+d"(high) : "c"(MSR_LSTAR) : "memory");
    return (uint64_t)high << 32 | low;
}

static uint16_t control(uint64_t value)
{
    return listen_set(HV_REGISTER_CR_INTERCEPT_CONTROL, value);
}

/* ---- the control register ---- */

static void check_register(void)
{
    static const uint8_t refused[] = {0, 1, 2, 15, 16, 17, 18, 29, 63};
    uint64_t value[2];
    for (unsigned i = 0; i < sizeof refused; i++)
        report(control(1ull << refused[i]) == HV_STATUS_INVALID_REGISTER_VALUE, "bit %u, which nobody can show",
               refused[i]);
    report(control(CONTROL_APIC_BASE_WRITE) == 0 && listen_get(HV_REGISTER_CR_INTERCEPT_CONTROL) == CONTROL_APIC_BASE_WRITE,
           "writes of the APIC base are taken, and read back");
    hv_expect(hv_get_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_CR_INTERCEPT_CONTROL, value), HV_STATUS_ACCESS_DENIED,
              "VTL0 does not see it");
    hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_CR_INTERCEPT_CONTROL, 0, 0), HV_STATUS_ACCESS_DENIED,
              "nor change it");
    hv_expect(hv_set_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_CR_INTERCEPT_CONTROL, 0, 0), HV_STATUS_ACCESS_DENIED,
              "in VTL1's name either");
    struct listener *self = listen_for(listen_skip);
    uint64_t base = rdmsr(MSR_APIC_BASE);
    wrmsr(MSR_APIC_BASE, base & ~(1ull << 11));
    report(self->count == 1 && self->message.msr.number == MSR_APIC_BASE && rdmsr(MSR_APIC_BASE) == base,
           "VTL0 does not turn its APIC off");
    control(0);
}

/* ---- writes and reads ---- */

static void do_it(struct listener *self, struct vtl_frame *frame)
{
    uint64_t value = self->message.msr.rdx << 32 | (uint32_t)self->message.msr.rax;
    listen_set_of_vtl0(self, HV_REGISTER_LSTAR, value + 1);
    listen_skip(self, frame);
}

static void give_up(struct listener *self, struct vtl_frame *frame)
{
    (void)frame;
    uint16_t status = (uint16_t)hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_CR_INTERCEPT_CONTROL, 0, 0);
    if (status && !self->status)
        self->status = status;
}

static void check_write(void)
{
    wrmsr(MSR_LSTAR, 0x1000);
    control(CONTROL_LSTAR_WRITE);
    struct listener *self = listen_for(listen_skip);
    write_lstar(0x12345678abcd);
    const struct listen_message *message = &self->message;
    report(self->count == 1 && message->type == MSR_MESSAGE && message->size == 64, "VTL1 hears of a WRMSR: 0x%x",
           message->type);
    report(message->header.access == 1 && message->msr.number == MSR_LSTAR && (uint32_t)message->msr.rax == 0x5678abcd &&
               message->msr.rdx == 0x1234,
           "MSR and value: 0x%x 0x%lx 0x%lx", message->msr.number, message->msr.rdx, message->msr.rax);
    report(message->header.rip == (uint64_t)at_write && (message->header.length_cr8 & 15) == 2,
           "VTL0 is still at it: 0x%lx", message->header.rip);
    report(rdmsr(MSR_LSTAR) == 0x1000, "nothing was written: 0x%lx", rdmsr(MSR_LSTAR));

    self = listen_for(do_it);
    write_lstar(0x2000);
    report(self->count == 1 && self->status == 0 && rdmsr(MSR_LSTAR) == 0x2001, "VTL1 writes what it likes better: 0x%lx",
           rdmsr(MSR_LSTAR));

    hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_LSTAR, 0x3000, 0), HV_STATUS_ACCESS_DENIED,
              "a hypercall is no way around");
    report(rdmsr(MSR_LSTAR) == 0x2001, "it has written nothing");

    self = listen_for(listen_retry);
    self->patience = 3;
    write_lstar(0x4000);
    report(self->count == 4 && rdmsr(MSR_LSTAR) == 0x2001, "VTL0 tries again, and is heard again: %u", self->count);
    self = listen_for(give_up);
    write_lstar(0x4000);
    report(self->count == 1 && self->status == 0 && rdmsr(MSR_LSTAR) == 0x4000, "until VTL1 gives it up: 0x%lx",
           rdmsr(MSR_LSTAR));
    write_lstar(0x5000);
    report(self->count == 1 && rdmsr(MSR_LSTAR) == 0x5000, "from then on it hears nothing");
}

static void check_read(void)
{
    control(CONTROL_LSTAR_READ);
    struct listener *self = listen_for(listen_answer);
    self->answer = 0x0000777700008888;
    uint64_t value = read_lstar();
    const struct listen_message *message = &self->message;
    report(self->count == 1 && value == 0x777700008888, "VTL1 answers a RDMSR: 0x%lx", value);
    report(message->header.access == 0 && message->header.rip == (uint64_t)at_read && message->msr.rax == 0x10 &&
               message->msr.rdx == 0x20,
           "its registers were as before: 0x%lx 0x%lx", message->msr.rdx, message->msr.rax);
    self = listen_for(give_up);
    report(read_lstar() == 0x5000 && self->count == 1, "tried again, it reads the MSR");
}

static void check_each(void)
{
    static const struct {
        uint8_t bit;
        bool write;
        uint32_t msr;
    } bits[] = {
        {3, false, MSR_MISC_ENABLE}, {5, false, MSR_LSTAR},     {6, true, MSR_LSTAR},         {7, false, MSR_STAR},
        {8, true, MSR_STAR},         {9, false, MSR_CSTAR},     {10, true, MSR_CSTAR},        {11, false, MSR_APIC_BASE},
        {12, true, MSR_APIC_BASE},   {13, false, MSR_EFER},     {14, true, MSR_EFER},         {19, true, MSR_SYSENTER_CS},
        {20, true, MSR_SYSENTER_EIP}, {21, true, MSR_SYSENTER_ESP}, {22, true, MSR_SFMASK},   {23, true, MSR_TSC_AUX},
        {24, true, 0x8c},            {24, true, 0x8f},          {25, true, 0xda0},            {26, true, 0x6a2},
        {27, true, 0x6a4},           {27, true, 0x6a6},         {28, true, 0x6a8},
    };
    for (unsigned i = 0; i < sizeof bits / sizeof *bits; i++) {
        uint64_t value = 0;
        bool there = rdmsr_safe(bits[i].msr, &value) == FAULT_NONE;
        control(1ull << bits[i].bit);
        struct listener *self = listen_for(listen_skip);
        int vector = bits[i].write ? wrmsr_safe(bits[i].msr, value) : rdmsr_safe(bits[i].msr, &value);
        uint32_t heard = self->count;
        control(0);
        report(heard == 1 && vector == FAULT_NONE && self->message.msr.number == bits[i].msr &&
                   self->message.header.access == bits[i].write,
               "bit %u: %s of MSR 0x%x%s", bits[i].bit, bits[i].write ? "write" : "read", bits[i].msr,
               there ? "" : ", which this processor does not have");
    }
}

static void check_mask(void)
{
    uint64_t value = rdmsr(MSR_MISC_ENABLE), bit = 1;
    control(CONTROL_MISC_ENABLE_WRITE);
    struct listener *self = listen_for(listen_skip);
    report(wrmsr_safe(MSR_MISC_ENABLE, value ^ bit) == FAULT_NONE && self->count == 0 &&
               rdmsr(MSR_MISC_ENABLE) == (value ^ bit),
           "without a mask no write of MISC_ENABLE counts: 0x%lx", rdmsr(MSR_MISC_ENABLE));
    report(listen_set(HV_REGISTER_CR_INTERCEPT_MISC_ENABLE_MASK, bit) == 0, "a mask");
    wrmsr(MSR_MISC_ENABLE, value);
    report(self->count == 1 && rdmsr(MSR_MISC_ENABLE) == (value ^ bit), "a write that changes a bit of it does: %u",
           self->count);
    wrmsr(MSR_MISC_ENABLE, value ^ bit);
    report(self->count == 1, "one that changes nothing does not");
    control(0);
    wrmsr(MSR_MISC_ENABLE, value);
    report(self->count == 1 && rdmsr(MSR_MISC_ENABLE) == value, "nor any without the control bit");
    listen_set(HV_REGISTER_CR_INTERCEPT_MISC_ENABLE_MASK, 0);
}

/* ---- exceptions ---- */

static void with_another_pending(struct listener *self, struct vtl_frame *frame)
{
    listen_set_of_vtl0(self, HV_REGISTER_PENDING_INTERRUPTION, EVENT_PENDING_ALREADY);
    listen_inject(self, frame);
}

static void check_injection(void)
{
    control(CONTROL_EFER_WRITE);
    struct listener *self = listen_for(listen_inject);
    self->event[0] = EVENT_GP;
    int vector = wrmsr_safe(MSR_EFER, rdmsr(MSR_EFER));
    report(vector == VECTOR_GP && self->count == 1 && self->status == 0, "VTL1 has VTL0 take #GP at its WRMSR: %d", vector);
    self = listen_for(with_another_pending);
    self->event[0] = EVENT_GP;
    vector = wrmsr_safe(MSR_EFER, rdmsr(MSR_EFER));
    report(vector == VECTOR_DF && self->count == 1 && self->status == 0,
           "with #NP on its way already, a double fault: %d, status 0x%x", vector, self->status);
    control(0);
}

/* ---- by number, and unknown ones ---- */

static void check_install(void)
{
    report(listen_install_here(INTERCEPT_MSR, MSR_KERNEL_GS_BASE, ACCESS_MASK_WRITE) == HV_STATUS_ACCESS_DENIED,
           "VTL0 may not install intercepts");
    report(listen_install(INTERCEPT_MSR, 0x802, ACCESS_MASK_WRITE) == HV_STATUS_INVALID_PARAMETER,
           "an x2APIC register, which KVM keeps to itself");
    report(listen_install(INTERCEPT_MSR, MSR_KERNEL_GS_BASE, ACCESS_MASK_WRITE) == 0, "an MSR by its number");
    wrmsr_safe(MSR_KERNEL_GS_BASE, 0);
    struct listener *self = listen_for(listen_skip);
    wrmsr(MSR_KERNEL_GS_BASE, 0x1234);
    report(self->count == 1 && self->message.msr.number == MSR_KERNEL_GS_BASE && rdmsr(MSR_KERNEL_GS_BASE) == 0,
           "VTL1 hears of it: %u", self->count);
    report(listen_install(INTERCEPT_MSR, MSR_KERNEL_GS_BASE, ACCESS_MASK_NONE) == 0, "given up");
    wrmsr(MSR_KERNEL_GS_BASE, 0x1234);
    report(self->count == 1 && rdmsr(MSR_KERNEL_GS_BASE) == 0x1234, "from then on it hears nothing");
    wrmsr(MSR_KERNEL_GS_BASE, 0);

    listen_install(INTERCEPT_MSR, HV_MSR_VP_RUNTIME, ACCESS_MASK_READ);
    self = listen_for(listen_answer);
    self->answer = 42;
    report(rdmsr(HV_MSR_VP_RUNTIME) == 42 && self->count == 1, "a synthetic MSR");
    listen_install(INTERCEPT_MSR, HV_MSR_VP_RUNTIME, ACCESS_MASK_NONE);

    uint64_t value;
    report(rdmsr_safe(NO_MSR, &value) == VECTOR_GP && wrmsr_safe(NO_MSR, 0) == VECTOR_GP, "an MSR that is none");
    report(listen_install(INTERCEPT_MSR_UNKNOWN, 0, ACCESS_MASK_READ | ACCESS_MASK_WRITE) == 0, "all that are none");
    self = listen_for(listen_answer);
    self->answer = 0x600000005;
    int vector = rdmsr_safe(NO_MSR, &value);
    report(vector == FAULT_NONE && value == 0x600000005 && self->message.msr.number == NO_MSR, "VTL1 makes one: 0x%lx",
           value);
    self = listen_for(listen_inject);
    self->event[0] = EVENT_GP;
    report(wrmsr_safe(NO_MSR, 7) == VECTOR_GP && self->count == 1, "or says that there is none");
    report(rdmsr_safe(HV_MSR_NOBODYS, &value) == VECTOR_GP && self->count == 1, "one that the hypervisor knows it is");
    report(listen_install(INTERCEPT_MSR_UNKNOWN, 0, ACCESS_MASK_NONE) == 0 && rdmsr_safe(NO_MSR, &value) == VECTOR_GP &&
               self->count == 1,
           "given up");
}

/* ---- several processors ---- */

static void on_another(void *argument)
{
    (void)argument;
    struct listener *self = listen_for(listen_skip);
    wrmsr(MSR_LSTAR, 0x9000);
    report(self->count == 0 && rdmsr(MSR_LSTAR) == 0x9000, "another processor writes LSTAR unheard: 0x%lx",
           rdmsr(MSR_LSTAR));
    report(wrmsr_safe(MSR_LSTAR, NOT_CANONICAL) == VECTOR_GP && rdmsr(MSR_LSTAR) == 0x9000,
           "and as a processor would: an address that is none is #GP");
    uint64_t efer = rdmsr(MSR_EFER);
    report(wrmsr_safe(MSR_EFER, efer | 1ull << 40) == VECTOR_GP && wrmsr_safe(MSR_EFER, efer & ~EFER_LME) == VECTOR_GP &&
               rdmsr(MSR_EFER) == efer,
           "so are bits of EFER that are none, and leaving long mode");
    report(wrmsr_safe(MSR_EFER, efer) == FAULT_NONE && rdmsr(MSR_EFER) == efer, "what may be written is: 0x%lx", efer);
    report(wrmsr_safe(MSR_EFER, efer ^ 1) == FAULT_NONE && rdmsr(MSR_EFER) == (efer ^ 1), "SCE");
    wrmsr(MSR_EFER, efer);
    report(self->count == 0, "unheard");
}

static void check_processors(void)
{
    control(CONTROL_LSTAR_WRITE | CONTROL_EFER_WRITE);
    smp_run(1, on_another, NULL);
    struct listener *self = listen_for(listen_skip);
    uint64_t before = rdmsr(MSR_LSTAR);
    wrmsr(MSR_LSTAR, 0x9000);
    report(self->count == 1 && rdmsr(MSR_LSTAR) == before, "this one is heard all the while");
    control(0);
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    smp_start();
    vsm_start();
    listen_start();

    check_register();
    check_write();
    check_read();
    check_each();
    check_mask();
    check_injection();
    check_install();
    if (smp_count() > 1)
        check_processors();
    else
        report_skip("intercepts of one processor of several need two");
    return report_summary();
}
