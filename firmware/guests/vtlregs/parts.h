/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts share. */
#pragma once

#include "hyperv.h"
#include "runtime.h"
#include "vsm.h"

#define MARK(n) (0x0102030405060708ull * (n))
#define OTHER_MARK(n) ~MARK(n)

void check_vectors(void);
void check_x87(void);
void check_xcr0(void);
void check_own_msrs(void);
void check_shared_msrs(void);
