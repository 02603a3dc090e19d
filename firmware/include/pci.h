/* SPDX-License-Identifier: Apache-2.0 */
/* PCI configuration space through ports 0xcf8 and 0xcfc (PCI 3.0, 3.2.2.3.2). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PCI_ID 0x00
#define PCI_COMMAND 0x04
#define PCI_CLASS 0x08
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0 0x10
#define PCI_SUBSYSTEM 0x2c
#define PCI_INTERRUPT 0x3c
#define PCI_COMMAND_IO 1u
#define PCI_COMMAND_MEMORY 2u

/* Bus, device and function as configuration address bits 23:8. */
typedef uint16_t pci_function;
#define PCI_FUNCTION(bus, device, function) ((pci_function)((bus) << 8 | (device) << 3 | (function)))

uint32_t pci_read32(pci_function function, uint8_t offset);
uint16_t pci_read16(pci_function function, uint8_t offset);
uint8_t pci_read8(pci_function function, uint8_t offset);
void pci_write32(pci_function function, uint8_t offset, uint32_t value);
void pci_write16(pci_function function, uint8_t offset, uint16_t value);

/* Calls `visit` for every function of bus 0; returns how many there are. */
unsigned pci_scan(void (*visit)(pci_function function));
/* True and *found when bus 0 has it. */
bool pci_find(uint16_t vendor, uint16_t device, pci_function *found);
