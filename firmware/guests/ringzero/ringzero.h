/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Did the guarded instruction raise `vector` with `error_code`? Prints what it did otherwise. */
bool faulted(int vector, uint64_t error_code);

/* integers.c */
void test_population_count(void);
void test_compare_exchange(void);
/* xsave.c: with CR4.OSXSAVE set, and in XCR0 what `components` says. */
void test_saved_state(uint64_t components);
