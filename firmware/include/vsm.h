/* SPDX-License-Identifier: Apache-2.0 */
/* Virtual Trust Levels: VTL1 beside VTL0 on every processor, with its own stack, descriptor tables and page tables.
 * TLFS chapter 15.
 *
 *     vsm_require();                  the guest ends here where VTLs are not offered
 *     smp_start();
 *     vsm_start();                    VTL1 is enabled and set up on all processors
 *     vsm_run(function, argument);    runs it in VTL1 of this processor by a VTL call; its value
 *
 * Code of both VTLs is the same image at the same addresses; this_cpu()->vtl tells in which one it runs. VTL1 runs with
 * interrupts off unless it turns them on. It may have come while VTL0 holds a lock: when an interrupt made it enter, it
 * must neither report nor allocate.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cpu.h"

#define HV_REGISTER_VSM_CODE_PAGE_OFFSETS 0x000d0002
#define HV_REGISTER_VSM_VP_STATUS 0x000d0003
#define HV_REGISTER_VSM_PARTITION_STATUS 0x000d0004
#define HV_REGISTER_VSM_VINA 0x000d0005
#define HV_REGISTER_VSM_CAPABILITIES 0x000d0006
#define HV_REGISTER_VSM_PARTITION_CONFIG 0x000d0007
#define HV_REGISTER_GUEST_VSM_PARTITION_CONFIG 0x000d0008
#define HV_REGISTER_VSM_VP_SECURE_CONFIG_VTL0 0x000d0010

#define HV_REGISTER_PENDING_EVENT 0x00010004
#define HV_REGISTER_RBX 0x00020003
#define HV_REGISTER_RSP 0x00020004
#define HV_REGISTER_RIP 0x00020010
#define HV_REGISTER_RFLAGS 0x00020011
#define HV_REGISTER_FP_MMX0 0x00030010
#define HV_REGISTER_CR0 0x00040000
#define HV_REGISTER_CR3 0x00040002
#define HV_REGISTER_CR4 0x00040003
#define HV_REGISTER_CR8 0x00040004
#define HV_REGISTER_DR3 0x00050003
#define HV_REGISTER_DR7 0x00050005
#define HV_REGISTER_CS 0x00060001
#define HV_REGISTER_TR 0x00060007
#define HV_REGISTER_IDTR 0x00070000
#define HV_REGISTER_GDTR 0x00070001
#define HV_REGISTER_EFER 0x00080001
#define HV_REGISTER_KERNEL_GS_BASE 0x00080002
#define HV_REGISTER_APIC_BASE 0x00080003
#define HV_REGISTER_PAT 0x00080004
#define HV_REGISTER_SYSENTER_EIP 0x00080006
#define HV_REGISTER_SYSENTER_ESP 0x00080007
#define HV_REGISTER_STAR 0x00080008
#define HV_REGISTER_LSTAR 0x00080009
#define HV_REGISTER_CSTAR 0x0008000a
#define HV_REGISTER_SFMASK 0x0008000b
#define HV_REGISTER_GUEST_OS_ID 0x00090002
#define HV_REGISTER_VP_INDEX 0x00090003
#define HV_REGISTER_VP_ASSIST_PAGE 0x00090013
#define HV_REGISTER_SINT0 0x000a0000

#define VSM_CONFIG_ENABLE_PROTECTION (1ull << 0)
#define VSM_CONFIG_ALL_ACCESS (0xfull << 1)
#define VSM_CONFIG_ZERO_MEMORY_ON_RESET (1ull << 5)
#define VSM_CONFIG_DENY_LOWER_STARTUP (1ull << 6)

#define VINA_ENABLED (1u << 8)
#define VINA_AUTO_RESET (1u << 9)
#define VINA_AUTO_EOI (1u << 10)

/* HV_INPUT_VTL */
#define HV_OWN_VTL 0
#define HV_VTL(n) (0x10 | (n))

#define ENTRY_FIRST 0 /* before VTL1 had a VP assist page: nobody wrote a reason */
#define ENTRY_CALL 1
#define ENTRY_INTERRUPT 2
#define ENTRY_INTERCEPT 3 /* with its message in the VP assist page */
#define ENTRY_REASONS 4

/* The VP assist page. */
struct hv_assist {
    uint32_t apic_assist, reserved0;
    uint32_t entry_reason;
    uint8_t vina_asserted, reserved1[3];
    uint64_t return_rax, return_rcx;
    uint8_t reserved2[80];
    uint64_t message[32]; /* of an intercept, HV_MESSAGE */
};

/* The general registers when VTL1 was entered: those of VTL0, which has them back, and all changes, at the return. */
struct vtl_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
};

/* VTL1 of one processor, or a VTL above. */
struct vtl1 {
    struct cpu cpu; /* the VTL's GS base points here */
    volatile struct hv_assist *assist;
    uint32_t vp_index;
    bool ready;        /* it has run and set itself up */
    bool return_fast;  /* leave the lower VTL's RAX and RCX as they are after the return's own instructions */
    volatile uint64_t entries[ENTRY_REASONS]; /* by reason */
    volatile uint64_t rax, rcx; /* the lower VTL's at the last entry */
};

typedef uint64_t (*vtl1_function)(void *argument);
/* A service call: its number in RDI, operands in RSI, RDX, R8; the answer in RAX. */
typedef void (*vtl1_service)(struct vtl1 *self, struct vtl_frame *frame);

/* CPUID and the status registers say that a VTL1 may be enabled. Enables the hypercall page. */
bool vsm_offered(void);
/* Prints a SKIP and ends the guest where it may not. */
void vsm_require(void);

/* All of it, on all processors that run: VP 0's VTL1 by VTL0, the others' by VTL1. */
void vsm_start(void);
/* Its steps. `vsm_prepare` makes VTL1's half of a processor; `vsm_enable_vp` gives it to the hypervisor (the status);
 * the first vsm_call on the processor sets VTL1 up. */
uint64_t vsm_enable_partition(uint64_t partition, uint8_t vtl, uint8_t flags);
struct vtl1 *vsm_prepare(unsigned cpu, uint32_t vp);
/* The same for a VTL above 0. */
struct vtl1 *vsm_prepare_vtl(unsigned cpu, uint32_t vp, unsigned vtl);
uint64_t vsm_enable_vp(uint32_t vp, uint8_t vtl, struct vtl1 *vtl1);
/* The input of HvCallEnableVpVtl and HvCallStartVirtualProcessor in the caller's input page, for what is not as usual;
 * the context is at its third word. NULL: an empty context. */
uint64_t *vsm_vp_input(uint32_t vp, uint8_t vtl, struct vtl1 *vtl1);

/* VTL1 of a processor. */
struct vtl1 *vtl1_of(unsigned cpu);
struct vtl1 *vtl_of(unsigned cpu, unsigned vtl);
/* In VTL1 or above: that VTL of this one. */
static inline struct vtl1 *vtl1_self(void)
{
    return (struct vtl1 *)this_cpu();
}

/* A VTL call with a service number (from 1 up; see vsm_set_service): to VTL1, from there to VTL2. */
uint64_t vsm_call(uint64_t service, uint64_t first, uint64_t second, uint64_t third);
uint64_t vsm_run(vtl1_function function, void *argument);
void vsm_set_service(vtl1_service service);
/* What VTL1 does when an interrupt made it enter; NULL: turns interrupts on for a moment. VTL2 does the same as VTL1 here,
 * with services and at its first entry: `self` tells them apart. */
void vsm_set_interrupted(vtl1_service interrupted);
/* What VTL1 does about an intercept whose message is in the VP assist page. */
void vsm_set_intercepted(vtl1_service intercepted);
/* VTL1 returns with interrupts on: one that makes it enter is handled before anything else. False at first. */
extern bool vtl1_waits_with_interrupts_on;
/* What VTL1 does at its first entry, before it sets itself up; NULL: nothing. */
void vsm_set_first(vtl1_service first);
/* Addresses of the VTL call and return sequences of the VTL that runs. */
uint64_t vsm_call_entry(void);
uint64_t vsm_return_entry(void);

/* HvCallGetVpRegisters and HvCallSetVpRegisters of one register, with pages of this processor and VTL: their result
 * value. `input_vtl` is HV_OWN_VTL or HV_VTL(n). */
uint64_t hv_get_register(uint32_t vp, uint8_t input_vtl, uint32_t name, uint64_t value[2]);
uint64_t hv_set_register(uint32_t vp, uint8_t input_vtl, uint32_t name, uint64_t low, uint64_t high);
/* The low half of a register; all ones when it cannot be read. */
uint64_t hv_register(uint32_t vp, uint8_t input_vtl, uint32_t name);
/* A fixed interrupt for VPs 0 to 63 of a mask, by HvCallSendSyntheticClusterIpi. */
uint64_t hv_send_ipi(uint8_t input_vtl, uint8_t vector, uint64_t vps);
/* HvCallAssertVirtualInterrupt: an interrupt that this VTL makes for the local APICs of a lower one. */
enum interrupt_type { INTERRUPT_FIXED, INTERRUPT_LOWEST_PRIORITY, INTERRUPT_NMI = 4, INTERRUPT_SIPI = 6 };
uint64_t hv_assert_interrupt(enum interrupt_type type, uint64_t apic_id, uint32_t vector, uint8_t vtl);
/* Reports whether a hypercall's status is `status`, or `other`. */
void hv_expect(uint64_t result, uint16_t status, const char *what);
void hv_expect_either(uint64_t result, uint16_t status, uint16_t other, const char *what);
/* This processor's and VTL's pages for a hypercall's input and output. */
uint64_t *hv_input(void);
uint64_t *hv_output(void);
