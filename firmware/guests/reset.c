/* SPDX-License-Identifier: Apache-2.0 */
/* Resets the machine.
 *
 * how=i8042|cf9|triple   by what (i8042)
 * times=N                starts N times in all, then ends with a summary; counted in CMOS RAM, which survives.
 *                        Without it: resets at each start.
 */
#include "runtime.h"

#define CMOS_MARK 0x7e
#define CMOS_STARTS 0x7f
#define MARK 0xa5

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    const char *how = argument("how", "i8042");
    unsigned times = (unsigned)argument_number("times", 0);
    if (times) {
        uint8_t starts = cmos_read(CMOS_MARK) == MARK ? cmos_read(CMOS_STARTS) + 1 : 1;
        printf("start %u of %u\n", starts, times);
        if (starts >= times) {
            cmos_write(CMOS_MARK, 0);
            report(starts == times, "started %u times, reset by %s", starts, how);
            return report_summary();
        }
        cmos_write(CMOS_STARTS, starts);
        cmos_write(CMOS_MARK, MARK);
    }
    printf("reset by %s\n", how);
    if (!strcmp(how, "i8042"))
        reset_by_i8042();
    else if (!strcmp(how, "cf9"))
        reset_by_0xcf9();
    else if (!strcmp(how, "triple"))
        reset_by_triple_fault();
    else
        abort_run("unknown: how=%s", how);
    wait_us(500000);
    abort_run("no reset within 500 ms");
}
