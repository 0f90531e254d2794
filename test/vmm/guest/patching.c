/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * /init of vmm/patching: a kernel patches its own text again and again while other processes execute it. SECONDS=n on the
 * kernel's command line; the modules to load are in /modules. Whatever can be counted is: a probe's hits, a tracer's
 * lines, what a packet filter lets through. Ends with "patching: done", or says what was wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define T	"/sys/kernel/tracing/"
#define CALLS	1000
#define TRACED	200
#define LOADERS 3

static struct {
	_Atomic unsigned long rounds[LOADERS], wrong;
} * shared;

static void quit(void)
{
	fflush(stdout);
	sync();
	usleep(100000);
	reboot(RB_AUTOBOOT);
}

__attribute__((format(printf, 1, 2))) static void wrong(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	printf("patching: WRONG: ");
	vprintf(format, list);
	printf("\n");
	va_end(list);
	quit();
}

/* False: errno says why. */
static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static void set(const char *path, const char *text)
{
	if (!put(path, text))
		wrong("%s > %s: %s", text, path, strerror(errno));
}

/* To the other CPU: what was patched on one is executed on the other. */
static void move(void)
{
	static unsigned cpu;
	cpu_set_t set;

	cpu ^= 1;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		wrong("CPU %u: %s", cpu, strerror(errno));
}

/* The function that is traced and probed. */
static void call(unsigned times)
{
	for (unsigned k = 0; k < times; k++)
		personality(0xffffffff);
}

/* Both CPUs know it well as it is now. */
static void warm(void)
{
	for (unsigned cpu = 0; cpu < 2; cpu++) {
		move();
		call(100);
	}
}

static unsigned lines_with(const char *path, const char *word)
{
	char line[512];
	unsigned n = 0;
	FILE *f = fopen(path, "r");

	if (!f)
		wrong("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), f))
		n += strstr(line, word) != NULL;
	fclose(f);
	return n;
}

/* -- The others: they execute what is patched -- */

static uint64_t churn(uint64_t x, uint8_t *page)
{
	for (unsigned k = 0; k < 4096; k += 64) {
		page[k] = (uint8_t)(x >> 56);
		x = (x ^ page[k]) * 0x100000001b3 + (x >> 29);
	}
	return x;
}

/* Pages, system calls, and bytes to itself through a pipe; every round has the same sum. */
static void load(unsigned n)
{
	uint64_t first = 0;
	int p[2];

	if (pipe(p))
		shared->wrong++;
	for (unsigned long round = 0;; round++) {
		uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		uint64_t sum = n + 7, back = 0;

		for (unsigned k = 0; k < 20; k++) {
			sum = churn(sum, page);
			if (write(p[1], &sum, 8) != 8 || read(p[0], &back, 8) != 8 || back != sum ||
			    getppid() != 1)
				shared->wrong++;
			if (k % 8 == n)
				sched_yield();
		}
		if (!round)
			first = sum;
		shared->wrong += sum != first || munmap(page, 4096);
		shared->rounds[n]++;
		if (round % 64 == n) {
			pid_t child = fork();

			if (!child)
				_exit(3);
			syscall(SYS_wait4, child, NULL, 0, NULL);
		}
	}
}

/* -- What patches -- */

static void static_keys(void)
{
	static const char *const keys[] = {"/proc/sys/kernel/sched_schedstats",
					   "/proc/sys/kernel/task_delayacct", T "events/sched/enable",
					   T "events/raw_syscalls/enable", T "events/kmem/enable"};

	for (unsigned k = 0; k < sizeof(keys) / sizeof(*keys); k++) {
		set(keys[k], "1");
		usleep(1000);
		set(keys[k], "0");
	}
}

/* All functions, a graph of all, and one whose calls are counted. */
static void tracers(void)
{
	unsigned n;

	set(T "set_ftrace_filter", "\n");
	set(T "current_tracer", "function");
	usleep(2000);
	set(T "current_tracer", "function_graph");
	usleep(2000);
	set(T "current_tracer", "nop");
	warm();
	set(T "set_ftrace_filter", "__x64_sys_personality\n");
	set(T "current_tracer", "function");
	set(T "trace", "\n");
	move();
	call(TRACED);
	n = lines_with(T "trace", "__x64_sys_personality <-");
	if (n != TRACED)
		wrong("the function tracer has %u of %u calls", n, TRACED);
	set(T "current_tracer", "nop");
}

static void hits_of(const char *name, unsigned long want)
{
	char line[256], probe[64];
	unsigned long hits = 0, missed = 0;
	FILE *f = fopen(T "kprobe_profile", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " %63s %lu %lu", probe, &hits, &missed) == 3 && !strcmp(probe, name))
			break;
	if (!f || hits + missed != want || missed)
		wrong("%s was hit %lu times and missed %lu of %lu", name, hits, missed, want);
	fclose(f);
}

/* At a function's entry, where there is a call, and behind it: by INT3, and by a jump once it is optimised. */
static void probes(void)
{
	char text[96];

	set(T "kprobe_events", "p:entry __x64_sys_personality\n");
	for (unsigned off = 5;; off++) {
		int fd = open(T "kprobe_events", O_WRONLY | O_APPEND);
		bool ok;

		snprintf(text, sizeof(text), "p:inside __x64_sys_personality+%u\n", off);
		ok = write(fd, text, strlen(text)) > 0;
		close(fd);
		if (ok)
			break;
		if (off == 20)
			wrong("no place for a probe: %s", strerror(errno));
	}
	warm();
	set(T "events/kprobes/enable", "1");
	move();
	call(CALLS / 2);
	usleep(200000);
	call(CALLS / 2);
	set(T "events/kprobes/enable", "0");
	move();
	call(CALLS);
	hits_of("entry", CALLS);
	hits_of("inside", CALLS);
	set(T "kprobe_events", "\n");
}

/* A filter that computes how much of a packet passes: translated by the kernel to code of its own. */
static void filters(uint32_t seed)
{
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),	BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, seed | 1),
	    BPF_STMT(BPF_ALU | BPF_XOR | BPF_K, ~seed), BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 61),
	    BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 4),	BPF_STMT(BPF_RET | BPF_A, 0),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
	uint8_t packet[80] = {0}, got[80];
	int s[2];

	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, s) ||
	    setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)))
		wrong("a packet filter: %s", strerror(errno));
	move();
	for (uint32_t k = 0; k < 16; k++) {
		uint32_t word = seed * 77 + k, want = ((word * (seed | 1)) ^ ~seed) % 61 + 4;
		ssize_t n;

		for (unsigned b = 0; b < 4; b++)
			packet[b] = (uint8_t)(word >> (24 - 8 * b));
		if (send(s[0], packet, sizeof(packet), 0) != sizeof(packet))
			wrong("send: %s", strerror(errno));
		n = recv(s[1], got, sizeof(got), MSG_DONTWAIT);
		if (n != (ssize_t)want)
			wrong("the filter of seed %x let %zd bytes pass, not %u", seed, n, want);
	}
	close(s[0]);
	close(s[1]);
}

static void modules(void)
{
	int fd = open("/modules/dummy.ko", O_RDONLY);

	if (fd < 0 || syscall(SYS_finit_module, fd, "numdummies=1", 0))
		wrong("dummy.ko: %s", strerror(errno));
	close(fd);
	if (access("/sys/class/net/dummy0", F_OK))
		wrong("the module made no device");
	move();
	if (syscall(SYS_delete_module, "dummy", O_NONBLOCK))
		wrong("delete_module: %s", strerror(errno));
	if (!access("/sys/class/net/dummy0", F_OK))
		wrong("the module left its device");
}

/* What the kernel says if its text is not what it thinks. */
static unsigned complaints(void)
{
	static const char *const words[] = {
	    "BUG:",  "Oops",	  "WARNING: CPU", "invalid opcode", "general protection",
	    "int3:", "rcu: INFO", "ftrace bug",	  "soft lockup"};
	char line[2048];
	unsigned n = 0;
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	ssize_t len;

	while ((len = read(fd, line, sizeof(line) - 1)) > 0) {
		line[len] = 0;
		for (unsigned k = 0; k < sizeof(words) / sizeof(*words); k++)
			if (strstr(line, words[k])) {
				printf("patching: the kernel says %s\n", line);
				n++;
				break;
			}
	}
	close(fd);
	return n;
}

static void mounts(void)
{
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	if (mount("trace", T, "tracefs", 0, NULL) && errno != EBUSY)
		wrong("tracefs: %s", strerror(errno));
}

int main(void)
{
	const char *seconds = getenv("SECONDS");
	time_t end = time(NULL) + (seconds ? atoi(seconds) : 10);
	unsigned rounds = 0;

	mounts();
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (unsigned n = 0; n < LOADERS; n++)
		if (!fork())
			load(n);
	set("/proc/sys/net/core/bpf_jit_enable", "1");
	do {
		static_keys();
		tracers();
		probes();
		for (unsigned k = 0; k < 50; k++)
			filters(rounds * 2654435761U + k);
		modules();
		rounds++;
	} while (time(NULL) < end);
	for (unsigned n = 0; n < LOADERS; n++)
		if (!shared->rounds[n])
			wrong("load %u did nothing", n);
	if (shared->wrong)
		wrong("%lu results of those who ran it", shared->wrong);
	if (complaints())
		quit();
	printf("patching: %u rounds, %lu beside them, %ld cpus\npatching: done\n", rounds,
	       shared->rounds[0] + shared->rounds[1] + shared->rounds[2], sysconf(_SC_NPROCESSORS_ONLN));
	quit();
}
