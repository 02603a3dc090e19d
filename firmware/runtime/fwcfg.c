/* SPDX-License-Identifier: Apache-2.0 */
#include "fwcfg.h"

#include "io.h"
#include "string.h"

#define SELECTOR_PORT 0x510
#define DATA_PORT 0x511

void fwcfg_read(uint16_t key, void *buffer, uint32_t size)
{
    uint8_t *bytes = buffer;
    outw(SELECTOR_PORT, key);
    while (size--)
        *bytes++ = inb(DATA_PORT);
}

bool fwcfg_present(void)
{
    char signature[4];
    fwcfg_read(FWCFG_SIGNATURE, signature, sizeof(signature));
    return !memcmp(signature, "QEMU", sizeof(signature));
}
