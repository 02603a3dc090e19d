/* SPDX-License-Identifier: Apache-2.0 */
#include "apic.h"

#include "cpu.h"
#include "interrupts.h"
#include "io.h"
#include "timers.h"

#define APIC_ADDRESS 0xfee00000
#define BASE_ENABLE (1u << 11)
#define BASE_X2APIC (1u << 10)
#define SPURIOUS_ENABLE (1u << 8)
#define ICR_PENDING (1u << 12)

uint32_t apic_read(uint32_t offset)
{
    return this_cpu()->x2apic ? (uint32_t)rdmsr(MSR_X2APIC + offset / 16) : mmio_read32(APIC_ADDRESS + offset);
}

void apic_write(uint32_t offset, uint32_t value)
{
    if (this_cpu()->x2apic)
        wrmsr(MSR_X2APIC + offset / 16, value);
    else
        mmio_write32(APIC_ADDRESS + offset, value);
}

void apic_init(void)
{
    this_cpu()->x2apic = boot_cpu.x2apic;
    uint64_t base = rdmsr(MSR_APIC_BASE);
    uint64_t wanted = base | BASE_ENABLE | (this_cpu()->x2apic ? BASE_X2APIC : 0);
    if (wanted != base)
        wrmsr(MSR_APIC_BASE, wanted);
    apic_write(APIC_SPURIOUS, SPURIOUS_ENABLE | VECTOR_SPURIOUS);
    apic_write(APIC_TPR, 0);
}

bool apic_enable_x2apic(void)
{
    if (!cpu_has_x2apic())
        return false;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | BASE_ENABLE | BASE_X2APIC);
    this_cpu()->x2apic = true;
    return true;
}

bool apic_is_x2apic(void)
{
    return this_cpu()->x2apic;
}

uint32_t apic_id(void)
{
    uint32_t id = apic_read(APIC_ID);
    return this_cpu()->x2apic ? id : id >> 24;
}

void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}

void apic_icr_write(uint32_t low, uint32_t destination)
{
    if (this_cpu()->x2apic) {
        wrmsr(MSR_X2APIC + APIC_ICR / 16, (uint64_t)destination << 32 | low);
        return;
    }
    mmio_write32(APIC_ADDRESS + APIC_ICR_HIGH, destination << 24);
    mmio_write32(APIC_ADDRESS + APIC_ICR, low);
    while (mmio_read32(APIC_ADDRESS + APIC_ICR) & ICR_PENDING)
        asm volatile("pause");
}

void apic_send_ipi(uint32_t destination, uint8_t vector)
{
    apic_icr_write(APIC_DELIVERY_FIXED | APIC_LEVEL_ASSERT | vector, destination);
}

void apic_send_self(uint8_t vector)
{
    apic_icr_write(APIC_DELIVERY_FIXED | APIC_LEVEL_ASSERT | APIC_SHORTHAND_SELF | vector, 0);
}

static bool bit_of(uint32_t offset, uint8_t vector)
{
    return apic_read(offset + vector / 32 * 16) >> vector % 32 & 1;
}

bool apic_irr(uint8_t vector)
{
    return bit_of(APIC_IRR, vector);
}

bool apic_isr(uint8_t vector)
{
    return bit_of(APIC_ISR, vector);
}

void apic_timer_start(uint32_t mode, uint8_t vector, uint32_t initial_count)
{
    apic_write(APIC_TIMER_DIVIDE, APIC_TIMER_DIVIDE_16);
    apic_write(APIC_LVT_TIMER, mode | vector);
    apic_write(APIC_TIMER_INITIAL, initial_count);
}

void apic_timer_deadline(uint8_t vector, uint64_t tsc)
{
    apic_write(APIC_LVT_TIMER, APIC_TIMER_TSC_DEADLINE | vector);
    /* SDM volume 3, "TSC-Deadline Mode": order the LVT write before the WRMSR. */
    asm volatile("mfence" : : : "memory");
    wrmsr(MSR_TSC_DEADLINE, tsc);
}

void apic_timer_stop(void)
{
    apic_write(APIC_TIMER_INITIAL, 0);
    apic_write(APIC_LVT_TIMER, APIC_LVT_MASKED);
}

static uint32_t timer_ticks(void)
{
    return -apic_read(APIC_TIMER_CURRENT);
}

static uint64_t measure_timer(void)
{
    uint32_t first, last;
    apic_timer_start(APIC_TIMER_ONE_SHOT | APIC_LVT_MASKED, VECTOR_SPURIOUS, 0xffffffff);
    uint64_t start = tsc_at(timer_ticks, &first);
    wait_us(10000);
    uint64_t end = tsc_at(timer_ticks, &last);
    apic_timer_stop();
    return (uint64_t)(last - first) * 1000000000 / tsc_to_ns(end - start);
}

uint64_t apic_timer_frequency(void)
{
    static uint64_t frequency;
    if (!frequency)
        frequency = agreed_frequency(measure_timer);
    return frequency;
}
