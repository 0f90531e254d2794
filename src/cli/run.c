/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* userkvm run: LD_PRELOAD, after a look at whether the command can be preloaded at all. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"

#define LIBRARY	   "libuserkvm.so"
#define MAX_SCRIPT 4 /* interpreters of interpreters, as the kernel */

/* -- Our library -- */

/* The library beside this program, or in ../lib; into path. */
static bool find_library(char path[PATH_MAX])
{
	static const char *const places[] = {"", "../lib/", "../lib/x86_64-linux-gnu/"};
	char self[PATH_MAX], try[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n < 0)
		return false;
	self[n] = 0;
	slash = strrchr(self, '/');
	if (!slash)
		return false;
	slash[1] = 0;
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(try, sizeof(try), "%s%s%s", self, places[i], LIBRARY);
		if (realpath(try, path))
			return true;
	}
	return false;
}

/* A sanitizer's runtime must come first in LD_PRELOAD: the one that this program itself was linked with. */
static bool find_runtime(char path[PATH_MAX])
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	char line[PATH_MAX + 128];
	FILE *maps = fopen("/proc/self/maps", "r");
	bool found = false;

	while (maps && !found && fgets(line, sizeof(line), maps)) {
		char *name = strchr(line, '/');

		if (!name || (!strstr(name, "/libasan.so") && !strstr(name, "/libtsan.so")))
			continue;
		name[strcspn(name, "\n")] = 0;
		snprintf(path, PATH_MAX, "%s", name);
		found = true;
	}
	if (maps)
		fclose(maps);
	return found;
#else
	path[0] = 0;
	return false;
#endif
}

/* Puts ours before what is preloaded already. */
static int set_preload(void)
{
	const char *old = getenv("LD_PRELOAD");
	char lib[PATH_MAX], runtime[PATH_MAX], *value;
	bool first;
	int r;

	if (!find_library(lib))
		return cli_fail(EXIT_NOT_EXEC, "%s is neither beside the userkvm program nor in ../lib",
				LIBRARY);
	if (strpbrk(lib, ": "))
		return cli_fail(EXIT_NOT_EXEC, "%s: LD_PRELOAD cannot name a path with a colon or a space",
				lib);
	first = find_runtime(runtime);
	if (asprintf(&value, "%s%s%s%s%s", first ? runtime : "", first ? ":" : "", lib,
		     old && *old ? ":" : "", old ? old : "") < 0)
		return cli_fail(EXIT_NOT_EXEC, "out of memory");
	r = setenv("LD_PRELOAD", value, 1);
	free(value);
	return r ? cli_fail(EXIT_NOT_EXEC, "out of memory") : 0;
}

/* -- The command -- */

/* The file that execvp would run; errno if there is none. */
static bool find_command(const char *name, char path[PATH_MAX])
{
	const char *dirs = getenv("PATH");
	int why = ENOENT;

	if (strchr(name, '/')) {
		snprintf(path, PATH_MAX, "%s", name);
		return access(path, X_OK) == 0;
	}
	for (dirs = dirs ? dirs : "/bin:/usr/bin"; *name; dirs++) {
		size_t n = strcspn(dirs, ":");
		struct stat st;

		snprintf(path, PATH_MAX, "%.*s%s%s", (int)n, dirs, n ? "/" : "", name);
		if (!stat(path, &st) && S_ISREG(st.st_mode)) {
			if (!access(path, X_OK))
				return true;
			why = EACCES;
		}
		dirs += n;
		if (!*dirs)
			break;
	}
	errno = why;
	return false;
}

/* Why an ELF file cannot be preloaded; NULL if it can. */
static const char *elf_refusal(int fd, const Elf64_Ehdr *e)
{
	Elf64_Phdr p;

	if (e->e_ident[EI_CLASS] != ELFCLASS64 || e->e_machine != EM_X86_64)
		return "is not a 64-bit x86 program";
	for (unsigned i = 0; i < e->e_phnum; i++) {
		if (pread(fd, &p, sizeof(p), (off_t)(e->e_phoff + i * sizeof(p))) != sizeof(p))
			return "has a damaged ELF header";
		if (p.p_type == PT_INTERP)
			return NULL;
	}
	return "is statically linked: it has no dynamic loader that could preload userkvm";
}

/* Replaces path by its "#!" interpreter, if that is what the head says. */
static bool is_script(const char *head, char path[PATH_MAX])
{
	const char *p = head + 2;

	if (head[0] != '#' || head[1] != '!')
		return false;
	p += strspn(p, " \t");
	snprintf(path, PATH_MAX, "%.*s", (int)strcspn(p, " \t\r\n"), p);
	return true;
}

/* Refuses what would run without us; 0 if the command can be preloaded or the kernel shall say why not. */
static int check_command(const char *command)
{
	union {
		Elf64_Ehdr elf;
		char text[256];
	} head;
	char path[PATH_MAX];
	const char *why = NULL;
	struct stat st;

	snprintf(path, sizeof(path), "%s", command);
	for (int depth = 0; depth < MAX_SCRIPT; depth++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		bool again = false;

		if (fd < 0)
			return 0;
		memset(&head, 0, sizeof(head));
		if (pread(fd, &head, sizeof(head) - 1, 0) > 0) {
			if (!memcmp(head.elf.e_ident, ELFMAG, SELFMAG))
				why = elf_refusal(fd, &head.elf);
			else
				again = is_script(head.text, path);
		}
		if (!why && !again && !fstat(fd, &st) &&
		    ((st.st_mode & S_ISUID && st.st_uid != geteuid()) ||
		     (st.st_mode & S_ISGID && st.st_gid != getegid())))
			why = "is set-user-ID or set-group-ID: the dynamic loader ignores LD_PRELOAD for it";
		close(fd);
		if (!again)
			break;
	}
	return why ? cli_fail(EXIT_NOT_EXEC, "%s %s", path, why) : 0;
}

/* Runs argv[first...], preloaded. */
static int run_from(int argc, char **argv, int first)
{
	char path[PATH_MAX];
	int r;

	if (first < argc && !strcmp(argv[first], "--"))
		first++;
	else if (first < argc && argv[first][0] == '-')
		return cli_fail(EXIT_USAGE, "%s: unknown option '%s' (put -- before COMMAND)", argv[0],
				argv[first]);
	if (first >= argc)
		return cli_fail(EXIT_USAGE,
				"%s: no COMMAND; try: userkvm %s qemu-system-x86_64 -accel kvm ...", argv[0],
				argv[0]);
	if (!find_command(argv[first], path)) {
		r = errno == EACCES ? EXIT_NOT_EXEC : EXIT_NOT_FOUND;
		return cli_fail(r, "%s: %s", argv[first],
				r == EXIT_NOT_EXEC ? "not executable" : "command not found");
	}
	r = check_command(path);
	if (!r)
		r = set_preload();
	if (r)
		return r;
#ifdef __SANITIZE_THREAD__
	/* A child of ours may make VMs, and so a thread: ThreadSanitizer would kill it. */
	setenv("TSAN_OPTIONS", "die_after_fork=0", 0);
#endif
	execv(path, argv + first);
	if (errno == ENOEXEC) /* a script without "#!": the shell's, as in execvp(3) */
		execvp(path, argv + first);
	return cli_fail(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXEC, "%s: %s", path, strerror(errno));
}

int cmd_run(int argc, char **argv)
{
	int first = 1;

	if (first < argc && !strcmp(argv[first], "--perf")) {
		setenv("USERKVM_PERF", "1", 1);
		first++;
	}
	return run_from(argc, argv, first);
}

/* A relative FILE is relative to here, wherever COMMAND goes. */
static int set_output(const char *file)
{
	char here[PATH_MAX], path[PATH_MAX * 2];

	if (file[0] != '/' && !getcwd(here, sizeof(here)))
		return cli_fail(EXIT_NOT_EXEC, "stat: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s%s%s", file[0] == '/' ? "" : here, file[0] == '/' ? "" : "/", file);
	setenv("USERKVM_STATS", path, 1);
	return 0;
}

int cmd_stat(int argc, char **argv)
{
	int first = 1, r;

	setenv("USERKVM_STATS", "1", 1);
	if (first < argc && !strcmp(argv[first], "-o")) {
		if (first + 1 >= argc)
			return cli_fail(EXIT_USAGE, "stat: -o needs a FILE");
		r = set_output(argv[first + 1]);
		if (r)
			return r;
		first += 2;
	}
	return run_from(argc, argv, first);
}
