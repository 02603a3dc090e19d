/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts share: the hypercall page and a call's parameters. */
#pragma once

#include "hyperv.h"
#include "runtime.h"

#define REGISTER_VP_INDEX 0x00090003
#define CR4_OSFXSR (1u << 9)
#define OS_ID 0x8f00123400000000ull
#define IPI_VECTOR 0x52

extern uint8_t call_page[4096];
extern uint64_t input[512], output[512]; /* of a call, a page each */

uint64_t hypercall(uint64_t control, uint64_t first, uint64_t second);

void check_processors(void);
void measure(uint64_t count);
