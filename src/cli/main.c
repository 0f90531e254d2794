/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The userkvm command: which subcommand. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "userkvm.h"

static const char usage[] = "usage: userkvm run [--perf] [--] COMMAND [ARG...]\n"
			    "       userkvm stat [-o FILE] [--] COMMAND [ARG...]\n"
			    "       userkvm doctor\n"
			    "       userkvm --version | --help\n";

static const char help[] =
    "\n"
    "run      Runs COMMAND, and every process it starts, with /dev/kvm served by libuserkvm:\n"
    "             userkvm run qemu-system-x86_64 -accel kvm ...\n"
    "         --perf: /tmp/perf-PID.map, by which `perf report` names translated guest code.\n"
    "stat     The same; at the end, one line of counters per vCPU on standard error, or appended to FILE.\n"
    "doctor   Says what of this host userkvm can use and what a VMM would get.\n"
    "\n"
    "Environment:\n"
    "  USERKVM_LOG=error|info|debug[:FILE]   one line per event, to FILE or standard error; silent if unset\n"
    "  USERKVM_STATS=1|FILE                  as `userkvm stat`\n"
    "  USERKVM_PERF=1                        as `userkvm run --perf`\n"
    "  USERKVM_SYMBOLS=FILE                  a System.map of the guest's kernel, for its names in the perf "
    "map\n"
    "\n"
    "Exit status of run: COMMAND's; 2 for wrong usage, 126 if COMMAND cannot be run this way, 127 if it is\n"
    "not found. See userkvm(1).\n";

int cli_fail(int status, const char *fmt, ...)
{
	va_list ap;

	fputs("userkvm: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return status;
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : NULL;

	if (!cmd) {
		fputs(usage, stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(cmd, "run"))
		return cmd_run(argc - 1, argv + 1);
	if (!strcmp(cmd, "stat"))
		return cmd_stat(argc - 1, argv + 1);
	if (!strcmp(cmd, "doctor"))
		return cmd_doctor(argc - 1, argv + 1);
	if (!strcmp(cmd, "--version") || !strcmp(cmd, "version")) {
		printf("userkvm %s\n", userkvm_version());
		return 0;
	}
	if (!strcmp(cmd, "--help") || !strcmp(cmd, "-h") || !strcmp(cmd, "help")) {
		fputs(usage, stdout);
		fputs(help, stdout);
		return 0;
	}
	cli_fail(EXIT_USAGE, "unknown command '%s'", cmd);
	fputs(usage, stderr);
	return EXIT_USAGE;
}
