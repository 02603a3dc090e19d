/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proves that /dev/kvm works and measures it: kvm_probe [EXITS]
 *
 * A real-mode guest writes to a port until told otherwise, then halts. Prints one JSON object. Status 1 and one line
 * on standard error when any step fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef KVM_CAP_MEMORY_ATTRIBUTES /* newer than the host's headers */
#define KVM_CAP_MEMORY_ATTRIBUTES 233
#endif

#define CODE_GPA 0x1000
#define PORT 0x42

/* again: out %al, $PORT; test %bl, %bl; jz again; hlt */
static const unsigned char guest_code[] = { 0xe6, PORT, 0x84, 0xdb, 0x74, 0xfa, 0xf4 };

static long check(long value, const char *what)
{
	if (value < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
		exit(1);
	}
	return value;
}

static void expect_exit(int vcpu, struct kvm_run *run, unsigned int reason)
{
	check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
	if (run->exit_reason != reason) {
		fprintf(stderr, "expected exit reason %u, got %u\n", reason, run->exit_reason);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	long exits = argc > 1 ? atol(argv[1]) : 1000;
	int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int version = check(ioctl(kvm, KVM_GET_API_VERSION, 0), "KVM_GET_API_VERSION");
	int vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	int vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	size_t run_bytes = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
	void *memory = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_run *run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = CODE_GPA,
		.memory_size = 0x1000,
		.userspace_addr = (unsigned long)memory,
	};
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2 };
	struct kvm_sregs sregs;
	struct timespec begin, end;
	double seconds;

	if (memory == MAP_FAILED || run == MAP_FAILED)
		check(-1, "mmap");
	memcpy(memory, guest_code, sizeof(guest_code));
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
	check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");

	expect_exit(vcpu, run, KVM_EXIT_IO);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (long i = 0; i < exits; i++)
		expect_exit(vcpu, run, KVM_EXIT_IO);
	clock_gettime(CLOCK_MONOTONIC, &end);
	seconds = end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9;

	/* The pending OUT completes on the next entry; BL ends the loop behind it. */
	check(ioctl(vcpu, KVM_GET_REGS, &regs), "KVM_GET_REGS");
	regs.rbx = 1;
	check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	expect_exit(vcpu, run, KVM_EXIT_HLT);

	printf("{\"api_version\": %d, \"exits\": %ld, \"exits_per_second\": %.0f, \"hyperv\": %d, "
	       "\"memory_attributes\": %d}\n",
	       version, exits, exits / seconds, ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_HYPERV),
	       ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES));
	return 0;
}
