/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a kernel flush the TLB of another processor: a thread runs on processor 1, and one on processor 0 takes pages away
 * from their common memory, each time after the other has been seen to run.
 *
 * usage: remote_flush TIMES; prints the number of pages taken away.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096

static atomic_ulong turns;
static atomic_int ended;

static void run_on(int processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		perror("sched_setaffinity");
		exit(2);
	}
}

static void *spin(void *unused)
{
	run_on(1);
	while (!atomic_load(&ended))
		atomic_fetch_add(&turns, 1);
	return unused;
}

int main(int argc, char **argv)
{
	int times = argc == 2 ? atoi(argv[1]) : 0;
	pthread_t thread;

	if (times < 1) {
		fprintf(stderr, "usage: remote_flush TIMES\n");
		return 2;
	}
	run_on(0);
	if (pthread_create(&thread, NULL, spin, NULL)) {
		perror("pthread_create");
		return 2;
	}
	for (int i = 0; i < times; i++) {
		char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		unsigned long before = atomic_load(&turns);

		if (page == MAP_FAILED) {
			perror("mmap");
			return 2;
		}
		*page = 1; /* it has to be there to be flushed */
		while (atomic_load(&turns) == before)
			sched_yield();
		if (munmap(page, PAGE)) {
			perror("munmap");
			return 2;
		}
	}
	atomic_store(&ended, 1);
	pthread_join(thread, NULL);
	printf("taken away %d\n", times);
	return 0;
}
