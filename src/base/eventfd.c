/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* References to the VMM's eventfds: duplicate, identify, signal, drain. */
#include "base/eventfd.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define HIGH_FD 512 /* above what a VMM's own small numbers and select(2) loops use */

/* Duplicates fd close-on-exec, at a high number where the limit permits. */
static int dup_high(int fd)
{
	int r = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);

	if (r < 0 && (errno == EINVAL || errno == EMFILE))
		r = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return r < 0 ? -errno : r;
}

/* Reads what /proc tells about our duplicate: is it an eventfd, and which one. -EINVAL if it is none. */
static int identify(struct base_eventfd *e)
{
	char path[48], text[512];
	const char *id;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", e->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -EINVAL;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
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
	int r = dup_high(fd);

	e->fd = -1;
	if (r < 0)
		return r;
	*e = (struct base_eventfd){.fd = r, .nonblock = fcntl(r, F_GETFL) & O_NONBLOCK};
	r = identify(e);
	if (r < 0)
		base_eventfd_put(e);
	return r;
}

void base_eventfd_put(struct base_eventfd *e)
{
	if (e->fd >= 0)
		close(e->fd);
	e->fd = -1;
}

bool base_eventfd_same(const struct base_eventfd *a, const struct base_eventfd *b)
{
	pid_t self = getpid();

	if (a->has_id && b->has_id)
		return a->id == b->id;
	return syscall(SYS_kcmp, self, self, KCMP_FILE, a->fd, b->fd) == 0;
}

/* True if the fd is ready for `events` now. */
static bool ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, 0) == 1 && (p.revents & events);
}

void base_eventfd_signal(const struct base_eventfd *e)
{
	const uint64_t one = 1;
	int saved = errno;

	/* A blocking eventfd waits when its counter is full; its flags are the VMM's, so ask first. */
	if (e->nonblock || ready(e->fd, POLLOUT)) {
		while (write(e->fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
	}
	errno = saved;
}

uint64_t base_eventfd_drain(const struct base_eventfd *e)
{
	uint64_t n = 0;
	struct iovec iov = {&n, sizeof(n)};
	int saved = errno;
	ssize_t r;

	r = preadv2(e->fd, &iov, 1, -1, RWF_NOWAIT);
	if (r < 0 && (errno == EOPNOTSUPP || errno == ENOSYS) && (e->nonblock || ready(e->fd, POLLIN)))
		r = read(e->fd, &n, sizeof(n));
	errno = saved;
	return r == sizeof(n) ? n : 0;
}
