/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What instructions access at [RDI], found by carrying them out in front of a page that cannot be accessed.
 *
 * Reads instructions in hexadecimal digits, one a line. Writes for each `digits size written note`: how many bytes of
 * memory it needs, whether it needs to write them, and why nothing can be said, "-" otherwise. The argument is the
 * value of mask register 1; all other registers are 0, but XMM0, whose bits are all set.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { PAGE = 4096, BIGGEST = 4096 };

static const int sizes[] = { 0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 94, 108, 512, BIGGEST };
static unsigned char *code, *memory;
static sigjmp_buf back;
static volatile int signalled, cause;
static uint64_t mask;

static void caught(int number, siginfo_t *info, void *context)
{
	(void)context;
	signalled = number;
	cause = info->si_code;
	siglongjmp(back, 1);
}

static void set_vectors(void)
{
	if (__builtin_cpu_supports("avx512bw"))
		__asm__ volatile("kmovq %0, %%k1" : : "r"(mask) : "k1");
	if (__builtin_cpu_supports("avx2"))
		__asm__ volatile("vzeroupper\n vpcmpeqd %%ymm0, %%ymm0, %%ymm0" : : : "xmm0");
	__asm__ volatile("pxor %%xmm1, %%xmm1\n pxor %%xmm2, %%xmm2\n pxor %%xmm5, %%xmm5\n pxor %%xmm6, %%xmm6"
			 : : : "xmm1", "xmm2", "xmm5", "xmm6");
}

/* RSP may be what the instruction changes: it is kept in R15, and R14 leads back. */
static void carry_out(void *at)
{
	set_vectors();
	__asm__ volatile(
		"mov %%rsp, %%r15\n"
		"lea 1f(%%rip), %%r14\n"
		"mov %[at], %%rdi\n"
		"mov %%rdi, %%rsi\n"
		"mov $5, %%eax\n"
		"xor %%ecx, %%ecx\n"
		"xor %%edx, %%edx\n"
		"xor %%ebx, %%ebx\n"
		"jmp *%[code]\n"
		"1: mov %%r15, %%rsp\n"
		"cld\n"
		"emms\n"
		:
		: [at] "r"(at), [code] "r"(code)
		: "memory", "cc", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
		  "xmm5", "xmm6", "xmm7", "k1", "k2");
}

/* Whether it ended well with `size` bytes in front of the end of what can be accessed. */
static int ends(int size, int protection)
{
	mprotect(memory, 2 * PAGE, PROT_READ | PROT_WRITE);
	memset(memory, 0, 2 * PAGE);
	mprotect(memory, 2 * PAGE, protection);
	signalled = cause = 0;
	if (!sigsetjmp(back, 1))
		carry_out(memory + 2 * PAGE - size);
	return signalled == 0 || signalled == SIGFPE;
}

int main(int count, char **arguments)
{
	static const int signals[] = { SIGSEGV, SIGILL, SIGBUS, SIGFPE, SIGTRAP };
	static unsigned char stack[1 << 16];
	stack_t other = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	char line[256];

	mask = count > 1 ? strtoull(arguments[1], NULL, 0) : 0;
	sigaltstack(&other, NULL);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &action, NULL);
	code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memory = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED || memory == MAP_FAILED)
		return 1;
	while (fgets(line, sizeof(line), stdin)) {
		const char *note = "-";
		int length = 0, size = -1, written;

		for (unsigned byte; sscanf(line + 2 * length, "%2x", &byte) == 1; length++)
			code[length] = byte;
		memcpy(code + length, "\x41\xff\xe6", 3); /* jmp *%r14 */
		line[strcspn(line, "\n")] = 0;
		for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
			if (ends(sizes[i], PROT_READ | PROT_WRITE)) {
				size = sizes[i];
				break;
			}
			if (signalled == SIGILL) {
				note = "unknown";
				break;
			}
			if (cause == SI_KERNEL)
				note = "aligned";
		}
		written = size > 0 && !ends(size, PROT_READ);
		printf("%s %d %d %s\n", line, size, written, note);
		fflush(stdout);
	}
	return 0;
}
