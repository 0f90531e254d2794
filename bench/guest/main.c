/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guest [ROW...]	runs the rows; DIV=n in the environment (or on the guest kernel's command line): 1/n of the work
 * guest tsc		the frequency of this machine's TSC in kHz
 * SYMBOLS=1	(guest) the kernel's symbols to port 0xe9
 * Each row prints "ROW group name seconds checksum"; CLOCK lines carry this side's CLOCK_MONOTONIC.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "guest.h"

#define WORK 1000

static const struct {
	const char *group, *name;
	uint64_t (*run)(unsigned work);
} rows[] = {
    {"compute", "sha", row_sha},
    {"compute", "chacha", row_chacha},
    {"compute", "qsort", row_qsort},
    {"compute", "sieve", row_sieve},
    {"compute", "bytecode", row_bytecode},
#ifdef WITH_ZLIB
    {"compute", "deflate", row_deflate},
#endif
    {"vector", "nbody", row_nbody},
    {"vector", "matmul", row_matmul},
    {"vector", "chase", row_chase},
    {"vector", "memcpy", row_memcpy},
    {"vector", "aes", row_aes},
    {"os", "syscall", row_syscall},
    {"os", "pipe", row_pipe},
    {"os", "fork", row_fork},
    {"os", "fault", row_fault},
    {"os", "signal", row_signal},
};

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool wanted(const char *name, int argc, char **argv)
{
	for (int k = 1; k < argc; k++)
		if (!strcmp(argv[k], name))
			return true;
	return argc < 2;
}

/* SYMBOLS=1: the guest kernel's, to a QEMU with -debugcon file:F; with nokaslr they are USERKVM_SYMBOLS. */
static void print_symbols(void)
{
	static char buf[4096];
	FILE *f;

	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	f = fopen("/proc/kallsyms", "r");
	if (!f || ioperm(0xe9, 1, 1))
		return;
	for (size_t n; (n = fread(buf, 1, sizeof(buf), f)) > 0;)
		outsb(0xe9, buf, n);
	fclose(f);
}

static int print_tsc(void)
{
	double t0 = now(CLOCK_MONOTONIC_RAW), t;
	uint64_t c0 = __rdtsc();

	usleep(300000);
	t = now(CLOCK_MONOTONIC_RAW) - t0;
	printf("%.0f\n", (double)(__rdtsc() - c0) / t / 1000);
	return 0;
}

int main(int argc, char **argv)
{
	const char *div = getenv("DIV"), *only = getenv("ROWS");
	unsigned work = WORK / (div && atoi(div) > 0 ? (unsigned)atoi(div) : 1);
	bool init = getpid() == 1;
	char names[256], *list[32] = {argv[0]}, *p = names;

	if (argc == 2 && !strcmp(argv[1], "tsc"))
		return print_tsc();
	if (init)
		argc = 1; /* what the kernel did not know */
	if (only && *only) {
		snprintf(names, sizeof(names), "%s", only);
		for (argc = 1; argc < 32 && (list[argc] = strsep(&p, ",")); argc++)
			;
		argv = list;
	}
	if (init && getenv("SYMBOLS"))
		print_symbols();
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("\nINIT\nCLOCK %.6f\n", now(CLOCK_MONOTONIC));
	for (unsigned k = 0; k < ARRAY_SIZE(rows); k++) {
		double t;
		uint64_t sum;

		if (!wanted(rows[k].name, argc, argv))
			continue;
		fflush(stdout);
		t = now(CLOCK_MONOTONIC);
		sum = rows[k].run(work);
		t = now(CLOCK_MONOTONIC) - t;
		printf("ROW %s %s %.6f %016lx\n", rows[k].group, rows[k].name, t, (unsigned long)sum);
	}
	printf("CLOCK %.6f\nDONE\n", now(CLOCK_MONOTONIC));
	if (init) {
		sync();
		usleep(50000);
		reboot(RB_AUTOBOOT);
	}
	return 0;
}
