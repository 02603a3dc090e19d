/* SPDX-License-Identifier: Apache-2.0 */
#include "exit.h"

#include <stdarg.h>

#include "console.h"
#include "cpu.h"
#include "io.h"

#define DEBUG_EXIT_PORT 0xf4

void exit(int code)
{
    console_drain();
    outl(DEBUG_EXIT_PORT, (uint32_t)code);
    printf("--- DONE: %d ---\n", code);
    halt_for_ever();
}

void abort_run(const char *format, ...)
{
    va_list arguments;
    printf("ABORT: ");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    exit(EXIT_ABORT);
}
