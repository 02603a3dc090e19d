/* SPDX-License-Identifier: Apache-2.0 */
/* How a guest ends. The process status of the VMM is code << 1 | 1. */
#pragma once

#define EXIT_PASS 0
#define EXIT_FAIL 1
#define EXIT_SKIP 38
#define EXIT_ABORT 63

/* Tells the debug-exit device; where there is none, prints "--- DONE: code ---" and halts. */
void exit(int code) __attribute__((noreturn));

/* Prints a reason and exits with EXIT_ABORT. */
void abort_run(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#define assert(condition)                                                       \
    do {                                                                        \
        if (!(condition))                                                       \
            abort_run("assert failed: %s:%d: %s", __FILE__, __LINE__, #condition); \
    } while (0)
