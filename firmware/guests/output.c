/* SPDX-License-Identifier: Apache-2.0 */
/* Prints kib=N KiB (1024) as fast as it can: numbered lines of 64 bytes, "\n" not translated. */
#include "runtime.h"

#define DIGITS 10

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    char line[] = "0000000000 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXY\n";
    const size_t length = sizeof(line) - 1;
    uint64_t lines = argument_number("kib", 1024) * 1024 / length;
    for (uint64_t i = 0; i < lines; i++) {
        console_write_raw(line, length);
        int digit = DIGITS - 1;
        while (digit >= 0 && ++line[digit] > '9')
            line[digit--] = '0';
    }
    report(length == 64, "%lu lines of %lu bytes", lines, length);
    return report_summary();
}
