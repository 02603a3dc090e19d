/* SPDX-License-Identifier: Apache-2.0 */
/* From start.S to main. */
#include "runtime.h"

void runtime_main(void) __attribute__((noreturn));

void runtime_main(void)
{
    console_init();
    cpu_init(&boot_cpu);
    interrupts_init();
    multiboot_init();
    pic_init();
    apic_init();
    boot_cpu.apic_id = apic_id();
    exit(main(multiboot_argc(), multiboot_argv()));
}
