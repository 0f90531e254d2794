/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Logging, silent unless USERKVM_LOG asks: USERKVM_LOG=error|info|debug[:FILE], standard error without a
 * file. One line per call, one write(2) per line, errno preserved, no allocation.
 */
#ifndef USERKVM_BASE_LOG_H
#define USERKVM_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_INFO, LOG_DEBUG };

void base_log(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* True if a line of this level would be written: guards costly arguments. */
int base_log_on(enum log_level level);
/* A broken invariant of our own: logged as an error with file and line, counted, execution goes on. */
void base_bug_at(const char *file, int line, const char *what);
unsigned base_bug_count(void);
/* Test hook: the next n are provoked; they are counted, not logged. */
void base_bug_expect(unsigned n);

#define base_bug(what) base_bug_at(__FILE__, __LINE__, what)
#define base_bug_on(cond)                                       \
	do {                                                    \
		if (__builtin_expect(!!(cond), 0))              \
			base_bug_at(__FILE__, __LINE__, #cond); \
	} while (0)

#endif
