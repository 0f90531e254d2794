/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* References to the VMM's eventfds: duplicate, identify, signal, drain. */
#include "base/eventfd.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "base/sys.h"

#define HIGH_FD 512 /* where sys_fd_claim would move it anyway */

/* Duplicates fd as one of the library's own. */
static int dup_own(int fd)
{
	long r = sys_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, HIGH_FD);

	if (r == -EINVAL || r == -EMFILE)
		r = sys_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	return sys_fd_claim((int)r);
}

/* Reads what /proc tells about our duplicate: is it an eventfd, and which one. -EINVAL if it is none. */
static int identify(struct base_eventfd *e)
{
	char path[48], text[512];
	const char *id;
	long n, fd;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", e->fd);
	fd = sys_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return -EINVAL;
	n = sys_call(SYS_read, fd, text, sizeof(text) - 1);
	sys_call(SYS_close, fd);
	if (n <= 0)
		return -EINVAL;
	text[n] = 0;
	if (!strstr(text, "eventfd-count:"))
		return -EINVAL;
	id = strstr(text, "eventfd-id:");
	e->has_id = id != NULL;
	e->id = id ? strtoll(id + strlen("eventfd-id:"), NULL, 10) : 0;
	return 0;
}

int base_eventfd_get(struct base_eventfd *e, int fd)
{
	int r = dup_own(fd);

	e->fd = -1;
	if (r < 0)
		return r;
	*e = (struct base_eventfd){.fd = r, .nonblock = sys_call(SYS_fcntl, r, F_GETFL, 0) & O_NONBLOCK};
	r = identify(e);
	if (r < 0)
		base_eventfd_put(e);
	return r;
}

void base_eventfd_put(struct base_eventfd *e)
{
	if (e->fd >= 0)
		sys_fd_close(e->fd);
	e->fd = -1;
}

bool base_eventfd_same(const struct base_eventfd *a, const struct base_eventfd *b)
{
	long self;

	if (a->has_id && b->has_id)
		return a->id == b->id;
	self = sys_call(SYS_getpid);
	return sys_call(SYS_kcmp, self, self, KCMP_FILE, a->fd, b->fd) == 0;
}

/* True if the fd is ready for `events` now. */
static bool ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return sys_call(SYS_poll, &p, 1, 0) == 1 && (p.revents & events);
}

void base_eventfd_signal(const struct base_eventfd *e)
{
	const uint64_t one = 1;

	/* A blocking eventfd waits when its counter is full; its flags are the VMM's, so ask first. */
	if (e->nonblock || ready(e->fd, POLLOUT)) {
		while (sys_call(SYS_write, e->fd, &one, sizeof(one)) == -EINTR)
			;
	}
}

uint64_t base_eventfd_drain(const struct base_eventfd *e)
{
	uint64_t n = 0;
	struct iovec iov = {&n, sizeof(n)};
	long r = sys_call(SYS_preadv2, e->fd, &iov, 1, -1, -1, RWF_NOWAIT);

	if ((r == -EOPNOTSUPP || r == -ENOSYS) && (e->nonblock || ready(e->fd, POLLIN)))
		r = sys_call(SYS_read, e->fd, &n, sizeof(n));
	return r == sizeof(n) ? n : 0;
}
