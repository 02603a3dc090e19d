/* SPDX-License-Identifier: Apache-2.0 */
/* VTL1 hears of VTL0's port and MSR accesses. TLFS 6.1, 13.2, 15.13. */
#include "listen.h"

#include "apic.h"
#include "exit.h"
#include "interrupts.h"
#include "paging.h"
#include "smp.h"
#include "string.h"

_Static_assert(sizeof(struct listen_message) == 256, "HV_MESSAGE");
_Static_assert(offsetof(struct listen_message, io.rdi) == 16 + 120, "HV_X64_IO_PORT_INTERCEPT_MESSAGE");
_Static_assert(offsetof(struct listen_message, msr.rax) == 16 + 56, "HV_X64_MSR_INTERCEPT_MESSAGE");

#define LENGTH 15

static struct listener listeners[MAX_CPUS];

struct listener *listener_of(unsigned cpu)
{
    assert(cpu < MAX_CPUS);
    return &listeners[cpu];
}

struct listener *listener(void)
{
    return listener_of(this_cpu()->index);
}

struct listener *listen_for(decision decide)
{
    struct listener *self = listener();
    self->count = self->by_page = 0;
    self->status = 0;
    self->patience = 0;
    memset(&self->message, 0, sizeof self->message);
    self->decide = decide;
    return self;
}

/* ---- what VTL1 asks for ---- */

struct install {
    uint32_t type, accesses;
    uint64_t parameter;
};

uint16_t listen_install_here(uint32_t type, uint64_t parameter, uint32_t accesses)
{
    uint64_t *input = hv_input();
    input[0] = HV_SELF_PARTITION;
    input[1] = (uint64_t)type << 32 | accesses;
    input[2] = parameter;
    return (uint16_t)hv_call(HV_CALL_INSTALL_INTERCEPT, (uint64_t)input, 0);
}

static uint64_t install(void *argument)
{
    const struct install *wanted = argument;
    return listen_install_here(wanted->type, wanted->parameter, wanted->accesses);
}

uint16_t listen_install(uint32_t type, uint64_t parameter, uint32_t accesses)
{
    struct install wanted = {type, accesses, parameter};
    return (uint16_t)vsm_run(install, &wanted);
}

struct own_register {
    uint64_t value;
    uint32_t name;
};

static uint64_t set(void *argument)
{
    const struct own_register *wanted = argument;
    return (uint16_t)hv_set_register(HV_SELF_VP, HV_OWN_VTL, wanted->name, wanted->value, 0);
}

uint16_t listen_set(uint32_t name, uint64_t value)
{
    struct own_register wanted = {value, name};
    return (uint16_t)vsm_run(set, &wanted);
}

static uint64_t get(void *argument)
{
    return hv_register(HV_SELF_VP, HV_OWN_VTL, (uint32_t)(uint64_t)argument);
}

uint64_t listen_get(uint32_t name)
{
    return vsm_run(get, (void *)(uint64_t)name);
}

/* ---- decisions ---- */

void listen_set_of_vtl0(struct listener *self, uint32_t name, uint64_t value)
{
    uint16_t status = (uint16_t)hv_set_register(HV_SELF_VP, HV_VTL(0), name, value, 0);
    if (status && !self->status)
        self->status = status;
}

void listen_skip(struct listener *self, struct vtl_frame *frame)
{
    const struct listen_header *header = &self->message.header;
    (void)frame;
    listen_set_of_vtl0(self, HV_REGISTER_RIP, header->rip + (header->length_cr8 & LENGTH));
}

void listen_answer(struct listener *self, struct vtl_frame *frame)
{
    frame->rax = (uint32_t)self->answer;
    frame->rdx = self->answer >> 32;
    listen_skip(self, frame);
}

void listen_inject(struct listener *self, struct vtl_frame *frame)
{
    (void)frame;
    uint16_t status =
        (uint16_t)hv_set_register(HV_SELF_VP, HV_VTL(0), HV_REGISTER_PENDING_EVENT, self->event[0], self->event[1]);
    if (status && !self->status)
        self->status = status;
}

void listen_redirect(struct listener *self, struct vtl_frame *frame)
{
    (void)frame;
    listen_set_of_vtl0(self, HV_REGISTER_RIP, self->target);
}

void listen_retry(struct listener *self, struct vtl_frame *frame)
{
    if (self->count > self->patience)
        listen_skip(self, frame);
}

/* ---- hearing, in VTL1 ---- */

static void end_of_interrupt(struct frame *frame)
{
    (void)frame;
    apic_eoi();
}

static void hear(struct listener *self, volatile uint64_t *message, struct vtl_frame *frame)
{
    memcpy(&self->message, (const void *)message, sizeof self->message);
    self->count++;
    if (self->decide)
        self->decide(self, frame);
    *(volatile uint32_t *)message = 0;
}

static void interrupted(struct vtl1 *vtl1, struct vtl_frame *frame)
{
    struct listener *self = listener_of(vtl1->cpu.index);
    interrupts_take();
    if ((uint32_t)*self->slot)
        hear(self, self->slot, frame);
}

static void intercepted(struct vtl1 *vtl1, struct vtl_frame *frame)
{
    struct listener *self = listener_of(vtl1->cpu.index);
    self->by_page++;
    hear(self, (volatile uint64_t *)vtl1->assist->message, frame);
}

static uint64_t open_synic(void *argument)
{
    struct listener *self = argument;
    wrmsr(HV_MSR_SCONTROL, 1);
    wrmsr(HV_MSR_SIMP, (uint64_t)self->slot | 1);
    wrmsr(HV_MSR_SINT0, VECTOR_LISTEN);
    return 0;
}

static void start(void *argument)
{
    (void)argument;
    vsm_run(open_synic, listener());
}

void listen_start(void)
{
    interrupt_set_handler_of(1, VECTOR_LISTEN, end_of_interrupt);
    vsm_set_interrupted(interrupted);
    vsm_set_intercepted(intercepted);
    for (unsigned cpu = 0; cpu < smp_count(); cpu++) {
        listeners[cpu].slot = page_alloc();
        smp_run(cpu, start, NULL);
    }
}
