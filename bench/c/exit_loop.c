/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least a VMM can do: vCPUs that write a port for ever, and a KVM_RUN loop that counts the exits.
 *
 * usage: exit_loop VCPUS EXITS; prints the exits per second of all vCPUs together.
 * Guest code (real mode, at 0x7c00): 1: out %al, %dx; jmp 1b
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#define CODE_GPA 0x7c00
#define RAM_BYTES 0x100000
#define FIRST_PORT 0x5000
#define MAX_VCPUS 64

static const unsigned char code[] = {0xee, 0xeb, 0xfd};

struct vcpu {
	int fd;
	struct kvm_run *run;
	long exits;
	double per_second;
};

static pthread_barrier_t start;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void run_once(struct vcpu *vcpu)
{
	if (ioctl(vcpu->fd, KVM_RUN, 0) < 0)
		die("KVM_RUN");
	if (vcpu->run->exit_reason != KVM_EXIT_IO) {
		fprintf(stderr, "exit reason %u, expected port I/O\n", vcpu->run->exit_reason);
		exit(2);
	}
}

static void *loop(void *argument)
{
	struct vcpu *vcpu = argument;
	double begin;

	run_once(vcpu);
	pthread_barrier_wait(&start);
	begin = now();
	for (long i = 0; i < vcpu->exits; i++)
		run_once(vcpu);
	vcpu->per_second = vcpu->exits / (now() - begin);
	return NULL;
}

int main(int argc, char **argv)
{
	int count = argc == 3 ? atoi(argv[1]) : 0;
	struct vcpu vcpus[MAX_VCPUS] = {0};
	pthread_t threads[MAX_VCPUS];
	double total = 0;
	int kvm, vm, mmap_size;
	void *ram;

	if (count < 1 || count > MAX_VCPUS) {
		fprintf(stderr, "usage: exit_loop VCPUS EXITS\n");
		return 2;
	}
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		die("/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	mmap_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (vm < 0 || mmap_size < 0 || ram == MAP_FAILED)
		die("creating the VM");
	struct kvm_userspace_memory_region slot = {
		.memory_size = RAM_BYTES, .userspace_addr = (unsigned long)ram,
	};
	if (ioctl(vm, KVM_SET_TSS_ADDR, 0xfeffd000UL) < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 ||
	    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		die("setting up the VM");
	memcpy((char *)ram + CODE_GPA, code, sizeof(code));

	pthread_barrier_init(&start, NULL, count);
	for (int i = 0; i < count; i++) {
		struct kvm_sregs sregs;
		struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2, .rdx = FIRST_PORT + i};
		struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};

		vcpus[i].exits = atol(argv[2]);
		vcpus[i].fd = ioctl(vm, KVM_CREATE_VCPU, i);
		if (vcpus[i].fd < 0)
			die("KVM_CREATE_VCPU");
		vcpus[i].run = mmap(NULL, mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpus[i].fd, 0);
		if (vcpus[i].run == MAP_FAILED || ioctl(vcpus[i].fd, KVM_GET_SREGS, &sregs) < 0)
			die("vCPU");
		sregs.cs.base = sregs.cs.selector = 0;
		if (ioctl(vcpus[i].fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpus[i].fd, KVM_SET_REGS, &regs) < 0 ||
		    ioctl(vcpus[i].fd, KVM_SET_MP_STATE, &runnable) < 0)
			die("vCPU state");
	}
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, loop, &vcpus[i]))
			die("pthread_create");
	for (int i = 0; i < count; i++) {
		pthread_join(threads[i], NULL);
		total += vcpus[i].per_second;
	}
	printf("%.1f\n", total);
	return 0;
}
