/* SPDX-License-Identifier: Apache-2.0 */
/* All of the runtime in one include. A guest is a file with int main(int argc, char **argv). */
#pragma once

#include "acpi.h"
#include "apic.h"
#include "console.h"
#include "cpu.h"
#include "exit.h"
#include "fault.h"
#include "fwcfg.h"
#include "interrupts.h"
#include "io.h"
#include "irqchip.h"
#include "lock.h"
#include "multiboot.h"
#include "paging.h"
#include "pci.h"
#include "power.h"
#include "report.h"
#include "smp.h"
#include "string.h"
#include "timers.h"
#include "user.h"

int main(int argc, char **argv);

#define ARRAY_SIZE(array) (sizeof(array) / sizeof(*(array)))
