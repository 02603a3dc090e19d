/* SPDX-License-Identifier: Apache-2.0 */
/* What the loader said: Multiboot specification 0.6.96, section 3.3. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define MULTIBOOT_BOOT_MAGIC 0x2badb002
#define MEMORY_RAM 1

struct memory_range {
    uint64_t base;
    uint64_t size;
    uint32_t type;
};

/* Registers at the first instruction; start.S stores them in this order. */
struct entry_state {
    uint32_t eax, ebx, esp, eflags, cr0, cr3, cr4;
    uint32_t cs, ds, es, fs, gs, ss;
};

extern struct entry_state entry_state;

/* Copies all that is used later, since the loader's data may lie in memory we hand out. */
void multiboot_init(void);

int multiboot_argc(void);
char **multiboot_argv(void);

/* The value of NAME=value in the environment module, or NULL. */
const char *environment(const char *name);

/* The memory map, and KiB from 1 MiB up. */
unsigned memory_range_count(void);
const struct memory_range *memory_range(unsigned index);
uint32_t memory_upper_kib(void);
uint32_t multiboot_flags(void);

/* Free RAM below 4 GiB behind the image: the page allocator's. */
uint64_t heap_start(void);
uint64_t heap_end(void);

/* The value of "name=value" among the arguments of main, as text or as number. */
const char *argument(const char *name, const char *otherwise);
uint64_t argument_number(const char *name, uint64_t otherwise);
/* Is this word among them? */
bool argument_given(const char *word);
