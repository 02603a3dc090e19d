/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts share: registers by hypercall. */
#pragma once

#include "hyperv.h"
#include "runtime.h"

#define REGISTER_ACTIVITY 0x00000004
#define REGISTER_FEATURES 0x00000200
#define REGISTER_PENDING_INTERRUPTION 0x00010002
#define REGISTER_INTERRUPT_STATE 0x00010003
#define REGISTER_PENDING_EVENT 0x00010004
#define REGISTER_RAX 0x00020000
#define REGISTER_RBX 0x00020003
#define REGISTER_RIP 0x00020010
#define REGISTER_RFLAGS 0x00020011
#define REGISTER_XMM0 0x00030000
#define REGISTER_FP_MMX0 0x00030010
#define REGISTER_FP_CONTROL 0x00030018
#define REGISTER_XMM_CONTROL 0x00030019
#define REGISTER_CR0 0x00040000
#define REGISTER_CR2 0x00040001
#define REGISTER_CR3 0x00040002
#define REGISTER_CR4 0x00040003
#define REGISTER_CR8 0x00040004
#define REGISTER_DR0 0x00050000
#define REGISTER_DR6 0x00050004
#define REGISTER_DR7 0x00050005
#define REGISTER_ES 0x00060000
#define REGISTER_CS 0x00060001
#define REGISTER_TR 0x00060007
#define REGISTER_IDTR 0x00070000
#define REGISTER_GDTR 0x00070001
#define REGISTER_TSC 0x00080000
#define REGISTER_EFER 0x00080001
#define REGISTER_KERNEL_GS_BASE 0x00080002
#define REGISTER_APIC_BASE 0x00080003
#define REGISTER_PAT 0x00080004
#define REGISTER_SYSENTER_CS 0x00080005
#define REGISTER_SFMASK 0x0008000b
#define REGISTER_INITIAL_APIC_ID 0x0008000c
#define REGISTER_MTRR_CAP 0x0008000d
#define REGISTER_MTRR_DEF_TYPE 0x0008000e
#define REGISTER_APIC_ID 0x00084802
#define REGISTER_APIC_SPURIOUS 0x0008480f
#define REGISTER_VP_INDEX 0x00090003
#define REGISTER_VSM_VINA 0x000d0005

#define SEGMENT_CODE64 0xa09b
#define SEGMENT_DATA 0xc093

extern uint64_t input[512], output[512]; /* of a call, a page each */
extern const uint64_t probe_gva; /* nothing is there; no identity either */

/* Of HV_CALL_GET_REGISTERS and HV_CALL_SET_REGISTERS. Both are made with the same stack, where the caller is the same. */
uint64_t access_register(uint64_t code, uint32_t vp, uint32_t name, uint64_t value[2]);
uint64_t get_register(uint32_t vp, uint32_t name, uint64_t value[2]);
uint64_t set_register(uint32_t vp, uint32_t name, uint64_t low, uint64_t high);
uint64_t register_of(uint32_t vp, uint32_t name);

void check_all_registers(void);
void check_refusals(void);
void check_extended(void);
void check_switch(void);
void check_translation(uint32_t vp);
