/* SPDX-License-Identifier: Apache-2.0 */
/* Enabling VTL1, for the partition and on virtual processors: who may, which contexts are refused, what a new VTL is
 * like, and the registers that say so. The second processor's part needs one. TLFS 15.3 to 15.5.
 */
#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define HV_CALL_DISABLE_PARTITION_VTL 0x0e
#define HV_CALL_DISABLE_VP_VTL 0x10
#define ANOTHER_PARTITION 42
#define NO_VP 0xffffffffu
#define VECTOR 0x61

#define CAPABILITY_DENY_LOWER_STARTUP (1ull << 17)
#define CAPABILITY_MBEC(vtl) (2ull << (vtl))
#define FLAG_MBEC 1
#define CONFIG_NOBODY_HAS (1ull << 20)

#define APIC_BASE_BSP (1u << 8)
#define APIC_BASE_X2APIC (1u << 10)
#define APIC_BASE_ENABLED (1u << 11)
#define EFER_LMA_BIT (1ull << 10)
#define RFLAGS_VM (1ull << 17)

static uint64_t partition_status(void)
{
    return hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS);
}

static uint64_t vp_status(uint32_t vp)
{
    return hv_register(vp, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS);
}

static uint8_t maximum_vtl(void)
{
    return partition_status() >> 16 & 15;
}

static void check_before(void)
{
    uint64_t value[2], status = partition_status();
    report((status & 0xffff) == 1 && maximum_vtl() >= 1 && !(status >> 20), "only VTL0 is enabled, up to VTL%u may be: 0x%lx",
           maximum_vtl(), status);
    report(vp_status(HV_SELF_VP) == 0x10000, "the VP has VTL0 only, and runs it: 0x%lx", vp_status(HV_SELF_VP));
    uint64_t offsets = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CODE_PAGE_OFFSETS);
    report(offsets >> 24 == 0 && (offsets & 0xfff) != (offsets >> 12 & 0xfff), "places of VTL call and return: 0x%lx",
           offsets);
    report(hv_get_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CAPABILITIES, value) == HV_REPS(1),
           "capabilities: 0x%lx", value[0]);
    hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VP_STATUS, 0x30000, 0), HV_STATUS_INVALID_PARAMETER,
              "the VP's status cannot be written");
    hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS, 3, 0),
              HV_STATUS_INVALID_PARAMETER, "nor the partition's");
    hv_expect(hv_get_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_PARTITION_CONFIG, value), HV_STATUS_ACCESS_DENIED,
              "VTL0 does not see VTL1's configuration");
    hv_expect(hv_set_register(HV_SELF_VP, HV_VTL(1), HV_REGISTER_VSM_PARTITION_CONFIG, VSM_CONFIG_ALL_ACCESS, 0),
              HV_STATUS_ACCESS_DENIED, "nor writes it");
    hv_expect(hv_get_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, value),
              HV_STATUS_INVALID_PARAMETER, "and has none itself");
    hv_expect(hv_get_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_VINA, value), HV_STATUS_INVALID_PARAMETER,
              "nor a VINA");
    uint64_t guest_config = hv_get_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_GUEST_VSM_PARTITION_CONFIG, value);
    hv_expect_either(guest_config, HV_STATUS_INVALID_PARAMETER, HV_STATUS_ACCESS_DENIED, "nor what is a paravisor's");
    hv_expect(hv_get_register(HV_SELF_VP, 0x20, HV_REGISTER_VSM_VP_STATUS, value), HV_STATUS_INVALID_PARAMETER,
              "reserved bits of a target VTL");
    hv_expect(hv_get_register(HV_SELF_VP, 0x1f, HV_REGISTER_VSM_VP_STATUS, value), HV_STATUS_ACCESS_DENIED,
              "registers of VTL15");
}

static void check_refused_partition(void)
{
    hv_expect(vsm_enable_partition(ANOTHER_PARTITION, 1, 0), HV_STATUS_INVALID_PARTITION_ID, "another partition's VTL1");
    hv_expect(vsm_enable_partition(HV_SELF_PARTITION, 0, 0), HV_STATUS_INVALID_PARAMETER, "VTL0");
    hv_expect(vsm_enable_partition(HV_SELF_PARTITION, maximum_vtl() + 1, 0), HV_STATUS_INVALID_PARAMETER,
              "a VTL above the maximum");
    hv_expect(vsm_enable_partition(HV_SELF_PARTITION, 1, 0x80), HV_STATUS_INVALID_PARAMETER, "unknown flags");
    if (!(hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CAPABILITIES) & CAPABILITY_MBEC(1)))
        hv_expect(vsm_enable_partition(HV_SELF_PARTITION, 1, FLAG_MBEC), HV_STATUS_INVALID_PARAMETER,
                  "mode-based execute control, which is not offered");
    hv_expect(hv_call(HV_CALL_DISABLE_PARTITION_VTL | HV_FAST, HV_SELF_PARTITION, 1), HV_STATUS_INVALID_CODE,
              "disabling a partition's VTL");
    hv_expect(hv_call(HV_CALL_DISABLE_VP_VTL | HV_FAST, HV_SELF_PARTITION, 1), HV_STATUS_INVALID_CODE,
              "disabling a VP's VTL");
    report((partition_status() & 0xffff) == 1, "nothing was enabled by all this");
}

struct bad_context {
    const char *what;
    void (*spoil)(struct hv_context *context);
};

#define SPOIL(name, statement)                         \
    static void name(struct hv_context *context)      \
    {                                                  \
        statement;                                     \
    }
SPOIL(no_protection, context->cr0 = 0x10; context->efer = 0)
SPOIL(paging_without_protection, context->cr0 = 0x80000010)
SPOIL(no_pae, context->cr4 &= ~(uint64_t)CR4_PAE)
SPOIL(bits_of_cr4, context->cr4 |= 1ull << 30)
SPOIL(high_bits_of_cr0, context->cr0 |= 1ull << 40)
SPOIL(active_without_enabled, context->efer = EFER_LMA_BIT)
SPOIL(memory_type, context->pat = 2)
SPOIL(virtual_8086, context->rflags |= RFLAGS_VM)
SPOIL(no_task, context->tr.attributes = 0)
SPOIL(code_is_data, context->cs.attributes = 0xa093)
SPOIL(not_canonical, context->rip = 1ull << 62)

static const struct bad_context bad_contexts[] = {
    {"real mode", no_protection},
    {"paging without protection", paging_without_protection},
    {"long mode without PAE", no_pae},
    {"bits of CR4 that are none", bits_of_cr4},
    {"bits of CR0 that are none", high_bits_of_cr0},
    {"long mode active but not enabled", active_without_enabled},
    {"a memory type that is none", memory_type},
    {"virtual-8086 mode", virtual_8086},
    {"no task register", no_task},
    {"data in CS", code_is_data},
    {"RIP that is not canonical", not_canonical},
};

static uint64_t enable_vp(void)
{
    return hv_call(HV_CALL_ENABLE_VP_VTL, (uint64_t)hv_input(), 0);
}

static void check_refused_vp(struct vtl1 *vtl1)
{
    char text[80];
    uint64_t *input = vsm_vp_input(HV_SELF_VP, 1, vtl1);
    input[0] = ANOTHER_PARTITION;
    hv_expect(enable_vp(), HV_STATUS_INVALID_PARTITION_ID, "another partition's VP");
    hv_expect(vsm_enable_vp(NO_VP, 1, vtl1), HV_STATUS_INVALID_VP_INDEX, "a VP that is not there");
    hv_expect(vsm_enable_vp(HV_SELF_VP, 0, vtl1), HV_STATUS_INVALID_PARAMETER, "VTL0 of the VP");
    report((vsm_enable_vp(HV_SELF_VP, maximum_vtl() + 1, vtl1) & 0xffff) != 0, "a VTL of the VP above the maximum");
    vsm_vp_input(HV_SELF_VP, 1, vtl1);
    uint64_t fast = hv_call(HV_CALL_ENABLE_VP_VTL | HV_FAST, HV_SELF_PARTITION, 1ull << 32 | HV_SELF_VP) & 0xffff;
    report(fast == HV_STATUS_INVALID_INPUT || fast == HV_STATUS_INVALID_PARAMETER,
           "a context does not fit into registers: status 0x%lx", fast);
    for (unsigned i = 0; i < ARRAY_SIZE(bad_contexts); i++) {
        input = vsm_vp_input(HV_SELF_VP, 1, vtl1);
        bad_contexts[i].spoil((struct hv_context *)(input + 2));
        snprintf(text, sizeof text, "a context with %s", bad_contexts[i].what);
        hv_expect(enable_vp(), HV_STATUS_INVALID_REGISTER_VALUE, text);
    }
    report(vp_status(HV_SELF_VP) == 0x10000, "nothing was enabled by all this: 0x%lx", vp_status(HV_SELF_VP));
}

/* ---- what VTL1 finds at its first instruction ---- */

static struct {
    uint64_t cr0, cr3, cr4, cr8, efer, pat, rflags, gs, fs, frame;
    uint64_t os_id, hypercall, assist, simp, siefp, sint, stimer, reference_tsc, apic_base;
    uint32_t apic_id, spurious, ds, cs, tr, ldtr;
    struct table_pointer gdt, idt;
    uint64_t vp_status, reserved;
} found;

static void look(struct vtl1 *self, struct vtl_frame *frame)
{
    (void)self;
    found.frame = (uint64_t)frame;
    found.cr0 = read_cr0(), found.cr3 = read_cr3(), found.cr4 = read_cr4(), found.cr8 = read_cr8();
    found.efer = rdmsr(MSR_EFER), found.pat = rdmsr(MSR_PAT), found.rflags = read_rflags();
    found.gs = rdmsr(MSR_GS_BASE), found.fs = rdmsr(0xc0000100);
    asm volatile("sgdt %0" : "=m"(found.gdt));
    asm volatile("sidt %0" : "=m"(found.idt));
    asm volatile("mov %%ds, %0" : "=r"(found.ds));
    asm volatile("mov %%cs, %0" : "=r"(found.cs));
    asm volatile("str %0" : "=r"(found.tr));
    asm volatile("sldt %0" : "=r"(found.ldtr));
    found.os_id = rdmsr(HV_MSR_GUEST_OS_ID), found.hypercall = rdmsr(HV_MSR_HYPERCALL);
    found.assist = rdmsr(HV_MSR_VP_ASSIST_PAGE), found.simp = rdmsr(HV_MSR_SIMP), found.siefp = rdmsr(HV_MSR_SIEFP);
    found.sint = rdmsr(HV_MSR_SINT0 + 2), found.stimer = rdmsr(HV_MSR_STIMER0_CONFIG);
    found.reference_tsc = rdmsr(HV_MSR_REFERENCE_TSC), found.apic_base = rdmsr(MSR_APIC_BASE);
    found.apic_id = apic_read(APIC_ID) >> 24; /* in xAPIC mode, as it is to be */
    found.spurious = apic_read(APIC_SPURIOUS);
}

static void check_found(const struct vtl1 *vtl1, const struct hv_context *wanted, uint32_t own_id, uint64_t own_base)
{
    report(found.frame + sizeof(struct vtl_frame) == wanted->rsp, "VTL1 starts with its stack: 0x%lx", found.frame);
    report(found.cr3 == wanted->cr3 && found.cr4 == wanted->cr4 && (found.cr0 & ~0x8ull) == (wanted->cr0 & ~0x8ull) &&
               found.cr8 == 0,
           "with its control registers: 0x%lx 0x%lx 0x%lx 0x%lx", found.cr0, found.cr3, found.cr4, found.cr8);
    report(found.efer == (wanted->efer | EFER_LMA_BIT) && found.pat == wanted->pat, "with its EFER and PAT: 0x%lx 0x%lx",
           found.efer, found.pat);
    report(!(found.rflags & RFLAGS_IF), "with interrupts off: 0x%lx", found.rflags);
    report(found.gs == (uint64_t)&vtl1->cpu && found.fs == 0, "with its GS and FS base: 0x%lx 0x%lx", found.gs, found.fs);
    report(found.gdt.base == wanted->gdtr.base && found.gdt.limit == wanted->gdtr.limit &&
               found.idt.base == wanted->idtr.base && found.idt.limit == wanted->idtr.limit,
           "with its GDT and IDT: 0x%lx 0x%lx", found.gdt.base, found.idt.base);
    report(found.cs == SELECTOR_CODE64 && found.ds == SELECTOR_DATA && found.tr == SELECTOR_TSS && found.ldtr == 0,
           "with its selectors: CS 0x%x DS 0x%x TR 0x%x LDTR 0x%x", found.cs, found.ds, found.tr, found.ldtr);
    report(!found.os_id && !(found.hypercall & 1) && !(found.assist & 1) && !(found.simp & 1) && !(found.siefp & 1) &&
               !found.stimer && !(found.reference_tsc & 1),
           "its synthetic MSRs are as after power-on");
    report(found.sint == SINT_MASKED, "its SINTs are masked: 0x%lx", found.sint);
    report((found.apic_base & (APIC_BASE_ENABLED | APIC_BASE_X2APIC)) == APIC_BASE_ENABLED &&
               (found.apic_base & APIC_BASE_BSP) == (own_base & APIC_BASE_BSP),
           "its local APIC is on, in xAPIC mode, BSP where VTL0's is: 0x%lx", found.apic_base);
    report(found.apic_id == own_id, "it has the same APIC id: %u", found.apic_id);
    report(found.spurious >> 8 & 1, "and is enabled by software: 0x%x", found.spurious);
}

/* ---- from VTL1 ---- */

static uint64_t look_from_vtl1(void *argument)
{
    (void)argument;
    uint64_t value[2];
    report(vp_status(HV_SELF_VP) == 0x30001, "VTL1 sees that it runs: 0x%lx", vp_status(HV_SELF_VP));
    report((partition_status() & 0xffff) == 3, "and the same status of the partition: 0x%lx", partition_status());
    hv_expect(vsm_enable_partition(HV_SELF_PARTITION, 0, 0), HV_STATUS_INVALID_PARAMETER, "VTL0, by VTL1");
    hv_expect(vsm_enable_partition(HV_SELF_PARTITION, maximum_vtl() + 1, 0), HV_STATUS_INVALID_PARAMETER,
              "a VTL above the maximum, by VTL1");
    hv_expect_either(vsm_enable_vp(HV_SELF_VP, 1, vtl1_self()), HV_STATUS_VTL_ALREADY_ENABLED,
                     HV_STATUS_INVALID_PARAMETER, "VTL1 of the VP again, by itself");

    hv_get_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, value);
    report(value[0] == (VSM_CONFIG_ALL_ACCESS | VSM_CONFIG_ZERO_MEMORY_ON_RESET), "its configuration: 0x%lx", value[0]);
    hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, value[0] | CONFIG_NOBODY_HAS, 0),
              HV_STATUS_INVALID_REGISTER_VALUE, "unknown bits of it");
    hv_expect(hv_set_register(HV_SELF_VP, HV_VTL(0), HV_REGISTER_VSM_PARTITION_CONFIG, value[0], 0),
              HV_STATUS_INVALID_PARAMETER, "a configuration of VTL0");
    uint64_t on = value[0] | VSM_CONFIG_ENABLE_PROTECTION;
    hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, on, 0), 0,
              "protection switched on");
    hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, value[0], 0),
              HV_STATUS_INVALID_REGISTER_VALUE, "but not off again");
    hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG,
                              (on & ~VSM_CONFIG_ALL_ACCESS) | 0x7ull << 1, 0),
              0, "a default mask after that");
    report(hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG) == on, "is not taken: 0x%lx",
           hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG));
    uint64_t keep = on & ~VSM_CONFIG_ZERO_MEMORY_ON_RESET;
    hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, keep, 0), 0,
              "memory kept at a reset");
    report(hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG) == keep, "as it reads back");
    if (hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CAPABILITIES) & CAPABILITY_DENY_LOWER_STARTUP) {
        hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG,
                                  on | VSM_CONFIG_DENY_LOWER_STARTUP, 0),
                  0, "starts by VTL0 denied");
        hv_expect(hv_set_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_CONFIG, on, 0), 0, "and allowed");
    }
    return 0;
}

/* ---- a second processor ---- */

static struct vtl1 *other;

static uint64_t enable_other(void *argument)
{
    (void)argument;
    return vsm_enable_vp(1, 1, other);
}

static uint64_t empty(void *argument)
{
    return (uint64_t)argument + 1;
}

static uint64_t self_enabling, first_answer;
static volatile uint32_t interrupts;

static void take(struct frame *frame)
{
    (void)frame;
    interrupts += this_cpu()->vtl == 1;
    apic_eoi();
}

static void enable_itself(void *argument)
{
    (void)argument;
    self_enabling = vsm_enable_vp(HV_SELF_VP, 1, other);
}

static void call_first(void *argument)
{
    first_answer = vsm_run(empty, argument);
}

static void check_second_processor(void)
{
    smp_run(1, enable_itself, NULL);
    hv_expect(self_enabling, HV_STATUS_ACCESS_DENIED, "VTL1 of the second VP by its own VTL0");
    hv_expect(vsm_enable_vp(1, 1, other), HV_STATUS_ACCESS_DENIED, "or by the first one's");
    hv_expect(vsm_run(enable_other, NULL), 0, "by the first VP's VTL1");
    hv_expect_either(vsm_run(enable_other, NULL), HV_STATUS_VTL_ALREADY_ENABLED, HV_STATUS_INVALID_PARAMETER, "twice");
    report(vp_status(1) == 0x30000, "the second VP has VTL1 and runs VTL0: 0x%lx", vp_status(1));
    wait_us(20000);
    report(!other->ready, "its VTL1 does not run by that");
    interrupt_set_handler_of(1, VECTOR, take);
    hv_send_ipi(HV_VTL(1), VECTOR, 2);
    report(WAIT_FOR(interrupts == 1, 2000), "an interrupt enters a VTL1 that has never run");
    smp_run(1, call_first, (void *)41);
    report(first_answer == 42 && other->entries[ENTRY_FIRST] == 1 && other->entries[ENTRY_CALL] == 1,
           "VTL0 calls it");
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    vsm_require();
    tsc_hz();
    bool two = smp_start() > 1;
    struct vtl1 *vtl1 = vsm_prepare(0, 0);
    if (two)
        other = vsm_prepare(1, 1);

    report_prefix_push("before");
    check_before();
    report_prefix_pop();
    report_prefix_push("partition");
    check_refused_partition();
    hv_expect_either(vsm_enable_vp(HV_SELF_VP, 1, vtl1), HV_STATUS_INVALID_VTL_STATE, HV_STATUS_INVALID_PARAMETER,
                     "a VP's VTL1 before the partition's");
    hv_expect(vsm_enable_partition(HV_SELF_PARTITION, 1, 0), 0, "VTL1");
    report((partition_status() & 0xffff) == 3, "is enabled then: 0x%lx", partition_status());
    report(vp_status(HV_SELF_VP) == 0x10000, "but on no VP: 0x%lx", vp_status(HV_SELF_VP));
    hv_expect_either(vsm_enable_partition(HV_SELF_PARTITION, 1, 0), HV_STATUS_INVALID_VTL_STATE,
                     HV_STATUS_INVALID_PARAMETER, "VTL1 again");
    report_prefix_pop();

    report_prefix_push("VP");
    check_refused_vp(vtl1);
    if (two)
        hv_expect(vsm_enable_vp(1, 1, other), HV_STATUS_ACCESS_DENIED, "another VP's VTL1 before the own");
    vsm_set_first(look);
    uint64_t *input = vsm_vp_input(HV_SELF_VP, 1, vtl1);
    struct hv_context wanted = *(struct hv_context *)(input + 2);
    hv_expect(enable_vp(), 0, "VTL1");
    report(vp_status(HV_SELF_VP) == 0x30000 && !vtl1->ready, "is enabled, but does not run: 0x%lx",
           vp_status(HV_SELF_VP));
    hv_expect_either(vsm_enable_vp(HV_SELF_VP, 1, vtl1), HV_STATUS_VTL_ALREADY_ENABLED, HV_STATUS_ACCESS_DENIED,
                     "VTL1 again");
    uint32_t own_id = apic_id();
    uint64_t own_base = rdmsr(MSR_APIC_BASE);
    vsm_run(empty, NULL);
    report(vtl1->ready && vtl1->entries[ENTRY_FIRST] == 1, "runs when it is called");
    vsm_set_first(NULL);
    check_found(vtl1, &wanted, own_id, own_base);
    report_prefix_pop();

    report_prefix_push("VTL1");
    vsm_run(look_from_vtl1, NULL);
    report_prefix_pop();
    report(vp_status(HV_SELF_VP) == 0x30000, "VTL0 sees that it runs: 0x%lx", vp_status(HV_SELF_VP));

    report_prefix_push("second VP");
    if (two)
        check_second_processor();
    else
        report_skip("there is none");
    report_prefix_pop();
    return report_summary();
}
