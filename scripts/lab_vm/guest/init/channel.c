/* SPDX-License-Identifier: Apache-2.0 */
/* The channel to the host, and the job that comes by it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

int kmsg = -1;
int port = -1;

void power_off(void)
{
	sync();
	/* The lab's QEMU ends when the machine resets, so that no ACPI is needed. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

/* A line in the kernel's log; the host looks there for lines that begin with "lab:". */
void log_line(const char *format, ...)
{
	char line[512] = "<2>lab: ";
	size_t prefix = strlen(line);
	va_list args;

	va_start(args, format);
	vsnprintf(line + prefix, sizeof(line) - prefix - 1, format, args);
	va_end(args);
	strcat(line, "\n");
	if (write(kmsg >= 0 ? kmsg : 2, line, strlen(line)) < 0)
		return;
}

void write_all(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size) {
		ssize_t written = write(fd, at, size);

		if (written < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			log_line("the host closed the channel: %s", strerror(errno));
			power_off();
		}
		at += written;
		size -= written;
	}
}

void send_frame(uint8_t type, const void *payload, uint32_t length)
{
	static char frame[HEADER_BYTES + CHUNK_BYTES];

	memset(frame, 0, HEADER_BYTES);
	frame[0] = type;
	memcpy(frame + 4, &length, sizeof(length));
	memcpy(frame + HEADER_BYTES, payload, length);
	write_all(port, frame, HEADER_BYTES + length);
}

/* Tell the host why the job cannot run, then stop. */
void fail(const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	log_line("%s", text);
	if (port >= 0)
		send_frame(FRAME_FAILED, text, strlen(text));
	sleep(2); /* the host ends the machine as soon as it has read this */
	power_off();
}

static bool name_is_ours(const char *port_directory)
{
	char path[PATH_MAX], name[64] = "";
	int fd;

	snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", port_directory);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, name, sizeof(name) - 1) < 0)
		name[0] = 0;
	close(fd);
	return !strncmp(name, PORT_NAME, strlen(PORT_NAME));
}

static int open_named_port(void)
{
	DIR *ports = opendir("/sys/class/virtio-ports");
	struct dirent *entry;
	int fd = -1;

	while (ports && fd < 0 && (entry = readdir(ports))) {
		char path[PATH_MAX];

		if (entry->d_name[0] == '.' || !name_is_ours(entry->d_name))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
	}
	if (ports)
		closedir(ports);
	return fd;
}

/* The port appears, and its host end connects, some time after the driver has started. */
void open_port(void)
{
	for (int wait_ms = 0; wait_ms < 10000; wait_ms += 10) {
		struct pollfd state = { .events = POLLIN };

		if (port < 0)
			port = open_named_port();
		state.fd = port;
		if (port >= 0 && poll(&state, 1, 0) >= 0 && !(state.revents & POLLHUP))
			return;
		usleep(10000);
	}
	port = -1;
	fail("no virtio-serial port named " PORT_NAME " after 10 s: the kernel needs CONFIG_VIRTIO_PCI=y and "
	     "CONFIG_VIRTIO_CONSOLE=y");
}

/* Exactly `size` bytes from the host; the channel is the only thing to wait for while there is no job. */
void read_all(void *data, size_t size)
{
	char *at = data;

	while (size) {
		ssize_t got = read(port, at, size);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			log_line("the host closed the channel before it sent a job");
			power_off();
		}
		at += got;
		size -= got;
	}
}

static char *next_string(char **at, char *end)
{
	char *text = *at, *stop = memchr(text, 0, end - text);

	if (!stop)
		fail("the job is cut short");
	*at = stop + 1;
	return text;
}

static char **next_strings(char **at, char *end, uint32_t count)
{
	char **strings;

	if (count > JOB_MAX_BYTES)
		fail("the job counts %u strings", count);
	strings = calloc(count + 1, sizeof(*strings));
	if (!strings)
		fail("no memory for the job");
	for (uint32_t i = 0; i < count; i++)
		strings[i] = next_string(at, end);
	return strings;
}

struct job receive_job(void)
{
	unsigned char header[HEADER_BYTES];
	uint32_t length;
	struct job job;
	char *payload, *at, *end;

	read_all(header, sizeof(header));
	memcpy(&length, header + 4, sizeof(length));
	if (header[0] != FRAME_JOB || length < 16 || length > JOB_MAX_BYTES)
		fail("expected a job of 16 to %u bytes, got frame 0x%02x of %u bytes", JOB_MAX_BYTES, header[0], length);
	payload = malloc(length);
	if (!payload)
		fail("no memory for a job of %u bytes", length);
	read_all(payload, length);
	memcpy(&job, payload, 16);
	at = payload + 16;
	end = payload + length;
	job.directory = next_string(&at, end);
	job.results = next_string(&at, end);
	job.keep = next_strings(&at, end, job.keep_count);
	job.arguments = next_strings(&at, end, job.argument_count);
	job.environment = next_strings(&at, end, job.environment_count);
	return job;
}
