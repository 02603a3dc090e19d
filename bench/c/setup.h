/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs here set up alike: KVM, guest memory, VMs, and vCPUs in real or in long mode. Where KVM refuses,
 * the program ends with status 2 and says at what.
 */
#pragma once

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define MAX_LEAVES 256
#define CR0_PE (1 << 0)
#define CR0_PG (1u << 31)
#define CR4_PAE (1 << 5)
#define CR4_OSFXSR (1 << 9)
#define EFER_LME (1 << 8)
#define EFER_LMA (1 << 10)

static inline void die(const char *what)
{
	perror(what);
	exit(2);
}

static inline void call(int fd, unsigned long request, const void *argument, const char *name)
{
	if (ioctl(fd, request, argument) < 0)
		die(name);
}

static inline int open_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		die("/dev/kvm");
	return kvm;
}

static inline unsigned char *make_ram(size_t bytes)
{
	void *ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (ram == MAP_FAILED)
		die("guest memory");
	return ram;
}

/* A VM with `bytes` of RAM at 0, and no interrupt controllers yet. */
static inline int make_vm(int kvm, const unsigned char *ram, size_t bytes)
{
	struct kvm_userspace_memory_region slot = {.memory_size = bytes, .userspace_addr = (uintptr_t)ram};
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0)
		die("KVM_CREATE_VM");
	call(vm, KVM_SET_TSS_ADDR, (void *)0xfeffd000UL, "KVM_SET_TSS_ADDR");
	call(vm, KVM_SET_USER_MEMORY_REGION, &slot, "KVM_SET_USER_MEMORY_REGION");
	return vm;
}

/* The vCPU's file descriptor, and its kvm_run in `*run`. */
static inline int make_vcpu(int kvm, int vm, int id, struct kvm_run **run)
{
	int bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, (long)id);

	if (bytes < 0 || vcpu < 0)
		die("KVM_CREATE_VCPU");
	*run = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (*run == MAP_FAILED)
		die("mapping kvm_run");
	return vcpu;
}

/* Behind a local APIC in the kernel only the first vCPU runs at once. */
static inline void set_runnable(int vcpu)
{
	struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};

	call(vcpu, KVM_SET_MP_STATE, &runnable, "KVM_SET_MP_STATE");
}

/* 16-bit code at `regs->rip`. */
static inline void set_real_mode(int vcpu, const struct kvm_regs *regs)
{
	struct kvm_sregs sregs;

	call(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	call(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	call(vcpu, KVM_SET_REGS, regs, "KVM_SET_REGS");
}

/* Page tables in three pages from `pml4` on, for the first 2 MiB. */
static inline void fill_page_tables(unsigned char *ram, uint64_t pml4)
{
	uint64_t *tables = (uint64_t *)(ram + pml4);

	tables[0] = (pml4 + 0x1000) | 3;
	tables[512] = (pml4 + 0x2000) | 3;
	tables[1024] = 0 | 0x83; /* 2 MiB at 0 */
}

/* What KVM can give a guest. A vCPU without CPUID has no long mode where the processor's own is used. */
static inline struct kvm_cpuid2 *supported_cpuid(int kvm)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + MAX_LEAVES * sizeof(cpuid->entries[0]));

	if (!cpuid)
		die("CPUID");
	cpuid->nent = MAX_LEAVES;
	call(kvm, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID");
	return cpuid;
}

/* 64-bit code in ring 0, with SSE and the page tables at `pml4`. The registers as they are then. */
static inline struct kvm_sregs set_long_mode(int vcpu, const struct kvm_cpuid2 *cpuid, uint64_t pml4)
{
	struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_sregs sregs;

	call(vcpu, KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2");
	call(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = pml4;
	sregs.cr4 = CR4_PAE | CR4_OSFXSR;
	sregs.cr0 = CR0_PG | CR0_PE;
	sregs.efer = EFER_LME | EFER_LMA;
	call(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	return sregs;
}
