/* SPDX-License-Identifier: Apache-2.0 */
/* Switching the machine off and resetting it. */
#pragma once

#include <stdbool.h>

/* ACPI S5. Returns only when the machine did not go off. */
void power_off(void);

/* Each pulls reset in its own way, and returns only when nothing happened. */
void reset_by_0xcf9(void);
void reset_by_i8042(void);
void reset_by_triple_fault(void) __attribute__((noreturn));
