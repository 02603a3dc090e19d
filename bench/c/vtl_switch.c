/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least a VMM can do for VTL calls and returns: two VMs over the same memory, a vCPU of a VP in each, and one thread
 * for each VP that runs them in turns. What VTLs share moves from one to the other as in vmm/backend/vsm/shared_state.py,
 * with the same ioctls:
 *
 *   general registers, CR2          kvm_run (KVM_CAP_SYNC_REGS)
 *   x87, SSE, AVX                   KVM_GET_XSAVE of the VTL that stops, KVM_SET_XSAVE where the other's differs
 *   DR0-DR3                         KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS likewise
 *   what waits for VTL1             at its return: KVM_GET_LAPIC, and the events that came with the exit
 *
 * usage: vtl_switch VPS CALLS; prints what firmware/guests/vtlbench.c prints: cycles of the TSC.
 *
 * Guest code (64-bit, ring 0) is that guest's. VTL0:                    VTL1:
 *   1: xor %ecx, %ecx; call *%rsi; dec %rbx; jnz 1b; out %al, $0xf4     1: xor %ecx, %ecx; call *%rdi; test %rdx, %rdx
 *                                                                       jnz 1b
 * %rsi and %rdi are the VTL call and return entries of a hypercall page: mov %rcx, %rax; mov $0x11, %ecx; out %al, $0xec; ret
 */
#include <pthread.h>
#include <x86intrin.h>

#include "setup.h"

#define RAM_BYTES 0x200000
#define PML4_GPA 0x1000
#define CODE_GPA 0x10000
#define CODE_OF_VTL1 0x100
#define PAGE_GPA 0x11000
#define CALL_ENTRY (PAGE_GPA + 0x20)
#define RETURN_ENTRY (PAGE_GPA + 0x40)
#define ASSIST_GPA 0x12000
#define STACKS_GPA 0x20000
#define STACK_BYTES 0x1000
#define HYPERCALL_PORT 0xec
#define END_PORT 0xf4
#define VTL_CALL 0x11
#define VTL_RETURN 0x12
#define MAX_VPS 64
#define VTLS 2
#define SYNCED (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS)

static const unsigned char vtl0_code[] = {0x31, 0xc9, 0xff, 0xd6, 0x48, 0xff, 0xcb, 0x75, 0xf7, 0xe6, END_PORT};
static const unsigned char vtl1_code[] = {0x31, 0xc9, 0xff, 0xd7, 0x48, 0x85, 0xd2, 0x75, 0xf7};
static const unsigned char page_entry[] = {0x48, 0x89, 0xc8, 0xb9, 0, 0, 0, 0, 0xe6, HYPERCALL_PORT, 0xc3};

struct vtl {
	int fd;
	struct kvm_run *run;
	/* As it was when the vCPU stopped last, or was written to it since. */
	struct kvm_xsave xsave;
	__u64 db[4];
};

struct vp {
	struct vtl vtls[VTLS];
	long calls;
	unsigned long long first, last;
	long lapic_requests;
};

static unsigned char *ram;
static pthread_barrier_t start;

/* Everything but RSP, RIP and RFLAGS. */
static void carry_general(struct kvm_regs *to, const struct kvm_regs *from)
{
	__u64 rsp = to->rsp, rip = to->rip, rflags = to->rflags;

	*to = *from;
	to->rsp = rsp, to->rip = rip, to->rflags = rflags;
}

static void carry(struct vtl *source, struct vtl *target)
{
	struct kvm_sync_regs *old = &source->run->s.regs, *new = &target->run->s.regs;
	struct kvm_debugregs debug, own;

	carry_general(&new->regs, &old->regs);
	target->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	if (new->sregs.cr2 != old->sregs.cr2) {
		new->sregs.cr2 = old->sregs.cr2;
		target->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
	}
	call(source->fd, KVM_GET_XSAVE, &source->xsave, "KVM_GET_XSAVE");
	if (memcmp(&target->xsave, &source->xsave, sizeof(target->xsave))) {
		target->xsave = source->xsave;
		call(target->fd, KVM_SET_XSAVE, &target->xsave, "KVM_SET_XSAVE");
	}
	call(source->fd, KVM_GET_DEBUGREGS, &debug, "KVM_GET_DEBUGREGS");
	memcpy(source->db, debug.db, sizeof(source->db));
	if (memcmp(target->db, source->db, sizeof(target->db))) {
		call(target->fd, KVM_GET_DEBUGREGS, &own, "KVM_GET_DEBUGREGS");
		memcpy(own.db, debug.db, sizeof(own.db));
		call(target->fd, KVM_SET_DEBUGREGS, &own, "KVM_SET_DEBUGREGS");
		memcpy(target->db, source->db, sizeof(target->db));
	}
}

/* Whether the local APIC of VTL1, which has just stopped, asks for the VP. */
static int wants(struct vtl *vtl)
{
	struct kvm_lapic_state lapic;
	const struct kvm_vcpu_events *events = &vtl->run->s.regs.events;
	int requested = events->nmi.pending || events->nmi.injected || events->interrupt.injected;

	call(vtl->fd, KVM_GET_LAPIC, &lapic, "KVM_GET_LAPIC");
	for (int word = 0; word < 8; word++)
		requested |= *(const int *)(lapic.regs + 0x200 + 16 * word) != 0;
	return requested;
}

static void *loop(void *argument)
{
	struct vp *vp = argument;
	int active = 0;
	long returns = 0;

	for (;;) {
		struct kvm_run *run = vp->vtls[active].run;
		struct kvm_regs *regs = &run->s.regs.regs;

		call(vp->vtls[active].fd, KVM_RUN, NULL, "KVM_RUN");
		if (run->exit_reason != KVM_EXIT_IO) {
			fprintf(stderr, "exit reason %u at %llx, expected port I/O\n", run->exit_reason, regs->rip);
			exit(2);
		}
		if (run->io.port == END_PORT)
			break;
		if (run->io.port == HYPERCALL_PORT && regs->rcx == VTL_CALL && !active) {
			carry(&vp->vtls[0], &vp->vtls[1]);
			active = 1;
		} else if (run->io.port == HYPERCALL_PORT && regs->rcx == VTL_RETURN && active) {
			const __u64 *assist = (const __u64 *)(ram + ASSIST_GPA);

			carry(&vp->vtls[1], &vp->vtls[0]);
			vp->vtls[0].run->s.regs.regs.rax = assist[0];
			vp->vtls[0].run->s.regs.regs.rcx = assist[1];
			active = 0;
			vp->lapic_requests += wants(&vp->vtls[1]);
			if (!returns++) {
				pthread_barrier_wait(&start);
				vp->first = __rdtsc();
			}
		} else {
			fprintf(stderr, "port %#x, RCX %llx of VTL%d\n", run->io.port, regs->rcx, active);
			exit(2);
		}
	}
	vp->last = __rdtsc();
	return NULL;
}

static void set_up_vcpu(struct vtl *vtl, int kvm, const struct kvm_cpuid2 *cpuid, int vm, int vtl_number, int vp,
			long calls)
{
	struct kvm_debugregs debug;
	struct kvm_sregs sregs;
	struct kvm_regs regs = {
		.rip = CODE_GPA + vtl_number * CODE_OF_VTL1,
		.rflags = 2,
		.rsp = STACKS_GPA + (VTLS * vp + vtl_number + 1) * STACK_BYTES,
		.rbx = calls,
		.rsi = CALL_ENTRY,
		.rdi = RETURN_ENTRY,
		.rdx = 1,
	};

	vtl->fd = make_vcpu(kvm, vm, vp, &vtl->run);
	sregs = set_long_mode(vtl->fd, cpuid, PML4_GPA);
	call(vtl->fd, KVM_SET_REGS, &regs, "KVM_SET_REGS");
	set_runnable(vtl->fd);
	call(vtl->fd, KVM_GET_XSAVE, &vtl->xsave, "KVM_GET_XSAVE");
	call(vtl->fd, KVM_GET_DEBUGREGS, &debug, "KVM_GET_DEBUGREGS");
	memcpy(vtl->db, debug.db, sizeof(vtl->db));
	vtl->run->kvm_valid_regs = SYNCED | (vtl_number ? KVM_SYNC_X86_EVENTS : 0);
	/* What the other VTL's exit is compared with must be there before the first one. */
	vtl->run->s.regs.regs = regs;
	vtl->run->s.regs.sregs = sregs;
}

static int make_vm_of(int kvm, int vtl)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	int vm = make_vm(kvm, ram, RAM_BYTES);

	if (vtl)
		call(vm, KVM_ENABLE_CAP, &split, "KVM_CAP_SPLIT_IRQCHIP");
	else
		call(vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");
	return vm;
}

static void fill_ram(void)
{
	fill_page_tables(ram, PML4_GPA);
	memcpy(ram + CODE_GPA, vtl0_code, sizeof(vtl0_code));
	memcpy(ram + CODE_GPA + CODE_OF_VTL1, vtl1_code, sizeof(vtl1_code));
	memcpy(ram + CALL_ENTRY, page_entry, sizeof(page_entry));
	ram[CALL_ENTRY + 4] = VTL_CALL;
	memcpy(ram + RETURN_ENTRY, page_entry, sizeof(page_entry));
	ram[RETURN_ENTRY + 4] = VTL_RETURN;
}

int main(int argc, char **argv)
{
	int count = argc == 3 ? atoi(argv[1]) : 0, kvm, vms[VTLS];
	long calls = argc == 3 ? atol(argv[2]) : 0;
	unsigned long long first = ~0ull, last = 0;
	static struct vp vps[MAX_VPS];
	struct kvm_cpuid2 *cpuid;
	pthread_t threads[MAX_VPS];

	if (count < 1 || count > MAX_VPS || calls < 1) {
		fprintf(stderr, "usage: vtl_switch VPS CALLS\n");
		return 2;
	}
	kvm = open_kvm();
	ram = make_ram(RAM_BYTES);
	fill_ram();
	cpuid = supported_cpuid(kvm);
	for (int vtl = 0; vtl < VTLS; vtl++)
		vms[vtl] = make_vm_of(kvm, vtl);
	for (int i = 0; i < count; i++)
		for (int vtl = 0; vtl < VTLS; vtl++)
			set_up_vcpu(&vps[i].vtls[vtl], kvm, cpuid, vms[vtl], vtl, i, calls + 1);
	pthread_barrier_init(&start, NULL, count);
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, loop, &vps[i]))
			die("pthread_create");
	for (int i = 0; i < count; i++) {
		pthread_join(threads[i], NULL);
		first = vps[i].first < first ? vps[i].first : first;
		last = vps[i].last > last ? vps[i].last : last;
		printf("round-trip of VP %d: %llu cycles\n", i, (vps[i].last - vps[i].first) / calls);
	}
	printf("all: %llu cycles for %ld round trips\n", last - first, calls * count);
	return 0;
}
