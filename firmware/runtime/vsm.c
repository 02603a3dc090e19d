/* SPDX-License-Identifier: Apache-2.0 */
/* VTL1, and VTL2, on every processor: how they are enabled, entered and left. TLFS chapter 15. */
#include "vsm.h"

#include "apic.h"
#include "exit.h"
#include "hyperv.h"
#include "interrupts.h"
#include "paging.h"
#include "report.h"
#include "smp.h"
#include "string.h"
#include "timers.h"

#define VENDOR_EBX 0x7263694d /* "Micr" */
#define PRIVILEGE_SYNIC (1u << 2)         /* of EAX */
#define PRIVILEGE_VSM (1u << 16)          /* of EBX */
#define PRIVILEGE_VP_REGISTERS (1u << 17) /* of EBX */

#define ATTRIBUTES_CODE64 0xa09b
#define ATTRIBUTES_DATA 0xc093
#define ATTRIBUTES_LDT 0x0082
#define ATTRIBUTES_BUSY_TASK 0x008b

#define STACK_PAGES 4
#define IDENTITY_GIB 4
#define OFFSET_BITS 12
#define SERVICE_RUN 0

extern const char vtl1_loop[];
void vtl1_entered(struct vtl_frame *frame);

_Static_assert(offsetof(struct cpu, vtl_return_entry) == 16, "vsm.S");
_Static_assert(offsetof(struct cpu, vtl_return_control) == 24, "vsm.S");
_Static_assert(offsetof(struct hv_assist, message) == 112, "HV_VP_ASSIST_PAGE");

static struct vtl1 *vtls[VTLS][MAX_CPUS];
/* Input and output page of each processor and VTL. */
static uint64_t *call_pages[VTLS][MAX_CPUS];
static uint64_t call_entries[VTLS], return_entries[VTLS];
static uint64_t page_tables[VTLS]; /* of those above 0 */
bool vtl1_waits_with_interrupts_on;
static vtl1_service service_handler, interrupted_handler, intercepted_handler, first_handler;

/* ---- hypercalls ---- */

uint64_t *hv_input(void)
{
    uint64_t **pages = &call_pages[this_cpu()->vtl][this_cpu()->index];
    if (!*pages)
        *pages = pages_alloc(2);
    return *pages;
}

uint64_t *hv_output(void)
{
    return hv_input() + PAGE_SIZE / sizeof(uint64_t);
}

static uint64_t *register_input(uint32_t vp, uint8_t input_vtl, uint32_t name)
{
    uint64_t *input = hv_input();
    memset(input, 0, 48);
    input[0] = HV_SELF_PARTITION;
    input[1] = (uint64_t)input_vtl << 32 | vp;
    input[2] = name;
    return input;
}

uint64_t hv_get_register(uint32_t vp, uint8_t input_vtl, uint32_t name, uint64_t value[2])
{
    uint64_t *input = register_input(vp, input_vtl, name), *output = hv_output();
    uint64_t result = hv_call(HV_CALL_GET_REGISTERS | HV_REPS(1), (uint64_t)input, (uint64_t)output);
    value[0] = output[0];
    value[1] = output[1];
    return result;
}

uint64_t hv_set_register(uint32_t vp, uint8_t input_vtl, uint32_t name, uint64_t low, uint64_t high)
{
    uint64_t *input = register_input(vp, input_vtl, name);
    input[4] = low;
    input[5] = high;
    return hv_call(HV_CALL_SET_REGISTERS | HV_REPS(1), (uint64_t)input, 0);
}

uint64_t hv_register(uint32_t vp, uint8_t input_vtl, uint32_t name)
{
    uint64_t value[2];
    return hv_get_register(vp, input_vtl, name, value) == HV_REPS(1) ? value[0] : ~0ull;
}

uint64_t hv_send_ipi(uint8_t input_vtl, uint8_t vector, uint64_t vps)
{
    return hv_call(HV_CALL_SEND_IPI | HV_FAST, (uint64_t)input_vtl << 32 | vector, vps);
}

uint64_t hv_assert_interrupt(enum interrupt_type type, uint64_t apic_id, uint32_t vector, uint8_t vtl)
{
    uint64_t *input = hv_input();
    input[0] = HV_SELF_PARTITION, input[1] = type, input[2] = apic_id, input[3] = (uint64_t)vtl << 32 | vector;
    return hv_call(HV_CALL_ASSERT_INTERRUPT, (uint64_t)input, 0);
}

void hv_expect(uint64_t result, uint16_t status, const char *what)
{
    hv_expect_either(result, status, status, what);
}

void hv_expect_either(uint64_t result, uint16_t status, uint16_t other, const char *what)
{
    uint16_t is = (uint16_t)result;
    report(is == status || is == other, "%s: status 0x%x", what, is);
}

/* ---- enabling ---- */

static void find_entries(void)
{
    unsigned vtl = this_cpu()->vtl;
    uint64_t offsets = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CODE_PAGE_OFFSETS);
    call_entries[vtl] = hv_page() + (offsets & (PAGE_SIZE - 1));
    return_entries[vtl] = hv_page() + (offsets >> OFFSET_BITS & (PAGE_SIZE - 1));
}

uint64_t vsm_call_entry(void)
{
    return call_entries[this_cpu()->vtl];
}

uint64_t vsm_return_entry(void)
{
    return return_entries[this_cpu()->vtl];
}

bool vsm_offered(void)
{
    struct cpuid vendor = cpuid(HV_LEAF_VENDOR, 0), features = cpuid(HV_LEAF_FEATURES, 0);
    const uint32_t wanted = PRIVILEGE_VSM | PRIVILEGE_VP_REGISTERS;
    if (!(cpuid(1, 0).ecx >> 31) || vendor.ebx != VENDOR_EBX || vendor.eax < HV_LEAF_FEATURES)
        return false;
    if ((features.ebx & wanted) != wanted || !(features.eax & PRIVILEGE_SYNIC))
        return false;
    hv_init();
    uint64_t status = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS);
    if (status == ~0ull || !(status >> 16 & 15))
        return false;
    find_entries();
    return true;
}

void vsm_require(void)
{
    if (vsm_offered())
        return;
    report_skip("VTLs are not offered");
    exit(report_summary());
}

/* The same addresses as VTL0's, by tables of its own. */
static uint64_t make_page_tables(void)
{
    uint64_t *tables = pages_alloc(2 + IDENTITY_GIB);
    const uint64_t *old = (const uint64_t *)(read_cr3() & PTE_ADDRESS);
    const uint64_t *old_gib = (const uint64_t *)(old[0] & PTE_ADDRESS);
    uint64_t *gib = tables + 512;
    tables[0] = (uint64_t)gib | PTE_PRESENT | PTE_WRITE;
    for (unsigned i = 0; i < IDENTITY_GIB; i++) {
        uint64_t *mib = gib + 512 * (i + 1);
        gib[i] = (uint64_t)mib | PTE_PRESENT | PTE_WRITE;
        memcpy(mib, (const void *)(old_gib[i] & PTE_ADDRESS), PAGE_SIZE);
    }
    return (uint64_t)tables;
}

struct vtl1 *vsm_prepare(unsigned cpu, uint32_t vp)
{
    return vsm_prepare_vtl(cpu, vp, 1);
}

struct vtl1 *vsm_prepare_vtl(unsigned cpu, uint32_t vp, unsigned vtl)
{
    struct vtl1 *vtl1 = page_alloc();
    _Static_assert(sizeof(*vtl1) <= PAGE_SIZE, "a VTL's part of a processor is one page");
    if (!page_tables[vtl])
        page_tables[vtl] = make_page_tables();
    vtl1->cpu.self = &vtl1->cpu;
    vtl1->cpu.stack_top = (uint64_t)pages_alloc(STACK_PAGES) + STACK_PAGES * PAGE_SIZE;
    vtl1->cpu.vtl = vtl;
    vtl1->cpu.index = cpu;
    vtl1->vp_index = vp;
    vtl1->assist = page_alloc();
    cpu_fill_tables(&vtl1->cpu);
    call_pages[vtl][cpu] = pages_alloc(2); /* not by that VTL: see vsm.h */
    vtls[vtl][cpu] = vtl1;
    return vtl1;
}

uint64_t *vsm_vp_input(uint32_t vp, uint8_t vtl, struct vtl1 *vtl1)
{
    uint64_t *input = hv_input();
    struct hv_context *context = (struct hv_context *)(input + 2);
    memset(input, 0, PAGE_SIZE);
    input[0] = HV_SELF_PARTITION;
    input[1] = (uint64_t)vtl << 32 | vp;
    if (!vtl1)
        return input;
    struct table_pointer idt = idt_pointer(vtl1->cpu.vtl);
    struct hv_segment data = {0, 0xffffffff, SELECTOR_DATA, ATTRIBUTES_DATA};
    context->rip = (uint64_t)vtl1_loop;
    context->rsp = vtl1->cpu.stack_top - 8; /* aligned behind struct vtl_frame */
    context->rflags = 2;
    context->cs = (struct hv_segment){0, 0xffffffff, SELECTOR_CODE64, ATTRIBUTES_CODE64};
    context->ds = context->es = context->fs = context->gs = context->ss = data;
    context->gs.base = (uint64_t)&vtl1->cpu;
    context->tr = (struct hv_segment){(uint64_t)&vtl1->cpu.tss, sizeof(struct tss) - 1, SELECTOR_TSS,
                                      ATTRIBUTES_BUSY_TASK};
    context->ldtr = (struct hv_segment){0, 0, 0, ATTRIBUTES_LDT};
    context->idtr = (struct hv_table){.limit = idt.limit, .base = idt.base};
    context->gdtr = (struct hv_table){.limit = sizeof(vtl1->cpu.gdt) - 1, .base = (uint64_t)vtl1->cpu.gdt};
    context->efer = rdmsr(MSR_EFER);
    context->cr0 = read_cr0();
    context->cr3 = page_tables[vtl1->cpu.vtl];
    context->cr4 = read_cr4();
    context->pat = rdmsr(MSR_PAT);
    return input;
}

uint64_t vsm_enable_partition(uint64_t partition, uint8_t vtl, uint8_t flags)
{
    return hv_call(HV_CALL_ENABLE_PARTITION_VTL | HV_FAST, partition, (uint64_t)flags << 8 | vtl);
}

uint64_t vsm_enable_vp(uint32_t vp, uint8_t vtl, struct vtl1 *vtl1)
{
    return hv_call(HV_CALL_ENABLE_VP_VTL, (uint64_t)vsm_vp_input(vp, vtl, vtl1), 0);
}

static void read_vp_index(void *argument)
{
    *(uint32_t *)argument = (uint32_t)rdmsr(HV_MSR_VP_INDEX);
}

static uint64_t enable_by_vtl1(void *argument)
{
    struct vtl1 *other = argument;
    return vsm_enable_vp(other->vp_index, 1, other);
}

static uint64_t nothing(void *argument)
{
    return (uint64_t)argument;
}

static void first_call(void *argument)
{
    vsm_run(nothing, argument);
}

void vsm_start(void)
{
    tsc_hz(); /* VTL1 is to find it measured */
    uint64_t status = vsm_enable_partition(HV_SELF_PARTITION, 1, 0);
    if (status)
        abort_run("HvCallEnablePartitionVtl: status 0x%lx", status);
    for (unsigned i = 0; i < smp_count(); i++) {
        uint32_t vp;
        smp_run(i, read_vp_index, &vp);
        struct vtl1 *vtl1 = vsm_prepare(i, vp);
        status = i == this_cpu()->index ? vsm_enable_vp(vp, 1, vtl1) : vsm_run(enable_by_vtl1, vtl1);
        if (status)
            abort_run("HvCallEnableVpVtl of VP %u: status 0x%lx", vp, status);
        smp_run(i, first_call, NULL);
    }
}

struct vtl1 *vtl1_of(unsigned cpu)
{
    return vtl_of(cpu, 1);
}

struct vtl1 *vtl_of(unsigned cpu, unsigned vtl)
{
    assert(cpu < MAX_CPUS && vtl < VTLS && vtls[vtl][cpu]);
    return vtls[vtl][cpu];
}

/* ---- calls ---- */

uint64_t vsm_call(uint64_t service, uint64_t first, uint64_t second, uint64_t third)
{
    uint64_t rax, control = 0, entry = vsm_call_entry();
    register uint64_t r8 asm("r8") = third;
    asm volatile("call *%[entry]"
                 : "=a"(rax), "+c"(control), "+D"(service), "+S"(first), "+d"(second), "+r"(r8)
                 : [entry] "r"(entry)
                 : "memory", "cc");
    return rax;
}

uint64_t vsm_run(vtl1_function function, void *argument)
{
    return vsm_call(SERVICE_RUN, (uint64_t)function, (uint64_t)argument, 0);
}

void vsm_set_service(vtl1_service service)
{
    service_handler = service;
}

void vsm_set_interrupted(vtl1_service interrupted)
{
    interrupted_handler = interrupted;
}

void vsm_set_intercepted(vtl1_service intercepted)
{
    intercepted_handler = intercepted;
}

void vsm_set_first(vtl1_service first)
{
    first_handler = first;
}

/* ---- in VTL1 and VTL2 ---- */

static void set_up(struct vtl1 *self)
{
    if (!call_entries[self->cpu.vtl]) {
        hv_init(); /* one hypercall page for the VTL of all processors */
        find_entries();
    }
    self->cpu.vtl_return_entry = return_entries[self->cpu.vtl];
    wrmsr(HV_MSR_VP_ASSIST_PAGE, (uint64_t)self->assist | 1);
    apic_init();
    self->cpu.apic_id = apic_id();
    self->ready = true;
}

void vtl1_entered(struct vtl_frame *frame)
{
    struct vtl1 *self = vtl1_self();
    uint32_t reason = self->ready ? self->assist->entry_reason : ENTRY_FIRST;
    self->rax = frame->rax;
    self->rcx = frame->rcx;
    if (!self->ready) {
        if (first_handler)
            first_handler(self, frame);
        set_up(self);
    }
    self->entries[reason % ENTRY_REASONS]++;
    if (reason == ENTRY_INTERRUPT) {
        if (interrupted_handler)
            interrupted_handler(self, frame);
        else
            interrupts_take();
    } else if (reason == ENTRY_CALL) {
        if (frame->rdi == SERVICE_RUN)
            frame->rax = ((vtl1_function)frame->rsi)((void *)frame->rdx);
        else if (service_handler)
            service_handler(self, frame);
    } else if (reason == ENTRY_INTERCEPT && intercepted_handler) {
        intercepted_handler(self, frame);
    } else if (reason != ENTRY_FIRST) {
        abort_run("VTL%u of CPU %u: entry reason %u", self->cpu.vtl, self->cpu.index, reason);
    }
    self->assist->return_rax = frame->rax;
    self->assist->return_rcx = frame->rcx;
    self->cpu.vtl_return_control = self->return_fast;
}
