/* SPDX-License-Identifier: Apache-2.0 */
/* Halts for ever with interrupts off. */
#include "runtime.h"

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("halting\n");
    console_drain();
    halt_for_ever();
}
