/* SPDX-License-Identifier: Apache-2.0 */
/* What the rows of all classes share: the places that VTL1 protects, and how a row is judged and told. */
#pragma once

#include "protect.h"
#include "runtime.h"

#define LIMIT_MS 3000
#define SECRET 0x2e5445526345532eull /* ".SEcRET." in memory */
#define FILL 0x1111111111111111ull

enum place {
    SECRETS, /* VTL1's data: nothing */
    CODE,    /* VTL1's code: read, execute */
    DATA,    /* VTL0's data: read, write */
    KERNEL,  /* VTL0's text, one page of it: read, execute */
    PLACES,
};

extern const char image_start[], text_end[];
extern const char *const place_names[PLACES];
extern uint8_t *arena; /* an open page, a place, an open page ...: accesses cross the borders */
extern uint8_t *place_at[PLACES];
extern uint16_t place_status[PLACES]; /* what VTL1 was told: 0 where it is protected */
extern uint32_t ordinary;             /* what the default mask allows */
extern uint64_t scratch[64];          /* what VTL0 copies to */

/* At CODE_OFFSET of each page but the secrets: mov $CODE_RESULT, %eax; mov %rax, (%rsi); ret */
#define CODE_OFFSET 0x100
#define CODE_RESULT 0x777
extern const uint8_t code[9];

/* Whether a place holds what it held. VTL1 looks. */
bool intact(unsigned place);
bool holds_secret(const void *memory, unsigned bytes);
void clear_scratch(void);
/* The secret is nowhere that VTL0 can look: memory it copied to, its registers at the intercept. */
bool leaked(void);

enum class {
    ACCESS,
    USER,
    READ_ONLY,
    FETCH,
    TABLES,
    DELIVERY,
    PROXY,
    OVERLAY,
    DMA,
    REGISTERS,
    WATCHED,
    PROCESSORS,
    CLASSES,
};

/* A row's verdict. Rows of a class lie between begin_class and report_prefix_pop. */
void begin_class(enum class which);
void row(bool pass, const char *name, const char *detail);
/* What this machine cannot enforce, by what VTL1 was told. */
void row_skipped(const char *name, const char *what, uint16_t status);
void row_not_here(const char *name, const char *why);
/* Whether the user has left it out. It is told then. */
bool left_out(const char *name);

#define R (1u << ACCESS_READ)
#define W (1u << ACCESS_WRITE)
#define X (1u << ACCESS_EXECUTE)
#define RW (R | W) /* a processor may say of read-modify-write that it read, where it may not even that */

/* Whether VTL1 was told this, and nothing but that has happened. Where it is not `exact`, to the page. */
bool told(enum outcome outcome, uint8_t wanted, uint64_t gpa, uint64_t gva, bool exact);
/* The row, with what VTL1 was told. */
void told_row(const char *name, bool right, enum outcome outcome);

/* An attack: RDI is the target, RSI memory of VTL0's. */
#define A(name, instructions)              \
    void name(void *target, void *memory); \
    asm(".text\n.globl " #name "\n" #name ":\n\t" instructions "\n\tret")

#define REGISTER_CR_INTERCEPT 0x000e0000
#define CALL_INSTALL_INTERCEPT 0x4d
/* A slow call with these words as its input; the whole result. */
uint64_t call_with(uint64_t control, uint64_t a, uint64_t b, uint64_t c, uint64_t d);

/* In accesses.c, of use to others. */
void load(void *target, void *memory);
void store(void *target, void *memory);
void call_into(void *target, void *memory);

/* In dma.c: VTL0 has fw_cfg write so many bytes there; what becomes of the descriptor's control word: 0, or 1, an error. */
uint32_t dma_into(uint64_t address, uint32_t length);

/* The classes. */
void accesses(void);
void user_accesses(void);
void writes(void);
void fetches(void);
void table_rows(void);
void delivery_rows(void);
void hypercall_rows(void);
void overlay_rows(void);
void time_page_rows(void); /* of the same class */
void dma_rows(void);
void register_rows(void);
void watched(void);
void processor_rows(void);
