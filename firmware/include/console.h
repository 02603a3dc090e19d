/* SPDX-License-Identifier: Apache-2.0 */
/* Text on the first serial port, by polling. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COM1 0x3f8

void console_init(void);

/* Sends bytes as they are; "\n" becomes "\r\n" in console_write only. */
void console_write_raw(const char *bytes, size_t count);
void console_write(const char *text, size_t count);

/* Waits until the last bit has left the transmitter. */
void console_drain(void);

/* The next received byte, or -1 when there is none. */
int console_poll(void);

/* printf with d i u x X s c p %, the flags 0 - +, width, precision of s, h l ll z.
 * Lines longer than 1000 bytes are cut. Whole calls of several processors do not mix. */
int printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
int vprintf(const char *format, va_list arguments);
int snprintf(char *buffer, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
int vsnprintf(char *buffer, size_t size, const char *format, va_list arguments);
