/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints the frequency of this processor's time stamp counter in kHz. Runs on the host, whose TSC is the lab's.
 *
 * A TSC value is taken between two readings of the clock. Of many tries at either end the narrowest counts, so that
 * being preempted does no harm; 50 ms between two values known to 1 us give 0.004 %.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

#define TRIES 200
#define INTERVAL_NS 50000000

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

struct moment {
	int64_t ns;
	uint64_t tsc;
};

static struct moment take_moment(void)
{
	struct moment best = { 0, 0 };
	int64_t narrowest = INT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		int64_t before = now_ns();
		uint64_t tsc = __rdtsc();
		int64_t after = now_ns();

		if (after - before < narrowest) {
			narrowest = after - before;
			best = (struct moment){ before + narrowest / 2, tsc };
		}
	}
	return best;
}

int main(void)
{
	struct timespec interval = { .tv_nsec = INTERVAL_NS };
	struct moment begin = take_moment(), end;

	nanosleep(&interval, NULL);
	end = take_moment();
	printf("%llu\n", (unsigned long long)((end.tsc - begin.tsc) * 1000000ULL / (uint64_t)(end.ns - begin.ns)));
	return 0;
}
