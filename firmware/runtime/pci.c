/* SPDX-License-Identifier: Apache-2.0 */
#include "pci.h"

#include "io.h"

#define ADDRESS 0xcf8
#define DATA 0xcfc
#define ENABLE (1u << 31)
#define MULTI_FUNCTION 0x80

static void select(pci_function function, uint8_t offset)
{
    outl(ADDRESS, ENABLE | (uint32_t)function << 8 | (offset & 0xfc));
}

uint32_t pci_read32(pci_function function, uint8_t offset)
{
    select(function, offset);
    return inl(DATA);
}

uint16_t pci_read16(pci_function function, uint8_t offset)
{
    select(function, offset);
    return inw(DATA + (offset & 2));
}

uint8_t pci_read8(pci_function function, uint8_t offset)
{
    select(function, offset);
    return inb(DATA + (offset & 3));
}

void pci_write32(pci_function function, uint8_t offset, uint32_t value)
{
    select(function, offset);
    outl(DATA, value);
}

void pci_write16(pci_function function, uint8_t offset, uint16_t value)
{
    select(function, offset);
    outw(DATA + (offset & 2), value);
}

unsigned pci_scan(void (*visit)(pci_function function))
{
    unsigned count = 0;
    for (unsigned device = 0; device < 32; device++) {
        unsigned functions = 1;
        for (unsigned i = 0; i < functions; i++) {
            pci_function function = PCI_FUNCTION(0, device, i);
            if (pci_read16(function, PCI_ID) == 0xffff)
                continue;
            if (i == 0 && pci_read8(function, PCI_HEADER_TYPE) & MULTI_FUNCTION)
                functions = 8;
            count++;
            visit(function);
        }
    }
    return count;
}

static uint32_t wanted_id;
static pci_function match;
static bool matched;

static void compare(pci_function function)
{
    if (!matched && pci_read32(function, PCI_ID) == wanted_id) {
        matched = true;
        match = function;
    }
}

bool pci_find(uint16_t vendor, uint16_t device, pci_function *found)
{
    wanted_id = (uint32_t)device << 16 | vendor;
    matched = false;
    pci_scan(compare);
    *found = match;
    return matched;
}
