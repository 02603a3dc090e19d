/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts share: VTL1's accesses to registers. */
#pragma once

#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define LIMIT_MS 2000
#define TLB_LOCKED 2

uint64_t get_of(uint32_t vp, uint8_t input_vtl, uint32_t name);
uint64_t set_of(uint32_t vp, uint8_t input_vtl, uint32_t name, uint64_t low, uint64_t high);

void check_other(void);
void check_both(void);
