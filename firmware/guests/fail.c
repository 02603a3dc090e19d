/* SPDX-License-Identifier: Apache-2.0 */
/* One check passes, one fails: exit code 1. */
#include "runtime.h"

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    report(true, "two and two is four");
    report(false, "this check fails on purpose");
    return report_summary();
}
