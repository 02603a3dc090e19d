/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least a VMM can do for a hypercall: one vCPU, registers that come with each exit, and the ioctls that the call
 * needs. It knows each call by what the guest was set up to do, checks nothing, and answers.
 *
 *   port, called-port    nothing
 *   null-fast            RAX goes back (KVM_CAP_SYNC_REGS)
 *   get-register-slow    the same, with input read from guest memory and output written there
 *   get-register-fast    the same, with KVM_GET_XSAVE for the input and KVM_SET_XSAVE for the output
 *
 * usage: hypercall CALLS; prints "NAME: CYCLES cycles", of the TSC, for each: the average of its fastest round. So does
 * firmware/guests/hyperv.c, whose instructions these are.
 *
 * Guest code (64-bit, ring 0): 1: out %al, $0x80; dec %rbx; jnz 1b; out %al, $0xf4
 *                              1: call *%rsi;     dec %rbx; jnz 1b; out %al, $0xf4
 * %rsi: out %al, $0x80; ret, or the hypercall page: out %al, $0xec; ret
 */
#include <x86intrin.h>

#include "setup.h"

#define RAM_BYTES 0x200000
#define PML4_GPA 0x1000
#define CODE_GPA 0x10000
#define CALLING_GPA 0x10100
#define CALLED_GPA 0x10200
#define PAGE_GPA 0x11000
#define INPUT_GPA 0x12000
#define OUTPUT_GPA 0x13000
#define STACK_GPA 0x15000
#define PORT 0x80
#define HYPERCALL_PORT 0xec
#define END_PORT 0xf4
#define ROUNDS 50
#define XMM0 (160 / 4) /* in the XSAVE area, in 32-bit words */
#define XSTATE_BV (512 / 4)
#define SSE 2
#define REGISTER_VP_INDEX 0x00090003
#define RESULT (1ull << 32) /* one rep done */

enum kind { PORT_WRITE, CALLED_PORT, NULL_FAST, GET_SLOW, GET_FAST, KINDS };

static const char *const names[KINDS] = {
	"port", "called-port", "null-fast", "get-register-slow", "get-register-fast",
};
static const unsigned char writing[] = {0xe6, PORT, 0x48, 0xff, 0xcb, 0x75, 0xf9, 0xe6, END_PORT};
static const unsigned char calling[] = {0xff, 0xd6, 0x48, 0xff, 0xcb, 0x75, 0xf9, 0xe6, END_PORT};
static const unsigned char called[] = {0xe6, PORT, 0xc3};
static const unsigned char page[] = {0xe6, HYPERCALL_PORT, 0xc3};

static unsigned char *ram;
static int vcpu;
static struct kvm_run *run;
static struct kvm_regs initial;
static struct kvm_xsave xsave;

static void refuse(const char *what, unsigned long long value)
{
	fprintf(stderr, "%s: %#llx\n", what, value);
	exit(2);
}

static uint64_t register_value(uint32_t name)
{
	if (name != REGISTER_VP_INDEX)
		refuse("a register that no guest asks for", name);
	return 0;
}

static void get_slow(const struct kvm_regs *regs)
{
	uint64_t value[2] = {register_value(*(uint32_t *)(ram + regs->rdx + 16)), 0};

	memcpy(ram + regs->r8, value, sizeof(value));
}

static void get_fast(void)
{
	uint64_t value[2] = {0};

	call(vcpu, KVM_GET_XSAVE, &xsave, "KVM_GET_XSAVE");
	value[0] = register_value(xsave.region[XMM0]);
	memcpy(xsave.region + XMM0 + 4, value, sizeof(value));
	xsave.region[XSTATE_BV] |= SSE;
	call(vcpu, KVM_SET_XSAVE, &xsave, "KVM_SET_XSAVE");
}

static void answer(enum kind kind)
{
	struct kvm_regs *regs = &run->s.regs.regs;

	if (run->io.port != HYPERCALL_PORT)
		return;
	if (kind == GET_SLOW)
		get_slow(regs);
	else if (kind == GET_FAST)
		get_fast();
	regs->rax = kind == NULL_FAST ? 0 : RESULT;
	run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

/* Cycles from one exit to the next. */
static unsigned long long measure(enum kind kind, long calls)
{
	unsigned long long first = 0, last = 0;
	struct kvm_regs regs = initial;
	long exits = 0;

	regs.rip = kind == PORT_WRITE ? CODE_GPA : CALLING_GPA;
	regs.rsi = kind == CALLED_PORT ? CALLED_GPA : PAGE_GPA;
	regs.rbx = calls + 1;
	call(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
	for (;;) {
		call(vcpu, KVM_RUN, NULL, "KVM_RUN");
		if (run->exit_reason != KVM_EXIT_IO)
			refuse("an exit that is no port I/O", run->exit_reason);
		if (run->io.port == END_PORT)
			break;
		answer(kind);
		last = __rdtsc();
		if (!exits++)
			first = last;
	}
	if (exits != calls + 1)
		refuse("exits", exits);
	return (last - first) / calls;
}

static void fill_ram(void)
{
	uint32_t *input = (uint32_t *)(ram + INPUT_GPA);

	fill_page_tables(ram, PML4_GPA);
	memcpy(ram + CODE_GPA, writing, sizeof(writing));
	memcpy(ram + CALLING_GPA, calling, sizeof(calling));
	memcpy(ram + CALLED_GPA, called, sizeof(called));
	memcpy(ram + PAGE_GPA, page, sizeof(page));
	input[4] = REGISTER_VP_INDEX;
}

static void set_up_vcpu(int kvm, int vm)
{
	vcpu = make_vcpu(kvm, vm, 0, &run);
	set_long_mode(vcpu, supported_cpuid(kvm), PML4_GPA);
	initial = (struct kvm_regs){.rflags = 2, .rsp = STACK_GPA, .rdx = INPUT_GPA, .r8 = OUTPUT_GPA};
	set_runnable(vcpu);
	call(vcpu, KVM_GET_XSAVE, &xsave, "KVM_GET_XSAVE");
	xsave.region[XMM0] = REGISTER_VP_INDEX;
	xsave.region[XSTATE_BV] |= SSE;
	call(vcpu, KVM_SET_XSAVE, &xsave, "KVM_SET_XSAVE");
	run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

int main(int argc, char **argv)
{
	long calls = argc == 2 ? atol(argv[1]) / ROUNDS + 1 : 0;
	unsigned long long least[KINDS], now;
	int kvm, vm;

	if (calls < 1) {
		fprintf(stderr, "usage: hypercall CALLS\n");
		return 2;
	}
	kvm = open_kvm();
	ram = make_ram(RAM_BYTES);
	fill_ram();
	vm = make_vm(kvm, ram, RAM_BYTES);
	call(vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");
	set_up_vcpu(kvm, vm);

	measure(PORT_WRITE, 10 * calls); /* warm */
	for (int round = 0; round < ROUNDS; round++)
		for (int kind = 0; kind < KINDS; kind++) {
			now = measure(kind, calls);
			if (!round || now < least[kind])
				least[kind] = now;
		}
	for (int kind = 0; kind < KINDS; kind++)
		printf("%s: %llu cycles\n", names[kind], least[kind]);
	return 0;
}
