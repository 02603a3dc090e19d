/* SPDX-License-Identifier: Apache-2.0 */
/* Triple-faults: the processor shuts down. */
#include "runtime.h"

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("about to triple-fault\n");
    reset_by_triple_fault();
}
