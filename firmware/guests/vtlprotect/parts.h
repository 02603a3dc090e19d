/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts share: pages whose rights are tried, and the accesses that try them. */
#pragma once

#include "protect.h"
#include "runtime.h"

#define LIMIT_MS 3000
#define DATA 0xda7ada7ada7ada7aull
#define MARK(n) (0x0101010101010101ull * (n))
#define CODE_OFFSET 0x100 /* in the page under test */
#define CODE_RESULT 0x777
#define WRITTEN 0x5a5a5a5aull

#define PAGES 512
extern uint8_t *pages; /* of the tests: PAGES of them */
extern uint64_t scratch[64];

/* Where DATA is in a page, once it has been placed; at CODE_OFFSET is code that gives CODE_RESULT then. */
void *data_of(unsigned page);
void place(unsigned page);
uint16_t set_rights(unsigned page, uint32_t rights);
/* Gives VTL0 all rights, and places both. */
void fill(unsigned page);

#define ACCESS(name, instructions)     \
    void name(void *target, void *to); \
    asm(".text\n.globl " #name "\n" #name ":\n\t" instructions "\n\tret")

void access_read(void *target, void *to);

/* Read, write, execute. */
extern const struct access {
    const char *name;
    attempted function;
    uint32_t right;
    uint8_t access;
} accesses[3];

void *target_of(unsigned access, unsigned page);
/* Whether the access had its effect. */
bool happened(unsigned access, unsigned page);
/* For vsm_run: what is at an address. VTL1 may read the page whatever VTL0 may. */
uint64_t look(void *argument);
/* VTL0 reads a page: whether that comes to VTL1. */
bool intercepted(unsigned page);

/* HvRegisterVsmPartitionConfig of VTL1, for vsm_run. */
uint64_t config_of_vtl1(void *argument);
uint64_t set_config(void *config);

/* HvCallModifyVtlProtectionMask: before protection is enabled; then who may call, lists, and which rights there are. */
void check_before(void);
void check_callers(void);
void check_lists(void);
void check_masks(void);
/* What each combination of rights allows and refuses, and that VTL1 keeps its own. */
void check_rights(void);
void check_own(void);
/* What VTL1 is told of an access. */
void check_messages(void);
/* Several accesses, several processors, and messages in the VP assist page. */
void check_several(void);
void check_processors(void);
void check_intercept_page(void);
