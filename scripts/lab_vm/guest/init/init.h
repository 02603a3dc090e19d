/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the lab's process 1 share. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	/* guest to host */
	FRAME_READY = 'R',
	FRAME_STDOUT = 'O',
	FRAME_STDERR = 'E',
	FRAME_ALIVE = 'A',
	FRAME_EXIT = 'X',
	FRAME_FAILED = 'F',
	/* host to guest */
	FRAME_JOB = 'J',
	FRAME_STDIN = 'I',
	FRAME_SIGNAL = 'S',
	FRAME_WINDOW = 'W',
};

enum { JOB_TERMINAL = 1 << 0, JOB_RESULTS = 1 << 1 };

#define HEADER_BYTES 8
#define CHUNK_BYTES 32768	   /* the virtio port takes at most 32 KiB in one write */
#define JOB_MAX_BYTES (1U << 20)   /* arguments and environment of one command */
#define INPUT_MAX_BYTES (64U << 10)
#define ALIVE_PERIOD_MS 1000
#define PORT_NAME "lab.channel"

struct job {
	uint32_t flags;
	uint32_t keep_count, argument_count, environment_count;
	char *directory, *results;
	char **keep, **arguments, **environment;
};

extern int kmsg; /* the kernel's log */
extern int port; /* the channel to the host */

void power_off(void) __attribute__((noreturn));
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Tell the host why the job cannot run, then stop. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

void open_port(void);
void write_all(int fd, const void *data, size_t size);
void send_frame(uint8_t type, const void *payload, uint32_t length);
struct job receive_job(void);

void mount_system(void);
void set_up_kernel(void);
void mount_scratch(const struct job *job);
void mount_results(const struct job *job);
void finish_results(const struct job *job);
