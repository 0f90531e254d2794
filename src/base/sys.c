/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Futexes and the library's own descriptors, without libc's wrappers. */
#include "base/sys.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <time.h>

#define FD_FLOOR 512
#define FD_LIMIT 65536

static _Atomic uint64_t fd_map[FD_LIMIT / 64]; /* bit set: a descriptor of the library */

int sys_futex_wait(_Atomic uint32_t *word, uint32_t val, uint64_t timeout_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(timeout_ns / 1000000000),
			      .tv_nsec = (long)(timeout_ns % 1000000000)};

	return (int)sys_call(SYS_futex, word, FUTEX_WAIT_PRIVATE, val, timeout_ns ? &ts : NULL, 0, 0);
}

void sys_futex_wake(_Atomic uint32_t *word, int n)
{
	sys_call(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, 0, 0, 0);
}

int sys_fd_claim(int fd)
{
	long high;

	if (fd < 0)
		return fd;
	high = fd < FD_FLOOR ? sys_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, FD_FLOOR) : -1;
	if (high >= 0) {
		sys_call(SYS_close, fd);
		fd = (int)high;
	} else {
		sys_call(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
	}
	if (fd < FD_LIMIT)
		atomic_fetch_or(&fd_map[fd / 64], BIT(fd % 64));
	return fd;
}

void sys_fd_close(int fd)
{
	if (fd < 0)
		return;
	if (fd < FD_LIMIT)
		atomic_fetch_and(&fd_map[fd / 64], ~BIT(fd % 64));
	sys_call(SYS_close, fd);
}

bool sys_fd_is_ours(int fd)
{
	return fd >= 0 && fd < FD_LIMIT && (atomic_load(&fd_map[fd / 64]) & BIT(fd % 64));
}
