/* SPDX-License-Identifier: Apache-2.0 */
/* Switches the machine off by ACPI S5. */
#include "runtime.h"

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("switching off\n");
    power_off();
    abort_run("the machine is still on");
}
