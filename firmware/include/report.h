/* SPDX-License-Identifier: Apache-2.0 */
/* Results in the format of kvm-unit-tests: "PASS: prefix: name", and a "SUMMARY:" line at the end. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>

void report(bool pass, const char *format, ...) __attribute__((format(printf, 2, 3)));
void report_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
void report_info(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* "name: " before every following result, until the pop. */
void report_prefix_push(const char *name);
void report_prefix_pop(void);

/* How many have failed so far. */
unsigned report_failures(void);

/* Prints the summary; the exit code that fits: 0 passed, 1 something failed, 38 nothing but skips. */
int report_summary(void);
