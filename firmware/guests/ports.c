/* SPDX-License-Identifier: Apache-2.0 */
/* The devices behind I/O ports: UART, CMOS and RTC, PIT, PM timer, i8042, fw_cfg, PCI, the test device.
 *
 * What a board may leave out is skipped when absent.
 */
#include "runtime.h"

#define UART_SCRATCH 7
#define UART_MCR 4
#define UART_LSR 5
#define UART_MSR 6
#define MCR_LOOPBACK 0x10
#define FIFO_SIZE 16

static void check_serial(void)
{
    bool scratch = true, in_order = true;
    uint8_t first[FIFO_SIZE], modem[4];

    report_prefix_push("serial");
    for (unsigned value = 0; value < 256; value += 51) {
        outb(COM1 + UART_SCRATCH, (uint8_t)value);
        scratch &= inb(COM1 + UART_SCRATCH) == value;
    }
    /* Nothing may be printed while the loopback is on. */
    console_drain();
    while (console_poll() >= 0)
        ;
    outb(COM1 + UART_MCR, MCR_LOOPBACK);
    outb(COM1, 0x5a);
    bool came = WAIT_FOR(inb(COM1 + UART_LSR) & 1, 100);
    uint8_t looped = inb(COM1);
    bool empty = !(inb(COM1 + UART_LSR) & 1);
    for (unsigned i = 0; i < FIFO_SIZE; i++) {
        first[i] = (uint8_t)(0xa0 + i);
        outb(COM1, first[i]);
    }
    bool idle = WAIT_FOR(inb(COM1 + UART_LSR) & 0x40, 100);
    for (unsigned i = 0; i < FIFO_SIZE; i++)
        in_order &= (inb(COM1 + UART_LSR) & 1) && inb(COM1) == first[i];
    /* DTR, RTS, OUT1, OUT2 show as DSR, CTS, RI, DCD. */
    for (unsigned i = 0; i < 4; i++) {
        outb(COM1 + UART_MCR, (uint8_t)(MCR_LOOPBACK | 1 << i));
        modem[i] = inb(COM1 + UART_MSR) >> 4;
    }
    console_init();

    report(scratch, "the scratch register keeps values");
    report(came && looped == 0x5a && empty, "loopback gives back one byte (0x%x)", looped);
    report(idle && in_order, "the FIFO keeps %u bytes in order", FIFO_SIZE);
    report(modem[0] == 2 && modem[1] == 1 && modem[2] == 4 && modem[3] == 8, "modem lines loop back: %x %x %x %x",
           modem[0], modem[1], modem[2], modem[3]);
    report_prefix_pop();
}

#define CMOS_FREE 0x50

static void check_rtc(void)
{
    report_prefix_push("RTC");
    struct date d = rtc_read();
    report(d.year >= 2020 && d.year < 2100 && d.month >= 1 && d.month <= 12 && d.day >= 1 && d.day <= 31 &&
               d.hours < 24 && d.minutes < 60 && d.seconds < 60,
           "a time of day: %04u-%02u-%02u %02u:%02u:%02u", d.year, d.month, d.day, d.hours, d.minutes, d.seconds);
    report(cmos_read(RTC_D) & 0x80, "the battery is good");

    const uint8_t kept = cmos_read(CMOS_FREE), other = kept ^ 0xff;
    cmos_write(CMOS_FREE, other);
    report(cmos_read(CMOS_FREE) == other, "CMOS RAM keeps a byte");
    cmos_write(CMOS_FREE, kept);

    /* An alarm with "don't care" in all three registers matches every second. */
    cmos_write(RTC_SECONDS_ALARM, 0xc0);
    cmos_write(RTC_MINUTES_ALARM, 0xc0);
    cmos_write(RTC_HOURS_ALARM, 0xc0);
    /* Only a second's end between two reads may set them again; the periodic flag comes 1024 times a second. */
    cmos_read(RTC_C);
    bool cleared = false;
    for (unsigned try = 0; try < 3 && !cleared; try++)
        cleared = !(cmos_read(RTC_C) & (RTC_B_UPDATE | RTC_B_ALARM));
    report(cleared, "reading register C clears its flags");
    const uint8_t both = RTC_B_UPDATE | RTC_B_ALARM; /* register C has them where register B enables them */
    uint8_t seconds = cmos_read(RTC_SECONDS), flags = 0;
    WAIT_FOR(((flags |= cmos_read(RTC_C)) & both) == both, 2500);
    report(flags & RTC_B_UPDATE, "the update flag comes each second");
    report(flags & RTC_B_ALARM, "the alarm flag comes");
    report(cmos_read(RTC_SECONDS) != seconds, "seconds go on");
    report_prefix_pop();
}

#define RATE_TRIES 20

static void check_pm_timer(void)
{
    report_prefix_push("PM timer");
    if (!pm_timer_port()) {
        report_skip("not announced");
        report_prefix_pop();
        return;
    }
    unsigned backwards = 0;
    uint32_t last = pm_timer_read();
    for (unsigned i = 0; i < 200; i++) {
        uint32_t now = pm_timer_read();
        backwards += ((now - last) & pm_timer_mask()) > pm_timer_mask() / 2;
        last = now;
    }
    report(!backwards, "never goes back");

    /* A host may stop us between two readings, so a wrong rate is one that is wrong each time. */
    uint32_t pit = 0, passed = 0;
    bool good = false;
    for (unsigned i = 0; i < RATE_TRIES && !good; i++) {
        pit_channel2_start();
        uint16_t pit_first = pit_read(2);
        uint32_t first = pm_timer_read();
        wait_us(20000);
        pit = (uint16_t)(pit_first - pit_read(2));
        passed = (pm_timer_read() - first) & pm_timer_mask();
        good = passed > pit * 285 / 100 && passed < pit * 315 / 100;
    }
    report(good, "3 times as fast as the PIT: %u to %u", passed, pit);
    report_prefix_pop();
}

static void check_pit(void)
{
    report_prefix_push("PIT");
    pit_periodic(0);
    uint16_t first = pit_read(0);
    report(WAIT_FOR(pit_read(0) != first, 100), "channel 0 counts");

    /* Mode 0 on channel 2: OUT goes high when 11932 counts (10 ms) have passed. */
    outb(0x61, (inb(0x61) & ~2) | 1);
    outb(0x43, 0xb0);
    outb(0x42, 11932 & 0xff);
    outb(0x42, 11932 >> 8);
    uint64_t start = rdtsc();
    bool low = !pit_channel2_out();
    bool high = WAIT_FOR(pit_channel2_out(), 1000);
    uint64_t us = tsc_to_ns(rdtsc() - start) / 1000;
    report(low && high && us > 8000, "channel 2 raises OUT after %lu us", us);

    /* Read-back of the status: null count clear, access low-high, mode 2. */
    outb(0x43, 0x34);
    outb(0x40, 0);
    outb(0x40, 0x80);
    wait_us(100);
    outb(0x43, 0xe2);
    uint8_t status = inb(0x40);
    report((status & 0x3f) == 0x34, "read-back of channel 0: status 0x%02x", status);
    report_prefix_pop();
}

#define I8042_DATA 0x60
#define I8042_STATUS 0x64
#define I8042_SELF_TEST 0xaa
#define I8042_SELF_TEST_GOOD 0x55

static void check_i8042(void)
{
    report_prefix_push("i8042");
    uint8_t status = inb(I8042_STATUS);
    if (status == 0xff) {
        report_skip("none");
    } else {
        while (inb(I8042_STATUS) & 1)
            inb(I8042_DATA);
        outb(I8042_STATUS, I8042_SELF_TEST);
        bool answered = WAIT_FOR(inb(I8042_STATUS) & 1, 200);
        uint8_t answer = inb(I8042_DATA);
        report(answered && answer == I8042_SELF_TEST_GOOD, "self test: 0x%02x", answer);
    }
    report(inb(0x92) & 2, "port 0x92: A20 is on");
    report_prefix_pop();
}

static uint32_t big_endian(uint32_t value)
{
    return __builtin_bswap32(value);
}

static void check_fwcfg(void)
{
    report_prefix_push("fw_cfg");
    if (!fwcfg_present()) {
        report_skip("none");
        report_prefix_pop();
        return;
    }
    char signature[4];
    outw(0x510, FWCFG_SIGNATURE);
    insb(0x511, signature, sizeof(signature));
    report(!memcmp(signature, "QEMU", 4), "REP INSB reads the signature");

    uint16_t cpus = 0;
    uint32_t id = 0, files = 0;
    uint64_t ram = 0;
    fwcfg_read(FWCFG_ID, &id, sizeof(id));
    fwcfg_read(FWCFG_CPUS, &cpus, sizeof(cpus));
    fwcfg_read(FWCFG_RAM_SIZE, &ram, sizeof(ram));
    fwcfg_read(FWCFG_FILES, &files, sizeof(files));
    report(id & 1, "interface id 0x%x", id);
    report(cpus >= 1, "%u processors", cpus);
    report(ram >= memory_upper_kib() * 1024ull, "%lu MiB of RAM", ram >> 20);
    report(big_endian(files) < 1000, "%u files", big_endian(files));
    uint8_t beyond[2] = {1, 1};
    outw(0x510, 0x7abc);
    insb(0x511, beyond, sizeof(beyond));
    report(!beyond[0] && !beyond[1], "a missing item reads as 0");
    report_prefix_pop();
}

#define PCI_TESTDEV_VENDOR 0x1b36
#define PCI_TESTDEV_DEVICE 0x0005
#define PCI_TESTDEV_IO 0xd000       /* where we put it when nobody has */
#define PCI_TESTDEV_MEMORY 0xfea00000
#define PCI_TESTDEV_NAME 16

struct pci_test {
    uint8_t test, width, reserved[2];
    uint32_t offset, data, count;
};

/* Test 0 of each bar counts in the device. The others have an eventfd: whoever waits for it may count or not. */
static bool count_is_good(uint8_t test, uint32_t count)
{
    return count == 1 || (test > 0 && count == 0);
}

/* pci-testdev: write a test's number to byte 0, do the access it describes, see the count move. */
static void check_pci_testdev(pci_function function)
{
    report_prefix_push("testdev");
    if (!(pci_read32(function, PCI_BAR0) & ~0xfu))
        pci_write32(function, PCI_BAR0, PCI_TESTDEV_MEMORY);
    if (!(pci_read32(function, PCI_BAR0 + 4) & ~0x3u))
        pci_write32(function, PCI_BAR0 + 4, PCI_TESTDEV_IO);
    pci_write16(function, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    uint64_t memory = pci_read32(function, PCI_BAR0) & ~0xfu;
    uint16_t io = (uint16_t)(pci_read32(function, PCI_BAR0 + 4) & ~0x3u);
    volatile struct pci_test *header = (volatile struct pci_test *)memory;

    for (uint8_t test = 0; test < 3; test++) {
        char name[32] = {0};
        header->test = test;
        if (!header->width)
            break;
        for (unsigned i = 0; i < sizeof(name) - 1; i++)
            if (!(name[i] = (char)((volatile uint8_t *)memory)[PCI_TESTDEV_NAME + i]))
                break;
        volatile uint8_t *target = (volatile uint8_t *)memory + header->offset;
        uint8_t width = header->width;
        uint32_t data = header->data;
        if (width == 1)
            *target = (uint8_t)data;
        else if (width == 2)
            *(volatile uint16_t *)target = (uint16_t)data;
        else
            *(volatile uint32_t *)target = data;
        uint32_t count = header->count;
        report(count_is_good(test, count), "%s, width %u: counted %u", name, width, count);
    }
    for (uint8_t test = 0; test < 3; test++) {
        char name[32] = {0};
        outb(io, test);
        uint8_t width = inb(io + 1);
        if (!width)
            break;
        for (uint16_t i = 0; i < sizeof(name) - 1; i++)
            if (!(name[i] = (char)inb(io + PCI_TESTDEV_NAME + i)))
                break;
        uint16_t target = (uint16_t)(io + inl(io + 4));
        uint32_t data = inl(io + 8);
        if (width == 1)
            outb(target, (uint8_t)data);
        else if (width == 2)
            outw(target, (uint16_t)data);
        else
            outl(target, data);
        uint32_t count = inl(io + 12);
        report(count_is_good(test, count), "%s, width %u: counted %u", name, width, count);
    }
    report_prefix_pop();
}

static void ignore_function(pci_function function)
{
    (void)function;
}

static void check_pci(void)
{
    report_prefix_push("PCI");
    outl(0xcf8, 0x80000000);
    report(inl(0xcf8) == 0x80000000, "the address register keeps its value");
    unsigned count = pci_scan(ignore_function);
    report(count > 0, "%u functions", count);
    uint32_t bridge = pci_read32(0, PCI_ID);
    report(bridge != 0xffffffff && pci_read32(0, PCI_CLASS) >> 16 == 0x0600, "00:00.0 is a host bridge: %x", bridge);
    report(pci_read16(0, PCI_ID + 2) == pci_read32(0, PCI_ID) >> 16 && pci_read8(0, PCI_CLASS + 3) == 6,
           "bytes and words of a register");
    report(pci_read32(PCI_FUNCTION(0, 31, 7), PCI_ID) == 0xffffffff, "an absent function reads as ones");
    outl(0xcf8, 0);
    report(inl(0xcfc) == 0xffffffff, "no configuration access without the enable bit");

    pci_function function;
    if (pci_find(PCI_TESTDEV_VENDOR, PCI_TESTDEV_DEVICE, &function))
        check_pci_testdev(function);
    else
        report_skip("no pci-testdev");
    report_prefix_pop();
}

#define TESTDEV_LATCH 0xe0
#define TESTDEV_BYTES 0xe8
#define TESTDEV_MMIO 0xff000000
#define UNUSED_PORT 0x1234

static void check_testdev(void)
{
    report_prefix_push("test device");
    outl(TESTDEV_LATCH, 0x12345678);
    if (inl(TESTDEV_LATCH) == 0xffffffff) {
        report_skip("none");
        report_prefix_pop();
        return;
    }
    report(inl(TESTDEV_LATCH) == 0x12345678, "4 bytes");
    outw(TESTDEV_LATCH, 0xabcd);
    report(inw(TESTDEV_LATCH) == 0xabcd, "2 bytes");
    outb(TESTDEV_LATCH, 0x5a);
    report(inb(TESTDEV_LATCH) == 0x5a, "1 byte");
    outl(TESTDEV_BYTES, 0xcafebabe);
    report(inl(TESTDEV_BYTES) == 0xcafebabe, "4 bytes, byte by byte");
    uint8_t bytes[5] = {1, 2, 3, 4, 5}, back[3] = {0};
    outsb(TESTDEV_LATCH, bytes, sizeof(bytes));
    insb(TESTDEV_LATCH, back, sizeof(back));
    report(back[0] == 5 && back[2] == 5, "REP OUTSB and REP INSB");
    volatile uint64_t *memory = (volatile uint64_t *)TESTDEV_MMIO;
    memory[1] = 0x1122334455667788;
    report(((volatile uint8_t *)memory)[9] == 0x77 && ((volatile uint32_t *)memory)[3] == 0x11223344 &&
               memory[1] == 0x1122334455667788,
           "memory behind MMIO, 1, 4 and 8 bytes");
    report_prefix_pop();
}

int main(int argc, char **argv)
{
    (void)argc, (void)argv;
    check_serial();
    check_rtc();
    check_pit();
    check_pm_timer();
    check_i8042();
    check_fwcfg();
    check_pci();
    check_testdev();
    report(inb(UNUSED_PORT) == 0xff && inw(UNUSED_PORT) == 0xffff && inl(UNUSED_PORT) == 0xffffffff,
           "a port without a device reads as ones");
    return report_summary();
}
