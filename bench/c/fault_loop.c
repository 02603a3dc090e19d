/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least a VMM can do about a page that a guest may not read: take it away, see the guest miss it, give it back, have
 * the guest read it. The guest writes a port after each read.
 *
 * usage: fault_loop TURNS; prints TSC cycles per turn.
 * Guest code (real mode, at 0x7c00): 1: mov 0x8000, %al; out %al, %dx; jmp 1b
 */
#include <errno.h>
#include <x86intrin.h>

#include "setup.h"

#define CODE_GPA 0x7c00
#define PAGE_GPA 0x8000
#define PAGE_BYTES 4096
#define RAM_BYTES 0x100000
#define PORT 0x5000

static const unsigned char code[] = {0xa0, PAGE_GPA & 0xff, PAGE_GPA >> 8, 0xee, 0xeb, 0xfa};

/* Until the guest writes the port. How often it missed the page. */
static long run_turn(int vcpu, struct kvm_run *run, void *page)
{
	for (long missed = 0;;) {
		int result = ioctl(vcpu, KVM_RUN, 0);

		if (result == 0 && run->exit_reason == KVM_EXIT_IO)
			return missed;
		/* Hardware virtualization says EFAULT and repeats the read; emulation takes the page for a device's. */
		if (result < 0 && errno != EFAULT)
			die("KVM_RUN");
		if (result == 0 && run->exit_reason != KVM_EXIT_MMIO) {
			fprintf(stderr, "exit reason %u, expected a missing page or port I/O\n", run->exit_reason);
			exit(2);
		}
		missed++;
		if (mprotect(page, PAGE_BYTES, PROT_READ | PROT_WRITE) < 0)
			die("mprotect");
		if (result == 0)
			memcpy(run->mmio.data, page, run->mmio.len);
	}
}

int main(int argc, char **argv)
{
	struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2, .rdx = PORT};
	long turns = argc == 2 ? atol(argv[1]) : 0, missed = 0;
	unsigned long long begin;
	struct kvm_run *run;
	unsigned char *ram;
	int kvm, vcpu;

	if (turns < 1) {
		fprintf(stderr, "usage: fault_loop TURNS\n");
		return 2;
	}
	kvm = open_kvm();
	ram = make_ram(RAM_BYTES);
	memcpy(ram + CODE_GPA, code, sizeof(code));
	vcpu = make_vcpu(kvm, make_vm(kvm, ram, RAM_BYTES), 0, &run);
	set_real_mode(vcpu, &regs);

	run_turn(vcpu, run, ram + PAGE_GPA);
	begin = __rdtsc();
	for (long i = 0; i < turns; i++) {
		if (mprotect(ram + PAGE_GPA, PAGE_BYTES, PROT_NONE) < 0)
			die("mprotect");
		missed += run_turn(vcpu, run, ram + PAGE_GPA);
	}
	begin = __rdtsc() - begin;
	if (missed < turns) {
		fprintf(stderr, "the guest missed the page %ld times in %ld turns\n", missed, turns);
		return 2;
	}
	printf("%.1f\n", (double)begin / turns);
	return 0;
}
