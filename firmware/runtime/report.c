/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include "console.h"
#include "exit.h"
#include "lock.h"

#define MAX_PREFIXES 8

static struct lock lock;
static const char *prefixes[MAX_PREFIXES];
static unsigned prefix_count;
static unsigned tests, failures, skipped;

/* One call of printf per line, so that lines of several processors stay whole. */
static void print_line(const char *verdict, const char *format, va_list arguments)
{
    char line[512];
    int length = snprintf(line, sizeof(line), "%s: ", verdict);
    for (unsigned i = 0; i < prefix_count; i++)
        length += snprintf(line + length, sizeof(line) - length, "%s: ", prefixes[i]);
    vsnprintf(line + length, sizeof(line) - length, format, arguments);
    printf("%s\n", line);
}

void report(bool pass, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    lock_acquire(&lock);
    tests++;
    failures += !pass;
    print_line(pass ? "PASS" : "FAIL", format, arguments);
    lock_release(&lock);
    va_end(arguments);
}

void report_skip(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    lock_acquire(&lock);
    tests++;
    skipped++;
    print_line("SKIP", format, arguments);
    lock_release(&lock);
    va_end(arguments);
}

void report_info(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line("INFO", format, arguments);
    va_end(arguments);
}

void report_prefix_push(const char *name)
{
    assert(prefix_count < MAX_PREFIXES);
    prefixes[prefix_count++] = name;
}

void report_prefix_pop(void)
{
    assert(prefix_count > 0);
    prefix_count--;
}

unsigned report_failures(void)
{
    return failures;
}

int report_summary(void)
{
    char line[100];
    int length = snprintf(line, sizeof(line), "SUMMARY: %u tests", tests);
    if (failures)
        length += snprintf(line + length, sizeof(line) - length, ", %u unexpected failures", failures);
    if (skipped)
        length += snprintf(line + length, sizeof(line) - length, ", %u skipped", skipped);
    printf("%s\n", line);
    if (failures)
        return EXIT_FAIL;
    return tests == skipped ? EXIT_SKIP : EXIT_PASS;
}
