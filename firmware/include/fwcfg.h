/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's firmware configuration device, port interface. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define FWCFG_SIGNATURE 0x00
#define FWCFG_ID 0x01
#define FWCFG_RAM_SIZE 0x03
#define FWCFG_CPUS 0x05
#define FWCFG_FILES 0x19

bool fwcfg_present(void);
/* Reads the first `size` bytes of an item. */
void fwcfg_read(uint16_t key, void *buffer, uint32_t size);
