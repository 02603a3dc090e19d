/* SPDX-License-Identifier: Apache-2.0 */
/* VTL1 as the warden of memory: it takes rights away from VTL0, hears of each access that VTL0 makes in spite of that, and
 * decides what becomes of it. TLFS 15.9, 15.13.
 *
 *     vsm_start();
 *     protect_listen();                               intercepts reach VTL1 on all processors
 *     protect_enable(RIGHTS_ALL);                     VTL1 may protect, and has protected nothing yet
 *     protect((uint64_t)page, PAGE_SIZE, RIGHTS_R);
 *     warden()->policy = POLICY_OPEN;                 what VTL1 does about this processor's next intercepts
 *     ... an access ...                               warden()->count, warden()->log[0].memory
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "hyperv.h"
#include "vsm.h"

#define HV_CALL_MODIFY_PROTECTION 0x0c
#define PROTECT_SLOW_PAGES 510 /* of one call: what fits into its input page, */
#define PROTECT_FAST_PAGES 12  /* or into XMM0 to 5 */

/* HV_MAP_GPA_FLAGS. Without mode-based execute control, either execute bit is execute. */
#define RIGHT_READ 1u
#define RIGHT_WRITE 2u
#define RIGHT_EXECUTE 0xcu
#define RIGHTS_NONE 0u
#define RIGHTS_R RIGHT_READ
#define RIGHTS_RX (RIGHT_READ | RIGHT_EXECUTE)
#define RIGHTS_RW (RIGHT_READ | RIGHT_WRITE)
#define RIGHTS_ALL (RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE)

/* The access type of an intercept. */
#define ACCESS_READ 0
#define ACCESS_WRITE 1
#define ACCESS_EXECUTE 2

#define MESSAGE_MEMORY 0x80000001u
#define MESSAGE_IO 0x80010000u
#define MESSAGE_MSR 0x80010001u
#define MESSAGE_REGISTER 0x80010006u
#define MESSAGE_PAYLOAD 240

/* Of `state`. */
#define STATE_CPL 3u
#define STATE_PE (1u << 2)
#define STATE_AM (1u << 3)
#define STATE_LMA (1u << 4)
#define STATE_INTERRUPTION_PENDING (1u << 6)
#define STATE_VTL (15u << 7)

#define INFO_GVA_VALID 1u

/* HV_X64_MEMORY_INTERCEPT_MESSAGE, with the registers that its longer form has. */
struct memory_intercept {
    uint32_t vp;
    uint8_t length_cr8;
    uint8_t access;
    uint16_t state;
    uint32_t cs[4]; /* struct hv_segment, as are DS and SS */
    uint64_t rip, rflags;
    uint32_t cache_type;
    uint8_t byte_count, info, tpr, reserved;
    uint64_t gva, gpa;
    uint8_t bytes[16];
    uint32_t ds[4], ss[4];
    uint64_t rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
};

/* The parts of HV_X64_MSR_INTERCEPT_MESSAGE and HV_X64_REGISTER_INTERCEPT_MESSAGE behind the header. */
struct other_intercept {
    uint8_t header[40];
    uint32_t msr, name;
    uint64_t rdx_or_value, rax;
};

/* HV_MESSAGE */
struct hv_message {
    uint32_t type;
    uint8_t size, flags;
    uint16_t reserved;
    uint64_t origin;
    union {
        uint8_t payload[MESSAGE_PAYLOAD];
        struct memory_intercept memory;
        struct other_intercept other;
    };
};

enum policy {
    POLICY_OPEN,    /* gives VTL0 `given` rights to the page, and lets it try again */
    POLICY_SKIP,    /* sends it behind the instruction; behind the call that led there when it was to be fetched */
    POLICY_INJECT,  /* has it take an exception */
    POLICY_ABANDON, /* sends it out of its `attempt` */
    POLICY_LEAVE,   /* does nothing, and leaves the message where it lies; the policy for the next one is OPEN */
};

#define INTERCEPTS_LOGGED 8

/* VTL1's on one processor. */
struct warden {
    volatile uint32_t policy;
    uint32_t given;                 /* POLICY_OPEN: rights; RIGHTS_ALL unless set */
    uint64_t event[2];              /* POLICY_INJECT: HvRegisterPendingEvent0 */
    uint8_t skipped;                /* POLICY_SKIP: bytes, where the message has no length */
    volatile uint32_t count;        /* intercepts since warden_clear */
    volatile uint16_t status;       /* of what VTL1 did about them: the first that was not 0 */
    struct hv_message log[INTERCEPTS_LOGGED];
    volatile struct hv_message *slot; /* its SynIC's slot of SINT0 */
    uint64_t escape;                /* VTL0's stack before its attempt, 0: it makes none */
    uint64_t cr3;                   /* POLICY_ABANDON: VTL0's from then on, 0: as it is */
    volatile uint32_t vector;       /* of the exception that ended it */
    volatile uint64_t error_code;
};

/* VTL1's local APICs use these vectors. */
#define VECTOR_INTERCEPT 0x70

/* In VTL0: SynIC and SINT0 of VTL1 on all processors. `wardens` are there from then on. */
void protect_listen(void);
/* VTL1's HvRegisterVsmPartitionConfig: protection on, with a default mask. From either VTL; the status. */
uint16_t protect_enable(uint32_t default_rights);
/* HvCallModifyVtlProtectionMask of a range, by VTL1; from either VTL. The status of the first call that failed. */
uint16_t protect(uint64_t gpa, uint64_t bytes, uint32_t rights);

/* One call as it is, by the VTL that runs; the whole result. */
struct protect_call {
    uint64_t partition;
    uint32_t flags;
    uint8_t input_vtl; /* HV_OWN_VTL or HV_VTL(n) */
    bool fast;
    uint16_t first, count; /* rep start index; elements of the list */
    const uint64_t *pages; /* page numbers */
};
uint64_t protect_call(const struct protect_call *call);
/* The same by VTL1: an argument of vsm_run. */
uint64_t protect_call_in_vtl1(void *call);

/* Of this processor, or another one. */
struct warden *warden(void);
struct warden *warden_of(unsigned cpu);
/* Forgets the intercepts, and sets the policy for the next ones. */
void warden_clear(uint32_t policy);
/* Message of one of them. */
static inline const struct memory_intercept *intercept(unsigned index)
{
    return &warden()->log[index].memory;
}

enum outcome {
    OUTCOME_RETURNED,
    OUTCOME_ABANDONED, /* POLICY_ABANDON */
    OUTCOME_EXCEPTION, /* warden()->vector */
};
typedef void (*attempted)(void *target, void *scratch);
/* In VTL0: calls function(target, scratch), which may be ended by an exception or by VTL1. */
enum outcome attempt(attempted function, void *target, void *scratch);
/* In ring 3. Pages below 1 GiB are user pages from then on. */
enum outcome attempt_in_user_mode(attempted function, void *target, void *scratch);
