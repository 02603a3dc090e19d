/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupt descriptor table and dispatch. SDM volume 3, 6.14. */
#include "interrupts.h"

#include "console.h"
#include "cpu.h"
#include "exit.h"
#include "fault.h"

#define GATE_INTERRUPT 0x8e /* present, DPL 0, 64-bit interrupt gate */
#define ENTRY_SIZE 16       /* interrupts.S */
#define TAKE_INSTRUCTIONS 1000

struct gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

struct fixup {
    uint64_t rip, target;
};

void interrupt_dispatch(struct frame *frame);

extern const char interrupt_entries[];
extern const struct fixup fixups_start[], fixups_end[];

static struct gate idts[VTLS][256] __attribute__((aligned(16)));
static interrupt_handler handlers[VTLS][256];

struct table_pointer idt_pointer(unsigned vtl)
{
    return (struct table_pointer){sizeof(idts[vtl]) - 1, (uint64_t)idts[vtl]};
}

void idt_load(void)
{
    struct table_pointer pointer = idt_pointer(this_cpu()->vtl);
    asm volatile("lidt %0" : : "m"(pointer));
}

void interrupts_init(void)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t entry = (uint64_t)interrupt_entries + vector * ENTRY_SIZE;
        struct gate gate = {
            .offset_low = entry & 0xffff,
            .selector = SELECTOR_CODE64,
            .ist = vector == VECTOR_DF ? 1 : 0,
            .type = GATE_INTERRUPT,
            .offset_middle = entry >> 16 & 0xffff,
            .offset_high = entry >> 32,
        };
        for (unsigned vtl = 0; vtl < VTLS; vtl++)
            idts[vtl][vector] = gate;
    }
}

void interrupt_set_handler(uint8_t vector, interrupt_handler handler)
{
    handlers[this_cpu()->vtl][vector] = handler;
}

void interrupt_set_handler_of(unsigned vtl, uint8_t vector, interrupt_handler handler)
{
    handlers[vtl][vector] = handler;
}

void interrupts_take(void)
{
    uint64_t before = this_cpu()->interrupts;
    interrupts_on();
    for (unsigned i = 0; i < TAKE_INSTRUCTIONS && this_cpu()->interrupts == before; i++)
        asm volatile("nop" : : : "memory");
    interrupts_off();
}

void frame_print(const struct frame *f)
{
    printf("rip=%016lx rflags=%08lx cs=%04lx ss=%04lx error_code=%04lx\n", f->rip, f->rflags, f->cs, f->ss,
           f->error_code);
    printf("rax=%016lx rcx=%016lx rdx=%016lx rbx=%016lx\n", f->rax, f->rcx, f->rdx, f->rbx);
    printf("rsp=%016lx rbp=%016lx rsi=%016lx rdi=%016lx\n", f->rsp, f->rbp, f->rsi, f->rdi);
    printf(" r8=%016lx  r9=%016lx r10=%016lx r11=%016lx\n", f->r8, f->r9, f->r10, f->r11);
    printf("r12=%016lx r13=%016lx r14=%016lx r15=%016lx\n", f->r12, f->r13, f->r14, f->r15);
    printf("cr0=%016lx cr2=%016lx cr3=%016lx cr4=%016lx\n", read_cr0(), read_cr2(), read_cr3(), read_cr4());
}

static void unexpected(const struct frame *frame) __attribute__((noreturn));
static void unexpected(const struct frame *frame)
{
    static const char *const names[32] = {
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "coprocessor overrun", "#TS",
        "#NP", "#SS", "#GP", "#PF", "reserved", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP", "reserved",
        "reserved", "reserved", "reserved", "reserved", "reserved", "#HV", "#VC", "#SX", "reserved",
    };
    if (frame->vector < 32)
        printf("Unhandled exception %lu %s at ip %016lx on CPU %u in VTL%u\n", frame->vector, names[frame->vector],
               frame->rip, this_cpu()->index, this_cpu()->vtl);
    else
        printf("Unexpected interrupt 0x%02lx at ip %016lx on CPU %u in VTL%u\n", frame->vector, frame->rip,
               this_cpu()->index, this_cpu()->vtl);
    frame_print(frame);
    exit(EXIT_ABORT);
}

static bool guarded(struct frame *frame)
{
    for (const struct fixup *fixup = fixups_start; fixup < fixups_end; fixup++) {
        if (fixup->rip != frame->rip)
            continue;
        this_cpu()->fault = (struct fault){
            .happened = true,
            .vector = (uint32_t)frame->vector,
            .error_code = frame->error_code,
            .address = frame->vector == VECTOR_PF ? read_cr2() : 0,
        };
        frame->rip = fixup->target;
        return true;
    }
    return false;
}

void interrupt_dispatch(struct frame *frame)
{
    this_cpu()->interrupts++;
    interrupt_handler handler = handlers[this_cpu()->vtl][frame->vector];
    if (handler)
        handler(frame);
    else if (frame->vector == VECTOR_SPURIOUS)
        ; /* SDM volume 3, "Spurious Interrupt": no EOI */
    else if (frame->vector == VECTOR_NMI || frame->vector >= 32 || !guarded(frame))
        unexpected(frame);
}
