/* SPDX-License-Identifier: Apache-2.0 */
/* Computes for ever with interrupts off. */
#include "runtime.h"

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("hanging\n");
    interrupts_off();
    for (;;)
        asm volatile("");
}
