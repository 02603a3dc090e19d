/* SPDX-License-Identifier: Apache-2.0 */
/* The Hyper-V guest interface: MSRs, call codes, statuses, the hypercall page. TLFS. */
#pragma once

#include <stdint.h>

#include "cpu.h"

#define HV_LEAF_VENDOR 0x40000000
#define HV_LEAF_INTERFACE 0x40000001
#define HV_LEAF_FEATURES 0x40000003
#define HV_LEAF_RECOMMENDATIONS 0x40000004

#define HV_MSR_GUEST_OS_ID 0x40000000
#define HV_MSR_HYPERCALL 0x40000001
#define HV_MSR_VP_INDEX 0x40000002
#define HV_MSR_RESET 0x40000003
#define HV_MSR_VP_RUNTIME 0x40000010
#define HV_MSR_TIME_REF_COUNT 0x40000020
#define HV_MSR_REFERENCE_TSC 0x40000021
#define HV_MSR_TSC_FREQUENCY 0x40000022
#define HV_MSR_NPIEP 0x40000040
#define HV_MSR_EOI 0x40000070
#define HV_MSR_ICR 0x40000071
#define HV_MSR_TPR 0x40000072
#define HV_MSR_VP_ASSIST_PAGE 0x40000073
#define HV_MSR_SCONTROL 0x40000080
#define HV_MSR_SVERSION 0x40000081
#define HV_MSR_SIEFP 0x40000082
#define HV_MSR_SIMP 0x40000083
#define HV_MSR_EOM 0x40000084
#define HV_MSR_SINT0 0x40000090
#define HV_MSR_STIMER0_CONFIG 0x400000b0
#define HV_MSR_STIMER0_COUNT 0x400000b1
#define HV_MSR_GUEST_IDLE 0x400000f0
#define HV_MSR_CRASH_P0 0x40000100
#define HV_MSR_CRASH_CTL 0x40000105

#define HV_CALL_SWITCH_ADDRESS_SPACE 0x01
#define HV_CALL_FLUSH_SPACE 0x02
#define HV_CALL_SPIN_WAIT 0x08
#define HV_CALL_SEND_IPI 0x0b
#define HV_CALL_ENABLE_PARTITION_VTL 0x0d
#define HV_CALL_ENABLE_VP_VTL 0x0f
#define HV_CALL_VTL_CALL 0x11
#define HV_CALL_VTL_RETURN 0x12
#define HV_CALL_SEND_IPI_EX 0x15
#define HV_CALL_GET_REGISTERS 0x50
#define HV_CALL_SET_REGISTERS 0x51
#define HV_CALL_TRANSLATE 0x52
#define HV_CALL_ASSERT_INTERRUPT 0x94
#define HV_CALL_START_VP 0x99
#define HV_CALL_VP_INDEX_FROM_APIC_ID 0x9a
#define HV_CALL_TRANSLATE_EX 0xac
#define HV_CALL_SIGNAL_EVENT_DIRECT 0xc0
#define HV_CALL_POST_MESSAGE_DIRECT 0xc1
#define HV_CALL_CHECK_ACCESS 0xd4 /* HvCallCheckSparseGpaPageVtlAccess */
#define HV_CALL_QUERY_CAPABILITIES 0x8001
#define HV_FAST (1ull << 16)
#define HV_REPS(n) ((uint64_t)(n) << 32)
#define HV_SELF_PARTITION ~0ull
#define HV_SELF_VP 0xfffffffeu

#define HV_STATUS_INVALID_CODE 0x02
#define HV_STATUS_INVALID_INPUT 0x03
#define HV_STATUS_INVALID_ALIGNMENT 0x04
#define HV_STATUS_INVALID_PARAMETER 0x05
#define HV_STATUS_ACCESS_DENIED 0x06
#define HV_STATUS_INVALID_PARTITION_ID 0x0d
#define HV_STATUS_INVALID_VP_INDEX 0x0e
#define HV_STATUS_INVALID_VP_STATE 0x15
#define HV_STATUS_INVALID_SYNIC_STATE 0x18
#define HV_STATUS_INVALID_REGISTER_VALUE 0x50
#define HV_STATUS_INVALID_VTL_STATE 0x51
#define HV_STATUS_VTL_ALREADY_ENABLED 0x86

#define SINT_MASKED (1ull << 16)
#define SINT_AUTO_EOI (1ull << 17)
#define STIMER_ENABLED 1ull
#define STIMER_PERIODIC 2ull
#define STIMER_AUTO_ENABLE 8ull
#define STIMER_DIRECT(vector) ((uint64_t)(vector) << 4 | 1ull << 12)
#define STIMER_SINT(n) ((uint64_t)(n) << 16)
#define TIMER_MESSAGE 0x80000010u
#define MS_100NS 10000ull

struct hv_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector, attributes;
};

struct hv_table {
    uint16_t pad[3];
    uint16_t limit;
    uint64_t base;
};

struct hv_context {
    uint64_t rip, rsp, rflags;
    struct hv_segment cs, ds, es, fs, gs, ss, tr, ldtr;
    struct hv_table idtr, gdtr;
    uint64_t efer, cr0, cr3, cr4, pat;
};

/* Reports a guest OS id and enables the hypercall page, for the VTL that runs. */
void hv_init(void);
/* The address of that VTL's hypercall page. */
uint64_t hv_page(void);
/* Calls the hypercall page; the result. Parameters are GPAs, or the input itself with HV_FAST. */
uint64_t hv_call(uint64_t control, uint64_t first, uint64_t second);

/* HV_REFERENCE_TSC_PAGE, and the reference time that it gives now, in 100 ns. */
struct hv_tsc_page {
    volatile uint32_t sequence; /* 0: use the counter's MSR */
    uint32_t reserved;
    volatile uint64_t scale;
    volatile int64_t offset;
};

static inline uint64_t hv_page_time(const struct hv_tsc_page *page)
{
    uint64_t product, low;
    uint32_t sequence;
    do {
        sequence = page->sequence;
        asm volatile("mulq %3" : "=d"(product), "=a"(low) : "a"(rdtsc()), "m"(page->scale));
        product += (uint64_t)page->offset;
    } while (page->sequence != sequence);
    return product;
}
