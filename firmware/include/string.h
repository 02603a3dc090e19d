/* SPDX-License-Identifier: Apache-2.0 */
/* The few string functions a guest needs. gcc itself calls the first four. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *to, const void *from, size_t count);
void *memmove(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);
int memcmp(const void *left, const void *right, size_t count);
size_t strlen(const char *text);
int strcmp(const char *left, const char *right);
int strncmp(const char *left, const char *right, size_t count);

/* A number in C notation (decimal, 0x..., 0...); stops at the first other character. */
uint64_t parse_number(const char *text);
