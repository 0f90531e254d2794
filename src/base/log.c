/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One line, one write(2): see log.h. */
#include "base/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/sys.h"

#define LINE_MAX_LEN 1024

static _Atomic int log_level = -2; /* -2 = environment not read yet, -1 = silent */
static _Atomic int log_fd = 2;
static _Atomic unsigned bugs, expected_bugs;

/* Parses a level name; *rest is what follows it. -1 = no level. */
static int parse_level(const char *s, const char **rest)
{
	static const char *const names[] = {
	    [LOG_ERROR] = "error", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"};

	for (int i = 0; i < (int)ARRAY_SIZE(names); i++) {
		size_t n = strlen(names[i]);

		if (!strncmp(s, names[i], n) && (s[n] == 0 || s[n] == ':')) {
			*rest = s + n;
			return i;
		}
	}
	return -1;
}

/* Reads USERKVM_LOG. Two threads may do it at once; both come to the same result. */
static int read_environment(void)
{
	const char *s = getenv("USERKVM_LOG"), *rest = "";
	int level = s ? parse_level(s, &rest) : -1;

	if (level >= 0 && rest[0] == ':' && rest[1]) {
		long fd =
		    sys_call(SYS_openat, AT_FDCWD, rest + 1, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

		if (fd >= 0)
			atomic_store(&log_fd, sys_fd_claim((int)fd));
	}
	atomic_store(&log_level, level);
	return level;
}

int base_log_on(enum log_level level)
{
	int have = atomic_load_explicit(&log_level, memory_order_relaxed);

	if (unlikely(have == -2))
		have = read_environment();
	return (int)level <= have;
}

void base_log(enum log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_LEN];
	int saved = errno, n, m;
	va_list ap;

	if (!base_log_on(level))
		return;
	n = snprintf(line, sizeof(line), "userkvm[%ld]: ", sys_call(SYS_gettid));
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (m > 0)
		n = MIN(n + m, (int)sizeof(line) - 2);
	line[n++] = '\n';
	sys_call(SYS_write, atomic_load(&log_fd), line, n);
	errno = saved;
}

void base_bug_at(const char *file, int line, const char *what)
{
	unsigned n = atomic_load(&expected_bugs);

	atomic_fetch_add(&bugs, 1);
	while (n) {
		if (atomic_compare_exchange_weak(&expected_bugs, &n, n - 1))
			return;
	}
	base_log(LOG_ERROR, "bug: %s:%d: %s", file, line, what);
}

unsigned base_bug_count(void)
{
	return atomic_load(&bugs);
}

void base_bug_expect(unsigned n)
{
	atomic_store(&expected_bugs, n);
}
