/* SPDX-License-Identifier: Apache-2.0 */
/* File systems and settings: those of any Linux system, those that programs write to, those for results. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"

static void make_directories(const char *path)
{
	char part[PATH_MAX];

	snprintf(part, sizeof(part), "%s", path);
	for (char *slash = part + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = 0;
		mkdir(part, 0755);
		*slash = '/';
	}
	mkdir(part, 0755);
}

static void mount_or_fail(const char *what, const char *where, const char *type, unsigned long flags, const char *data)
{
	if (mount(what, where, type, flags, data))
		fail("cannot mount %s on %s: %s. Is the file system in the kernel's configuration (kernel/config)?",
		     type, where, strerror(errno));
}

void mount_system(void)
{
	mount_or_fail("dev", "/dev", "devtmpfs", MS_NOSUID, NULL);
	kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	mount_or_fail("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
	mount_or_fail("sys", "/sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
	mkdir("/dev/pts", 0755);
	mkdir("/dev/shm", 01777);
	mount_or_fail("pts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666");
	mount_or_fail("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	if (symlink("/proc/self/fd", "/dev/fd") || symlink("/proc/self/fd/0", "/dev/stdin") ||
	    symlink("/proc/self/fd/1", "/dev/stdout") || symlink("/proc/self/fd/2", "/dev/stderr"))
		log_line("cannot make /dev/fd and its like: %s", strerror(errno));
	/* What a kernel under test may not have: absent is fine. */
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

void set_up_kernel(void)
{
	struct ifreq loopback = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int inet = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct rlimit files = { 65536, 65536 }, locked = { RLIM_INFINITY, RLIM_INFINITY }, core = { 0, 0 };

	/* Our own kernels have no TCP/IP; those of others may. */
	if (inet < 0 ? errno != EAFNOSUPPORT : ioctl(inet, SIOCSIFFLAGS, &loopback))
		log_line("no loopback network: %s", strerror(errno));
	if (inet >= 0)
		close(inet);
	if (sethostname("lab", 3))
		log_line("cannot set the host name: %s", strerror(errno));
	/* Tests map guests larger than the lab's memory and touch little of it. */
	if (!write_file("/proc/sys/vm/overcommit_memory", "1"))
		log_line("cannot allow memory overcommit: %s", strerror(errno));
	if (setrlimit(RLIMIT_NOFILE, &files) || setrlimit(RLIMIT_MEMLOCK, &locked) || setrlimit(RLIMIT_CORE, &core))
		log_line("cannot set resource limits: %s", strerror(errno));
}

/* Fresh tmpfs over what programs write to; directories of the host below it that the job needs stay visible. */
void mount_scratch(const struct job *job)
{
	static const char *const scratch[] = { "/tmp", "/run", "/var/tmp" };
	int *kept = calloc(job->keep_count + 1, sizeof(*kept));

	if (!kept)
		fail("no memory for %u directories", job->keep_count);
	for (uint32_t i = 0; i < job->keep_count; i++) {
		kept[i] = open(job->keep[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (kept[i] < 0)
			fail("cannot open %s: %s", job->keep[i], strerror(errno));
	}
	for (size_t i = 0; i < sizeof(scratch) / sizeof(*scratch); i++)
		mount_or_fail("scratch", scratch[i], "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=75%");
	for (uint32_t i = 0; i < job->keep_count; i++) {
		char source[64];

		snprintf(source, sizeof(source), "/proc/self/fd/%d", kept[i]);
		make_directories(job->keep[i]);
		if (mount(source, job->keep[i], NULL, MS_BIND, NULL))
			fail("cannot show %s: %s", job->keep[i], strerror(errno));
		close(kept[i]);
	}
	free(kept);
	make_directories("/run/lab/home");
}

void mount_results(const struct job *job)
{
	if (!(job->flags & JOB_RESULTS))
		return;
	make_directories(job->results);
	/* cache=mmap: nothing is held back, and shared mappings work. */
	if (mount("results", job->results, "9p", MS_NOSUID | MS_NODEV,
		  "trans=virtio,version=9p2000.L,msize=512000,cache=mmap"))
		fail("cannot mount the results directory on %s: %s", job->results, strerror(errno));
}

void finish_results(const struct job *job)
{
	kill(-1, SIGKILL);
	sync();
	if (!(job->flags & JOB_RESULTS))
		return;
	if (chdir("/") || umount2(job->results, 0))
		/* A process that is still dying holds it: its data has been synced above. */
		umount2(job->results, MNT_DETACH);
}
