/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least a VMM can do: vCPUs that write a port for ever, and a KVM_RUN loop that counts the exits.
 *
 * usage: exit_loop VCPUS EXITS; prints the exits per second of all vCPUs together.
 * Guest code (real mode, at 0x7c00): 1: out %al, %dx; jmp 1b
 */
#include <pthread.h>
#include <time.h>

#include "setup.h"

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

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void run_once(struct vcpu *vcpu)
{
	call(vcpu->fd, KVM_RUN, NULL, "KVM_RUN");
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
	unsigned char *ram;
	int kvm, vm;

	if (count < 1 || count > MAX_VCPUS) {
		fprintf(stderr, "usage: exit_loop VCPUS EXITS\n");
		return 2;
	}
	kvm = open_kvm();
	ram = make_ram(RAM_BYTES);
	memcpy(ram + CODE_GPA, code, sizeof(code));
	vm = make_vm(kvm, ram, RAM_BYTES);
	call(vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");

	pthread_barrier_init(&start, NULL, count);
	for (int i = 0; i < count; i++) {
		struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2, .rdx = FIRST_PORT + i};

		vcpus[i].exits = atol(argv[2]);
		vcpus[i].fd = make_vcpu(kvm, vm, i, &vcpus[i].run);
		set_real_mode(vcpus[i].fd, &regs);
		set_runnable(vcpus[i].fd);
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
