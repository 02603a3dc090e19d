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
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

static int kmsg = -1;
static int port = -1;

static void power_off(void)
{
	sync();
	/* The lab's QEMU ends when the machine resets, so that no ACPI is needed. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

/* A line in the kernel's log; the host looks there for lines that begin with "lab:". */
static void log_line(const char *format, ...)
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

static void write_all(int fd, const void *data, size_t size)
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

static void send_frame(uint8_t type, const void *payload, uint32_t length)
{
	static char frame[HEADER_BYTES + CHUNK_BYTES];

	memset(frame, 0, HEADER_BYTES);
	frame[0] = type;
	memcpy(frame + 4, &length, sizeof(length));
	memcpy(frame + HEADER_BYTES, payload, length);
	write_all(port, frame, HEADER_BYTES + length);
}

/* Tell the host why the job cannot run, then stop. */
static void fail(const char *format, ...)
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

static void mount_system(void)
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

static void set_up_kernel(void)
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
static void open_port(void)
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
static void read_all(void *data, size_t size)
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

struct job {
	uint32_t flags;
	uint32_t keep_count, argument_count, environment_count;
	char *directory, *results;
	char **keep, **arguments, **environment;
};

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

static struct job receive_job(void)
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

/* Fresh tmpfs over what programs write to; directories of the host below it that the job needs stay visible. */
static void mount_scratch(const struct job *job)
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

static void mount_results(const struct job *job)
{
	if (!(job->flags & JOB_RESULTS))
		return;
	make_directories(job->results);
	/* cache=mmap: nothing is held back, and shared mappings work. */
	if (mount("results", job->results, "9p", MS_NOSUID | MS_NODEV,
		  "trans=virtio,version=9p2000.L,msize=512000,cache=mmap"))
		fail("cannot mount the results directory on %s: %s", job->results, strerror(errno));
}

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

static void finish_results(const struct job *job)
{
	kill(-1, SIGKILL);
	sync();
	if (!(job->flags & JOB_RESULTS))
		return;
	if (chdir("/") || umount2(job->results, 0))
		/* A process that is still dying holds it: its data has been synced above. */
		umount2(job->results, MNT_DETACH);
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
