/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of VTL0 whose writes VTL1 wants to hear of, before they happen; ports; interrupts. TLFS 15.13.4, 15.12.4. */
#include "attacks.h"

#define VECTOR_PROBE 0x64
#define VECTOR_VINA 0x65
#define CR4_DE (1u << 3)

A(toggle_cr0, "movq %cr0, %rax; xorq $0x10000, %rax; movq %rax, %cr0");
A(toggle_cr4, "movq %cr4, %rax; xorq $8, %rax; movq %rax, %cr4");
A(write_lstar, "movl $0xc0000082, %ecx; movl $0x1230, %eax; xorl %edx, %edx; wrmsr");
A(write_star, "movl $0xc0000081, %ecx; movl $0, %eax; movl $0x230010, %edx; wrmsr");
A(write_sfmask, "movl $0xc0000084, %ecx; movl $0x4700, %eax; xorl %edx, %edx; wrmsr");
A(write_efer, "movl $0xc0000080, %ecx; rdmsr; xorl $1, %eax; wrmsr");
A(write_apic_base, "movl $0x1b, %ecx; rdmsr; wrmsr");
A(write_sysenter, "movl $0x176, %ecx; movl $0x1000, %eax; xorl %edx, %edx; wrmsr");
A(write_gdtr, "subq $16, %rsp; sgdt (%rsp); lgdt (%rsp); addq $16, %rsp");
A(write_idtr, "subq $16, %rsp; sidt (%rsp); lidt (%rsp); addq $16, %rsp");
A(write_ldtr, "xorl %eax, %eax; lldt %ax");

#define REGISTER_CR0_MASK 0x000e0001
#define REGISTER_CR4_MASK 0x000e0002

static const struct watched_row {
    const char *name;
    uint8_t bit; /* of CrInterceptControl */
    uint32_t mask_register, mask, type, told;
    attempted function;
} watched_rows[] = {
    {"CR0", 0, REGISTER_CR0_MASK, CR0_WP, MESSAGE_REGISTER, HV_REGISTER_CR0, toggle_cr0},
    {"CR4", 1, REGISTER_CR4_MASK, CR4_DE, MESSAGE_REGISTER, HV_REGISTER_CR4, toggle_cr4},
    {"LSTAR", 6, 0, 0, MESSAGE_MSR, 0xc0000082, write_lstar},
    {"STAR", 8, 0, 0, MESSAGE_MSR, 0xc0000081, write_star},
    {"the local APIC's base", 12, 0, 0, MESSAGE_MSR, MSR_APIC_BASE, write_apic_base},
    {"EFER", 14, 0, 0, MESSAGE_MSR, MSR_EFER, write_efer},
    {"GDTR", 15, 0, 0, MESSAGE_REGISTER, HV_REGISTER_GDTR, write_gdtr},
    {"IDTR", 16, 0, 0, MESSAGE_REGISTER, HV_REGISTER_IDTR, write_idtr},
    {"LDTR", 17, 0, 0, MESSAGE_REGISTER, 0x00060006, write_ldtr},
    {"SYSENTER_EIP", 20, 0, 0, MESSAGE_MSR, 0x176, write_sysenter},
    {"SFMASK", 22, 0, 0, MESSAGE_MSR, 0xc0000084, write_sfmask},
};

static uint64_t watch(void *argument)
{
    const struct watched_row *r = argument;
    uint64_t mask = r->mask_register ? hv_set_register(HV_SELF_VP, HV_OWN_VTL, r->mask_register, r->mask, 0) : 0;
    uint64_t control = hv_set_register(HV_SELF_VP, HV_OWN_VTL, REGISTER_CR_INTERCEPT, 1ull << r->bit, 0);
    return (uint16_t)control ? (uint16_t)control : (uint16_t)mask;
}

static uint64_t watch_nothing(void *argument)
{
    (void)argument;
    return hv_set_register(HV_SELF_VP, HV_OWN_VTL, REGISTER_CR_INTERCEPT, 0, 0);
}

struct watchable {
    uint64_t cr0, cr4, lstar, star, efer, sysenter, sfmask;
};

static struct watchable read_watchable(void)
{
    return (struct watchable){read_cr0(), read_cr4(), rdmsr(0xc0000082), rdmsr(0xc0000081), rdmsr(MSR_EFER), rdmsr(0x176),
                              rdmsr(0xc0000084)};
}

static uint64_t install_in_vtl1(void *argument)
{
    uint64_t mask = (uint64_t)argument;
    return call_with(CALL_INSTALL_INTERCEPT, HV_SELF_PARTITION, mask, 0x80, 0);
}

A(write_port, "movl $0x55, %eax; outb %al, $0x80");

static void take_probe(struct frame *frame)
{
    (void)frame;
    apic_eoi();
}

static volatile uint64_t vinas;

static void take_vina(struct frame *frame)
{
    (void)frame;
    vinas++;
    apic_eoi();
}

/* VTL0 gets an interrupt while VTL1 runs: VTL1, which has asked to hear of that, does. */
static uint64_t ask_for_vina(void *argument)
{
    uint64_t vina = VINA_ENABLED | VINA_AUTO_RESET | VECTOR_VINA;
    (void)argument;
    uint64_t status = hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VINA, vina, 0);
    if (!(uint16_t)status) {
        hv_send_ipi(HV_VTL(0), VECTOR_PROBE, 1);
        interrupts_take();
        hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VINA, 0, 0);
    }
    return (uint16_t)status;
}

void watched(void)
{
    begin_class(WATCHED);
    for (unsigned i = 0; i < ARRAY_SIZE(watched_rows); i++) {
        const struct watched_row *r = &watched_rows[i];
        struct watchable before = read_watchable();
        uint16_t status = (uint16_t)vsm_run(watch, (void *)r);
        if (status) {
            row_skipped(r->name, "VTL1 asks to hear of writes", status);
            continue;
        }
        warden_clear(POLICY_ABANDON);
        enum outcome outcome = attempt(r->function, scratch, scratch);
        vsm_run(watch_nothing, NULL);
        struct watchable after = read_watchable();
        const struct hv_message *message = &warden()->log[0];
        uint32_t what = r->type == MESSAGE_MSR ? message->other.msr : message->other.name;
        char detail[80];
        snprintf(detail, sizeof detail, "message 0x%x of 0x%x, %u intercepts", message->type, what, warden()->count);
        row(outcome == OUTCOME_ABANDONED && warden()->count == 1 && message->type == r->type && what == r->told &&
                !memcmp(&before, &after, sizeof before),
            r->name, detail);
    }
    uint16_t status = (uint16_t)vsm_run(install_in_vtl1, (void *)(3 | 0ull << 32));
    if (status) {
        row_skipped("a port", "VTL1 asks to hear of writes", status);
    } else {
        warden_clear(POLICY_ABANDON);
        enum outcome outcome = attempt(write_port, NULL, scratch);
        char detail[60];
        snprintf(detail, sizeof detail, "message 0x%x, %u intercepts", warden()->log[0].type, warden()->count);
        row(outcome == OUTCOME_ABANDONED && warden()->count == 1 && warden()->log[0].type == MESSAGE_IO, "a port", detail);
        vsm_run(install_in_vtl1, 0);
    }
    interrupt_set_handler_of(1, VECTOR_VINA, take_vina);
    interrupt_set_handler_of(0, VECTOR_PROBE, take_probe);
    warden_clear(POLICY_ABANDON);
    interrupts_on();
    status = (uint16_t)vsm_run(ask_for_vina, NULL);
    interrupts_off();
    if (status)
        row_skipped("interrupts of VTL0", "VTL1 asks for VINA", status);
    else
        row(vinas == 1, "interrupts of VTL0", "VTL1 is told by VINA");
    report_prefix_pop();
}
