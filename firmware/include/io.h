/* SPDX-License-Identifier: Apache-2.0 */
/* Port and memory-mapped I/O. */
#pragma once

#include <stdint.h>

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint16_t inw(uint16_t port)
{
    uint16_t value;
    asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void outb(uint16_t port, uint8_t value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t value)
{
    asm volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t value)
{
    asm volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

/* Writes `count` bytes to one port with a single REP OUTSB. */
static inline void outsb(uint16_t port, const void *bytes, unsigned long count)
{
    asm volatile("rep outsb" : "+S"(bytes), "+c"(count) : "d"(port) : "memory");
}

/* Reads `count` bytes from one port with a single REP INSB. */
static inline void insb(uint16_t port, void *bytes, unsigned long count)
{
    asm volatile("rep insb" : "+D"(bytes), "+c"(count) : "d"(port) : "memory");
}

/* One MOV each, so that a VMM sees exactly this access. */
static inline uint32_t mmio_read32(uint64_t address)
{
    uint32_t value;
    asm volatile("movl %1, %0" : "=r"(value) : "m"(*(volatile uint32_t *)address));
    return value;
}

static inline void mmio_write32(uint64_t address, uint32_t value)
{
    asm volatile("movl %1, %0" : "=m"(*(volatile uint32_t *)address) : "r"(value));
}
