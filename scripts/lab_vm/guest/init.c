/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Process 1 of the lab.
 *
 * The kernel has mounted the host's root file system read-only over 9p. This program mounts what a Linux system
 * needs, opens the one virtio-serial port to the host, takes one job from it, runs it and sends back everything
 * it writes, then its wait status. The console carries nothing but the kernel's log and this program's complaints.
 *
 * Frames, in both directions: u8 type, 3 zero bytes, u32 payload length (little endian), payload.
 * scripts/lab_vm/channel.py is the other end and documents the payloads.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init/init.h"

struct command {
	pid_t pid;
	int in, out, err;  /* -1: closed. A command on a terminal has one descriptor for all. */
	bool terminal;
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int open_terminal(int *master)
{
	char name[64];
	int number, unlock = 0, slave;

	*master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*master < 0 || ioctl(*master, TIOCSPTLCK, &unlock) || ioctl(*master, TIOCGPTN, &number))
		fail("cannot make a terminal: %s", strerror(errno));
	snprintf(name, sizeof(name), "/dev/pts/%d", number);
	slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		fail("cannot open %s: %s", name, strerror(errno));
	return slave;
}

/*
 * The command gets all processors but the first. QEMU (7.2 and 10.0) has every processor that executes FXRSTOR change a
 * flag of processor 0 (cpu_clear_ignne) without a lock, in the word in which processor 0 notes whether it runs a guest.
 * So that one sometimes takes its guest for itself, or stores its own registers as the guest's, and must not run any.
 */
static void leave_first_processor(void)
{
	long count = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;

	CPU_ZERO(&set);
	for (long cpu = 1; cpu < count; cpu++)
		CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		dprintf(2, "lab: cannot leave processor 0 of %ld: %s\n", count, strerror(errno));
		_exit(126);
	}
}

static void become_command(const struct job *job, bool terminal, int in, int out, int err)
{
	sigset_t none;

	setsid();
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		_exit(125);
	if (terminal)
		ioctl(0, TIOCSCTTY, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	leave_first_processor();
	if (chdir(job->directory)) {
		dprintf(2, "lab: cannot enter %s: %s\n", job->directory, strerror(errno));
		_exit(126);
	}
	environ = job->environment;
	execvp(job->arguments[0], job->arguments);
	dprintf(2, "lab: cannot run %s: %s\n", job->arguments[0], strerror(errno));
	/* The shells' statuses: not found, found but not runnable. */
	_exit(errno == ENOENT ? 127 : 126);
}

static struct command start_command(const struct job *job)
{
	struct command command = { .in = -1, .out = -1, .err = -1, .terminal = job->flags & JOB_TERMINAL };
	int in, out[2], err[2];

	if (command.terminal) {
		in = open_terminal(&command.out);
		out[1] = err[1] = in;
		command.in = command.out;
	} else {
		in = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (in < 0 || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
			fail("cannot make the command's pipes: %s", strerror(errno));
		command.out = out[0];
		command.err = err[0];
	}
	command.pid = fork();
	if (command.pid < 0)
		fail("cannot start a process: %s", strerror(errno));
	if (!command.pid)
		become_command(job, command.terminal, in, out[1], err[1]);
	close(in);
	if (!command.terminal) {
		close(out[1]);
		close(err[1]);
	}
	fcntl(command.out, F_SETFL, O_NONBLOCK);
	if (command.err >= 0)
		fcntl(command.err, F_SETFL, O_NONBLOCK);
	return command;
}

/* Forward what is there now. False when the other end is closed. */
static bool forward(int fd, uint8_t type)
{
	static char data[CHUNK_BYTES - HEADER_BYTES];
	ssize_t got;

	while ((got = read(fd, data, sizeof(data))) > 0)
		send_frame(type, data, got);
	return got < 0 && (errno == EAGAIN || errno == EINTR);
}

/* Bytes from the host that do not make a whole frame yet, and input the command has not taken yet. */
static unsigned char received[HEADER_BYTES + CHUNK_BYTES];
static size_t received_bytes;
static char input[INPUT_MAX_BYTES];
static size_t input_bytes;

static void give_input(struct command *command)
{
	while (command->in >= 0 && input_bytes) {
		ssize_t written = write(command->in, input, input_bytes);

		if (written < 0)
			return;
		input_bytes -= written;
		memmove(input, input + written, input_bytes);
	}
}

static void obey(struct command *command, uint8_t type, const unsigned char *payload, uint32_t length)
{
	uint32_t number;
	struct winsize window = { 0 };

	switch (type) {
	case FRAME_SIGNAL:
		if (length != sizeof(number))
			fail("a signal frame has 4 bytes, not %u", length);
		memcpy(&number, payload, sizeof(number));
		kill(-command->pid, number);
		break;
	case FRAME_WINDOW:
		if (length != 4)
			fail("a window frame has 4 bytes, not %u", length);
		memcpy(&window.ws_row, payload, 2);
		memcpy(&window.ws_col, payload + 2, 2);
		if (command->terminal && command->out >= 0)
			ioctl(command->out, TIOCSWINSZ, &window);
		break;
	case FRAME_STDIN:
		if (length > sizeof(input) - input_bytes)
			fail("%u bytes of input, room for %zu", length, sizeof(input) - input_bytes);
		memcpy(input + input_bytes, payload, length);
		input_bytes += length;
		give_input(command);
		break;
	default:
		fail("unknown frame 0x%02x from the host", type);
	}
}

static void receive(struct command *command)
{
	ssize_t got = read(port, received + received_bytes, sizeof(received) - received_bytes);
	uint32_t length;

	if (got < 0 && errno == EINTR)
		return;
	if (got <= 0) {
		log_line("the host closed the channel");
		power_off();
	}
	received_bytes += got;
	while (received_bytes >= HEADER_BYTES) {
		memcpy(&length, received + 4, sizeof(length));
		if (length > CHUNK_BYTES)
			fail("a frame of %u bytes, at most %u are allowed", length, CHUNK_BYTES);
		if (received_bytes < HEADER_BYTES + length)
			return;
		obey(command, received[0], received + HEADER_BYTES, length);
		received_bytes -= HEADER_BYTES + length;
		memmove(received, received + HEADER_BYTES + length, received_bytes);
	}
}

/* Collect dead children, orphans included. True when the command is among them. */
static bool reap(const struct command *command, int *status)
{
	bool ended = false;
	int child_status;
	pid_t pid;

	while ((pid = waitpid(-1, &child_status, WNOHANG)) > 0) {
		if (pid == command->pid) {
			*status = child_status;
			ended = true;
		}
	}
	return ended;
}

static int run_command(struct command *command, int child_events)
{
	int status = 0;
	bool ended = false;

	while (!ended) {
		struct pollfd wait[] = {
			/* No more is taken from the host than the command has room for. */
			{ .fd = input_bytes <= sizeof(input) - CHUNK_BYTES ? port : -1, .events = POLLIN },
			{ .fd = child_events, .events = POLLIN },
			{ .fd = command->out, .events = POLLIN | (command->in >= 0 && input_bytes ? POLLOUT : 0) },
			{ .fd = command->err, .events = POLLIN },
		};

		if (poll(wait, 4, ALIVE_PERIOD_MS) == 0)
			send_frame(FRAME_ALIVE, "", 0);
		if (wait[0].revents)
			receive(command);
		if (wait[2].revents & (POLLIN | POLLHUP) && !forward(command->out, FRAME_STDOUT)) {
			command->in = command->terminal ? -1 : command->in;
			close_fd(&command->out);
		}
		if (wait[2].revents & POLLOUT)
			give_input(command);
		if (wait[3].revents && !forward(command->err, FRAME_STDERR))
			close_fd(&command->err);
		if (wait[1].revents) {
			struct signalfd_siginfo info;

			if (read(child_events, &info, sizeof(info)) > 0)
				ended = reap(command, &status);
		}
	}
	/* What it wrote before it ended is in the pipes. */
	if (command->out >= 0)
		forward(command->out, FRAME_STDOUT);
	if (command->err >= 0)
		forward(command->err, FRAME_STDERR);
	return status;
}

int main(void)
{
	struct utsname name;
	sigset_t child;
	struct job job;
	struct command command;
	int child_events, status;
	struct pollfd closed = { .events = POLLIN };

	mount_system();
	set_up_kernel();
	open_port();
	uname(&name);
	send_frame(FRAME_READY, name.release, strlen(name.release));
	job = receive_job();
	if (!job.argument_count)
		fail("the job has no command");
	mount_scratch(&job);
	mount_results(&job);

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	child_events = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (child_events < 0)
		fail("signalfd: %s", strerror(errno));
	command = start_command(&job);
	status = run_command(&command, child_events);
	finish_results(&job);
	send_frame(FRAME_EXIT, &status, sizeof(status));

	/* The host stops the machine when it has the status; it also may have gone. */
	closed.fd = port;
	poll(&closed, 1, 5000);
	power_off();
}
