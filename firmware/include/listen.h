/* SPDX-License-Identifier: Apache-2.0 */
/* VTL1 as the one who hears of VTL0's port and MSR accesses, and decides what becomes of them. TLFS 6.1, 13.2, 15.13.
 *
 *     vsm_start();
 *     listen_start();                                   intercepts reach VTL1 on all processors
 *     listen_install(INTERCEPT_PORT, 0x80, ACCESS_MASK_WRITE);
 *     listener()->decide = listen_skip;                 what VTL1 does about this processor's next intercepts
 *     outb(0x80, 1);                                    listener()->count, listener()->message
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "hyperv.h"
#include "vsm.h"

#define HV_CALL_INSTALL_INTERCEPT 0x4d
#define INTERCEPT_PORT 0x00
#define INTERCEPT_MSR_UNKNOWN 0x01
#define INTERCEPT_CPUID 0x02
#define INTERCEPT_EXCEPTION 0x03
#define INTERCEPT_MSR 0x0c
#define INTERCEPT_PORT_RANGE 0x11
#define ACCESS_MASK_NONE 0u
#define ACCESS_MASK_READ 1u
#define ACCESS_MASK_WRITE 2u
#define ACCESS_MASK_EXECUTE 4u

#define HV_REGISTER_CR_INTERCEPT_CONTROL 0x000e0000
#define HV_REGISTER_CR_INTERCEPT_MISC_ENABLE_MASK 0x000e0003

#define PORT_MESSAGE 0x80010000u
#define MSR_MESSAGE 0x80010001u
#define PORT_STRING (1u << 3) /* of `access_info` */
#define PORT_REP (1u << 4)

struct listen_header {
    uint32_t vp;
    uint8_t length_cr8;
    uint8_t access; /* 0 read, 1 write */
    uint16_t state;
    uint32_t cs[4];
    uint64_t rip, rflags;
};

struct listen_message {
    uint32_t type;
    uint8_t size, flags;
    uint16_t reserved;
    uint64_t origin;
    struct listen_header header;
    union {
        struct {
            uint16_t port;
            uint8_t access_info, byte_count;
            uint32_t reserved;
            uint64_t rax;
            uint8_t bytes[16];
            uint32_t ds[4], es[4];
            uint64_t rcx, rsi, rdi;
        } io;
        struct {
            uint32_t number, reserved;
            uint64_t rdx, rax;
        } msr;
        uint8_t rest[200];
    };
};

struct listener;
/* In VTL1, with VTL0's general registers, which VTL0 has back as they are then. */
typedef void (*decision)(struct listener *self, struct vtl_frame *frame);

struct listener {
    volatile decision decide;
    volatile uint32_t count;        /* intercepts since listen_for */
    volatile uint32_t by_page;      /* those of them whose message came by the VP assist page */
    volatile uint16_t status;       /* the first that was not 0 of what VTL1 did about them */
    struct listen_message message;  /* the last one */
    uint64_t answer;                /* listen_answer: RAX and RDX */
    uint64_t event[2];              /* listen_inject: HvRegisterPendingEvent0 */
    uint64_t target;                /* listen_redirect: RIP */
    uint32_t patience;              /* listen_retry: so often */
    volatile uint64_t *slot;
};

#define VECTOR_LISTEN 0x72

/* In VTL0: SynIC and SINT0 of VTL1 on all processors. */
void listen_start(void);
/* Of this processor, or another one. */
struct listener *listener(void);
struct listener *listener_of(unsigned cpu);
/* Forgets what was heard, and sets the decision for what comes. */
struct listener *listen_for(decision decide);

/* HvCallInstallIntercept, by VTL1; the status. `listen_install_here` is by the VTL that runs. */
uint16_t listen_install(uint32_t type, uint64_t parameter, uint32_t accesses);
uint16_t listen_install_here(uint32_t type, uint64_t parameter, uint32_t accesses);
/* A register of VTL1 itself, by VTL1; the status. */
uint16_t listen_set(uint32_t name, uint64_t value);
uint64_t listen_get(uint32_t name);

/* Decisions. */
void listen_skip(struct listener *self, struct vtl_frame *frame);
void listen_answer(struct listener *self, struct vtl_frame *frame);   /* RAX, RDX, and behind the instruction */
void listen_inject(struct listener *self, struct vtl_frame *frame);
void listen_redirect(struct listener *self, struct vtl_frame *frame);
void listen_retry(struct listener *self, struct vtl_frame *frame);    /* lets VTL0 try again, the last time it skips */
/* In VTL1, for decisions of a guest's own. */
void listen_set_of_vtl0(struct listener *self, uint32_t name, uint64_t value);
