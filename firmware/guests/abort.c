/* SPDX-License-Identifier: Apache-2.0 */
/* Dies of an exception nobody handles: registers, then exit code 63. With an argument: ud (default), gp, pf, de. */
#include "runtime.h"

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "ud";
    report(true, "about to raise #%s", how);
    if (!strcmp(how, "ud"))
        asm volatile("ud2");
    else if (!strcmp(how, "gp"))
        asm volatile("movb $1, (%0)" : : "r"(0x8000000000000000) : "memory"); /* not canonical */
    else if (!strcmp(how, "pf"))
        asm volatile("movb $1, (%0)" : : "r"(0x123456789000) : "memory");
    else if (!strcmp(how, "de"))
        asm volatile("divl %0" : : "r"(0), "a"(1), "d"(0));
    else
        abort_run("unknown argument: %s", how);
    return report_summary();
}
