/* SPDX-License-Identifier: Apache-2.0 */
/* Port intercepts: VTL1 hears of VTL0's INs and OUTs before they have any effect, and lets VTL0 try again, skips them,
 * answers them, has VTL0 take an exception, or sends it somewhere else. TLFS 6.1, 13.2, 15.13.
 *
 * The serial line's scratch register is the port that remembers.
 */
#include "fault.h"
#include "hyperv.h"
#include "listen.h"
#include "pci.h"
#include "runtime.h"
#include "vsm.h"

#define SCRATCH 0x3ff
#define NOBODYS 0x80
#define PCI_ADDRESS 0xcf8
#define PENDING 1ull
#define WITH_ERROR_CODE (1ull << 8)
#define EVENT(vector, error) (PENDING | WITH_ERROR_CODE | (uint64_t)(vector) << 16 | (uint64_t)(error) << 32)
#define LIMIT_MS 2000
#define OLD 0x55
#define NEW 0xaa

extern const char at_out[], at_in[], at_outs[], at_ins[], at_immediate[], at_word[], at_guarded[], at_escape[], escaped[];

static __attribute__((noinline, noclone)) void out_dx(uint8_t value)
{
    asm volatile("at_out: outb %%al, %%dx" : : "a"(value), "d"(SCRATCH) : "memory");
}

static __attribute__((noinline, noclone)) uint8_t in_dx(void)
{
    uint8_t value = 0x11;
    asm volatile("at_in: inb %%dx, %%al" : "+a"(value) : "d"(SCRATCH) : "memory");
    return value;
}

static uint16_t intercept(uint32_t accesses)
{
    return listen_install(INTERCEPT_PORT, SCRATCH, accesses);
}

static void give_up(struct listener *self, struct vtl_frame *frame)
{
    (void)frame;
    uint16_t status = listen_install_here(INTERCEPT_PORT, SCRATCH, ACCESS_MASK_NONE);
    if (status && !self->status)
        self->status = status;
}

static void give_up_range(struct listener *self, struct vtl_frame *frame)
{
    (void)frame;
    uint16_t status = listen_install_here(INTERCEPT_PORT_RANGE, 0 | 0xffffull << 16, ACCESS_MASK_NONE);
    if (status && !self->status)
        self->status = status;
}

/* ---- what is refused ---- */

static void check_refused(bool in_kernel)
{
    report(listen_install_here(INTERCEPT_PORT, SCRATCH, ACCESS_MASK_WRITE) == HV_STATUS_ACCESS_DENIED,
           "VTL0 may not install intercepts");
    report(listen_install(INTERCEPT_PORT, 0x10000, ACCESS_MASK_WRITE) == HV_STATUS_INVALID_PARAMETER, "a port beyond all");
    report(listen_install(INTERCEPT_PORT_RANGE, 0x81 | 0x80 << 16, ACCESS_MASK_WRITE) == HV_STATUS_INVALID_PARAMETER,
           "a range that ends before it begins");
    report(listen_install(INTERCEPT_PORT, SCRATCH, ACCESS_MASK_EXECUTE) == HV_STATUS_INVALID_PARAMETER,
           "execution of a port");
    report(listen_install(INTERCEPT_CPUID, 1, ACCESS_MASK_EXECUTE) == HV_STATUS_INVALID_PARAMETER, "CPUID");
    report(listen_install(INTERCEPT_EXCEPTION, VECTOR_GP, ACCESS_MASK_EXECUTE) == HV_STATUS_INVALID_PARAMETER,
           "exceptions");
    uint16_t expected = in_kernel ? HV_STATUS_INVALID_PARAMETER : 0;
    report(listen_install(INTERCEPT_PORT, 0x20, ACCESS_MASK_WRITE) == expected, "a port of the PIC");
    listen_install(INTERCEPT_PORT, 0x20, ACCESS_MASK_NONE);
}

/* ---- OUT and IN ---- */

static void check_out(void)
{
    outb(SCRATCH, OLD);
    report(intercept(ACCESS_MASK_WRITE) == 0, "writes of one port");
    struct listener *self = listen_for(listen_skip);
    out_dx(NEW);
    const struct listen_message *message = &self->message;
    report(self->count == 1 && self->status == 0, "VTL1 hears of an OUT: %u", self->count);
    report(message->type == PORT_MESSAGE && message->size == 128, "by a message of its own: 0x%x", message->type);
    report(message->header.access == 1 && message->io.port == SCRATCH && message->io.access_info == 1,
           "it was a write of a byte: port 0x%x", message->io.port);
    report((message->io.rax & 0xff) == NEW && message->io.byte_count == 1 && message->io.bytes[0] == 0xee,
           "the value, and the instruction: 0x%lx", message->io.rax);
    report(message->header.rip == (uint64_t)at_out && (message->header.length_cr8 & 15) == 1,
           "VTL0 is still at it: 0x%lx", message->header.rip);
    report(inb(SCRATCH) == OLD, "nothing was written: 0x%x", inb(SCRATCH));

    self = listen_for(listen_retry);
    self->patience = 2;
    out_dx(NEW);
    report(self->count == 3 && inb(SCRATCH) == OLD, "VTL0 tries again, and is heard again: %u", self->count);

    self = listen_for(give_up);
    out_dx(NEW);
    report(self->count == 1 && self->status == 0 && inb(SCRATCH) == NEW, "until VTL1 gives the port up: 0x%x",
           inb(SCRATCH));
    out_dx(OLD);
    report(self->count == 1 && inb(SCRATCH) == OLD, "from then on it hears nothing");
}

static void check_in(void)
{
    outb(SCRATCH, OLD);
    report(intercept(ACCESS_MASK_READ) == 0, "reads of one port");
    struct listener *self = listen_for(listen_answer);
    self->answer = (uint64_t)SCRATCH << 32 | 0x77;
    uint8_t value = in_dx();
    const struct listen_message *message = &self->message;
    report(self->count == 1 && value == 0x77, "VTL1 answers an IN: 0x%x", value);
    report(message->header.access == 0 && message->io.port == SCRATCH && message->header.rip == (uint64_t)at_in,
           "VTL0 was at it: 0x%lx", message->header.rip);
    report((message->io.rax & 0xff) == 0x11, "RAX was as before it: 0x%lx", message->io.rax);
    out_dx(NEW);
    report(self->count == 1, "writes are not heard");
    self = listen_for(listen_skip);
    report(in_dx() == 0x11, "an IN that is skipped reads nothing");
    self = listen_for(give_up);
    report(in_dx() == NEW && self->count == 1, "one that is tried again reads the port");
}

static void check_other_forms(void)
{
    report(listen_install(INTERCEPT_PORT, NOBODYS, ACCESS_MASK_WRITE) == 0, "a port of nobody");
    struct listener *self = listen_for(listen_skip);
    asm volatile("at_immediate: outb %%al, %0" : : "i"(NOBODYS), "a"(3));
    report(self->count == 1 && self->message.header.rip == (uint64_t)at_immediate &&
               (self->message.header.length_cr8 & 15) == 2 && self->message.io.bytes[1] == NOBODYS,
           "OUT with its port in the instruction: 0x%lx", self->message.header.rip);
    self = listen_for(listen_skip);
    asm volatile("at_word: outw %%ax, %%dx" : : "a"(0x1234), "d"(NOBODYS - 1));
    report(self->count == 1 && self->message.header.rip == (uint64_t)at_word && self->message.io.access_info == 2 &&
               self->message.io.port == NOBODYS - 1 && (self->message.header.length_cr8 & 15) == 2,
           "a word beside it reaches into it");
    listen_install(INTERCEPT_PORT, NOBODYS, ACCESS_MASK_NONE);

    uint32_t before = inl(PCI_ADDRESS);
    listen_install(INTERCEPT_PORT_RANGE, PCI_ADDRESS | (PCI_ADDRESS + 3ull) << 16, ACCESS_MASK_READ | ACCESS_MASK_WRITE);
    self = listen_for(listen_skip);
    outl(PCI_ADDRESS, ~before & 0x80fffffc);
    report(self->count == 1 && self->message.io.access_info == 4, "four bytes, in a range of ports");
    self->answer = (uint64_t)PCI_ADDRESS << 32 | 0xdeadbeef;
    self->decide = listen_answer;
    uint32_t value = inl(PCI_ADDRESS);
    report(self->count == 2 && value == 0xdeadbeef, "both ways: 0x%x", value);
    listen_install(INTERCEPT_PORT_RANGE, PCI_ADDRESS | (PCI_ADDRESS + 3ull) << 16, ACCESS_MASK_NONE);
    report(inl(PCI_ADDRESS) == before, "nothing was written: 0x%x", inl(PCI_ADDRESS));
}

/* ---- OUTS and INS ---- */

static uint8_t buffer[8] = "abcdefg";

static void check_outs(void)
{
    const uint8_t *from = buffer;
    uint64_t count = 3;
    outb(SCRATCH, OLD);
    intercept(ACCESS_MASK_WRITE);
    struct listener *self = listen_for(listen_skip);
    asm volatile("at_outs: rep outsb" : "+S"(from), "+c"(count) : "d"(SCRATCH) : "memory");
    const struct listen_message *message = &self->message;
    report(self->count == 1 && message->io.access_info == (1 | PORT_STRING | PORT_REP) &&
               message->header.rip == (uint64_t)at_outs && (message->header.length_cr8 & 15) == 2,
           "VTL1 hears of REP OUTSB: 0x%x", message->io.access_info);
    report(message->io.rcx == 3 && message->io.rsi == (uint64_t)buffer, "before its first byte: %lu", message->io.rcx);
    report(count == 3 && from == buffer && inb(SCRATCH) == OLD, "skipped, it writes nothing");

    self = listen_for(give_up);
    asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(SCRATCH) : "memory");
    report(self->count == 1 && count == 0 && from == buffer + 3 && inb(SCRATCH) == 'c', "tried again, all of it: 0x%x",
           inb(SCRATCH));

    intercept(ACCESS_MASK_WRITE);
    from = buffer + 6;
    self = listen_for(give_up);
    asm volatile("std; outsb; cld" : "+S"(from) : "d"(SCRATCH) : "memory");
    report(self->count == 1 && self->message.io.rsi == (uint64_t)buffer + 6 && from == buffer + 5 && inb(SCRATCH) == 'g',
           "a single one, downwards");
}

static void check_ins(void)
{
    uint8_t place[4] = "xyz";
    uint8_t *to = place;
    uint64_t count = 3;
    outb(SCRATCH, OLD);
    intercept(ACCESS_MASK_READ);
    struct listener *self = listen_for(listen_skip);
    asm volatile("at_ins: rep insb" : "+D"(to), "+c"(count) : "d"(SCRATCH) : "memory");
    const struct listen_message *message = &self->message;
    report(self->count == 1 && message->io.access_info == (1 | PORT_STRING | PORT_REP) && message->io.rcx == 3 &&
               message->io.rdi == (uint64_t)place && message->header.rip == (uint64_t)at_ins,
           "VTL1 hears of REP INSB: 0x%x", message->io.access_info);
    report(to == place && count == 3 && place[0] == 'x' && place[1] == 'y' && place[2] == 'z', "it has stored nothing");
    self = listen_for(give_up);
    asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(SCRATCH) : "memory");
    report(self->count == 1 && to == place + 3 && count == 0 && place[0] == OLD && place[2] == OLD,
           "tried again, it reads the port");
}

/* ---- exceptions and other ends ---- */

static void check_injection(void)
{
    outb(SCRATCH, OLD);
    intercept(ACCESS_MASK_WRITE);
    struct listener *self = listen_for(listen_inject);
    self->event[0] = EVENT(VECTOR_GP, 0x1234);
    fault_clear();
    asm volatile(FAULT_GUARD("outb %%al, %%dx") : : "a"(NEW), "d"(SCRATCH) : "memory");
    report(fault_vector() == VECTOR_GP && this_cpu()->fault.error_code == 0x1234 && self->status == 0,
           "VTL1 has VTL0 take #GP at its OUT: %d 0x%lx", fault_vector(), this_cpu()->fault.error_code);
    report(self->count == 1 && inb(SCRATCH) == OLD, "which has no effect");

    self = listen_for(listen_redirect);
    self->target = (uint64_t)escaped;
    bool passed = false;
    asm volatile("at_escape: outb %%al, %%dx\n\t"
                 "movb $1, %0\n\t"
                 "escaped:"
                 : "+m"(passed)
                 : "a"(NEW), "d"(SCRATCH)
                 : "memory");
    report(self->count == 1 && !passed && inb(SCRATCH) == OLD, "or sends it somewhere else");
    intercept(ACCESS_MASK_NONE);
}

static uint64_t out_in_vtl1(void *argument)
{
    outb(SCRATCH, (uint8_t)(uint64_t)argument);
    return inb(SCRATCH);
}

static void check_vtl1_itself(void)
{
    intercept(ACCESS_MASK_READ | ACCESS_MASK_WRITE);
    struct listener *self = listen_for(listen_skip);
    report(vsm_run(out_in_vtl1, (void *)NEW) == NEW && self->count == 0, "VTL1's own accesses are its own");
    intercept(ACCESS_MASK_NONE);
}

static void check_by_page(void)
{
    uint64_t config = listen_get(HV_REGISTER_VSM_PARTITION_CONFIG);
    report(hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_CAPABILITIES) >> 27 & 1, "an intercept page is offered");
    report(listen_set(HV_REGISTER_VSM_PARTITION_CONFIG, config | 1 << 12) == 0, "and taken");
    outb(SCRATCH, OLD);
    intercept(ACCESS_MASK_WRITE);
    struct listener *self = listen_for(listen_skip);
    out_dx(NEW);
    report(self->count == 1 && self->by_page == 1 && self->message.type == PORT_MESSAGE && inb(SCRATCH) == OLD,
           "the message comes in the VP assist page, with its own reason of entry: %u", self->by_page);
    intercept(ACCESS_MASK_NONE);
    report(listen_set(HV_REGISTER_VSM_PARTITION_CONFIG, config) == 0, "and back to SINT0");
}

/* ---- a port whose writes KVM counts ---- */

#define TESTDEV_VENDOR 0x1b36
#define TESTDEV_DEVICE 0x0005
#define TESTDEV_IO 0xd000
#define TESTDEV_MATCHED_BY_KVM 2 /* KVM takes writes of one value itself (an ioeventfd) */

static uint16_t counted_port;

static void give_up_counted(struct listener *self, struct vtl_frame *frame)
{
    (void)frame;
    uint16_t status = listen_install_here(INTERCEPT_PORT, counted_port, ACCESS_MASK_NONE);
    if (status && !self->status)
        self->status = status;
}

static uint32_t start_counting(void)
{
    outb(TESTDEV_IO, TESTDEV_MATCHED_BY_KVM);
    counted_port = (uint16_t)(TESTDEV_IO + inl(TESTDEV_IO + 4));
    return inl(TESTDEV_IO + 8);
}

static void check_counted_by_kvm(void)
{
    pci_function function;
    if (!pci_find(TESTDEV_VENDOR, TESTDEV_DEVICE, &function)) {
        report_skip("no pci-testdev, whose port KVM watches");
        return;
    }
    pci_write32(function, PCI_BAR0 + 4, TESTDEV_IO);
    pci_write16(function, PCI_COMMAND, PCI_COMMAND_IO);
    uint8_t value = (uint8_t)start_counting();
    report(listen_install(INTERCEPT_PORT, counted_port, ACCESS_MASK_WRITE) == 0, "writes of a port that KVM counts");
    struct listener *self = listen_for(listen_skip);
    outb(counted_port, value);
    report(self->count == 1 && self->message.io.port == counted_port && inl(TESTDEV_IO + 12) == 0,
           "VTL1 hears of one, and nobody else does: %u, counted %u", self->count, inl(TESTDEV_IO + 12));
    self = listen_for(listen_skip);
    value = (uint8_t)start_counting();
    outb(counted_port, value);
    report(self->count == 1 && inl(TESTDEV_IO + 12) == 0, "also when VTL0 has KVM count behind the intercept: %u", self->count);
    self = listen_for(give_up_counted);
    outb(counted_port, value);
    report(self->count == 1 && self->status == 0 && inl(TESTDEV_IO + 12) == 1, "tried again, it is counted: %u",
           inl(TESTDEV_IO + 12));
    outb(counted_port, value);
    outb(counted_port, (uint8_t)~value);
    report(self->count == 1 && inl(TESTDEV_IO + 12) == 2, "and so is the next one: %u", inl(TESTDEV_IO + 12));
    outb(TESTDEV_IO, 0xff);
}

/* ---- all ports ---- */

static void check_hypercalls_go_on(void)
{
    /* Only where KVM decodes no port itself. The console is one of the ports: nothing is said before they are given up. */
    uint16_t installed = listen_install(INTERCEPT_PORT_RANGE, 0 | 0xffffull << 16, ACCESS_MASK_WRITE);
    struct listener *self = listen_for(listen_skip);
    /* VTL0's hypercalls may be port writes, which are none of VTL1's business. */
    uint64_t status = hv_register(HV_SELF_VP, HV_OWN_VTL, HV_REGISTER_VSM_PARTITION_STATUS);
    uint32_t heard = self->count;
    self = listen_for(give_up_range);
    out_dx(OLD);
    report(installed == 0 && self->count == 1 && self->status == 0, "all ports at once: 0x%x", installed);
    report(heard == 0 && status != ~0ull, "VTL0's hypercalls are not ports: %u", heard);
}

/* ---- several processors ---- */

static volatile bool leave;
static volatile uint64_t written;

static void write_for_ever(void *argument)
{
    (void)argument;
    listen_for(listen_skip);
    while (!leave) {
        outb(SCRATCH, NEW);
        written++;
    }
}

static void check_processors(void)
{
    leave = false;
    written = 0;
    smp_run_async(1, write_for_ever, NULL);
    report(WAIT_FOR(written > 2, LIMIT_MS) && listener_of(1)->count == 0, "another processor writes a port");
    report(intercept(ACCESS_MASK_WRITE) == 0, "which is intercepted now");
    outb(NOBODYS, 0);
    uint64_t from = listener_of(1)->count;
    report(WAIT_FOR(listener_of(1)->count > from + 2, LIMIT_MS), "and VTL1 of that processor hears of each write");
    uint32_t vp = listener_of(1)->message.header.vp;
    report(vp == vtl1_of(1)->vp_index && listener()->count == 0, "and only there: VP %u", vp);
    outb(NOBODYS, 0);
    report(intercept(ACCESS_MASK_NONE) == 0, "given up again");
    leave = true;
    smp_wait(1);
    report(listener_of(1)->status == 0, "nothing went wrong: 0x%x", listener_of(1)->status);
}

int main(int argc, char **argv)
{
    bool split = false;
    for (int i = 1; i < argc; i++)
        split |= !strcmp(argv[i], "split");
    vsm_require();
    smp_start();
    vsm_start();
    listen_start();

    check_refused(!split);
    check_out();
    check_in();
    check_other_forms();
    check_outs();
    check_ins();
    check_injection();
    check_vtl1_itself();
    check_by_page();
    check_counted_by_kvm();
    if (split)
        check_hypercalls_go_on();
    if (smp_count() > 1) {
        listen_for(listen_skip);
        check_processors();
    } else
        report_skip("intercepts of another processor need two");
    return report_summary();
}
