/* SPDX-License-Identifier: Apache-2.0 */
/* Spin locks and the loads and stores that processors talk to each other with. */
#pragma once

#include <stdint.h>

struct lock {
    uint32_t taken;
};

static inline void cpu_relax(void)
{
    asm volatile("pause" : : : "memory");
}

static inline void lock_acquire(struct lock *lock)
{
    while (__atomic_exchange_n(&lock->taken, 1, __ATOMIC_ACQUIRE))
        while (__atomic_load_n(&lock->taken, __ATOMIC_RELAXED))
            cpu_relax();
}

static inline void lock_release(struct lock *lock)
{
    __atomic_store_n(&lock->taken, 0, __ATOMIC_RELEASE);
}

#define load_acquire(pointer) __atomic_load_n(pointer, __ATOMIC_ACQUIRE)
#define store_release(pointer, value) __atomic_store_n(pointer, value, __ATOMIC_RELEASE)
#define atomic_add(pointer, value) __atomic_fetch_add(pointer, value, __ATOMIC_SEQ_CST)
