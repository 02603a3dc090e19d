/* SPDX-License-Identifier: Apache-2.0 */
/* All processors. */
#pragma once

#include <stdint.h>

#include "cpu.h"

#define MAX_CPUS 1024

/* Starts the other processors (INIT, then STARTUP to all); returns how many there are now. */
unsigned smp_start(void);
/* How many should there be: NR_CPUS of the environment, fw_cfg, the MADT, or else 1. */
unsigned smp_expected(void);
unsigned smp_count(void);
/* Processors are sorted by APIC id; the boot processor is `boot_cpu`. */
struct cpu *smp_cpu(unsigned index);

/* Runs function(argument) on another processor with interrupts on; waits for its end. */
void smp_run(unsigned index, cpu_function function, void *argument);
/* The same without waiting; smp_wait waits. */
void smp_run_async(unsigned index, cpu_function function, void *argument);
void smp_wait(unsigned index);
/* On every processor at once, this one included; waits for all. */
void smp_run_all(cpu_function function, void *argument);
