/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* References to the VMM's eventfds: duplicate, identify, signal, drain. */
#include "base/eventfd.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/lock.h"
#include "base/mutate.h"
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

/* -- Is it an eventfd -- */

enum verdict { NO, YES, ASK };

/* Reads what /proc tells about the fd. True if it is an eventfd; *id is then its identity, or -1. */
static bool ask_proc(int fd, int64_t *id)
{
	char path[48], text[512];
	const char *at;
	long n, info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = sys_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (info < 0)
		return false;
	n = sys_call(SYS_read, info, text, sizeof(text) - 1);
	sys_call(SYS_close, info);
	text[n > 0 ? n : 0] = 0;
	at = strstr(text, "eventfd-id:");
	*id = at ? strtoll(at + strlen("eventfd-id:"), NULL, 10) : -1;
	return strstr(text, "eventfd-count:");
}

/* What fstat tells of an eventfd of ours: the device of the anonymous inodes, which have no file type. Asked
 * once; 0 if there was no fd left to ask with. */
static uint64_t anon_dev(void)
{
	static _Atomic uint64_t known; /* st_dev + 1 */
	uint64_t dev = atomic_load_explicit(&known, memory_order_relaxed);
	struct stat st;
	long fd;

	if (dev)
		return dev;
	fd = sys_call(SYS_eventfd2, 0, EFD_CLOEXEC);
	if (fd < 0)
		return 0;
	if (!sys_call(SYS_fstat, fd, &st) && !(st.st_mode & S_IFMT))
		dev = st.st_dev + 1;
	sys_call(SYS_close, fd);
	atomic_store_explicit(&known, dev, memory_order_relaxed);
	return dev;
}

/*
 * The quick proof, a fifth of the cost of /proc. Among the files without an inode of their own an eventfd is
 * the only one that polls as writable (POLLOUT) but never as POLLWRNORM: what has no poll at all gives every
 * event, io_uring, bpf rings and seccomp listeners give both, timerfd, signalfd, epoll, inotify, fanotify,
 * userfaultfd and perf neither. A full eventfd is not writable: /proc has to be asked.
 */
static enum verdict prove(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM};
	uint64_t dev = anon_dev();
	struct stat st;

	if (!dev || sys_call(SYS_fstat, fd, &st))
		return ASK;
	if ((st.st_mode & S_IFMT) || st.st_dev + 1 != dev)
		return NO;
	if (sys_call(SYS_poll, &p, 1, 0) != 1)
		return NO; /* neither readable nor full nor writable: a quiet timer or the like */
	if (p.revents & (POLLRDNORM | POLLWRNORM))
		return NO;
	return p.revents & POLLOUT ? YES : ASK;
}

int base_eventfd_peek(struct base_eventfd *e, int fd)
{
	long flags = sys_call(SYS_fcntl, fd, F_GETFL, 0);
	enum verdict is;
	int64_t id;

	*e = (struct base_eventfd){.fd = fd, .nonblock = flags & O_NONBLOCK};
	if (flags < 0 || (flags & O_PATH))
		return -EBADF;
	is = prove(fd);
	if (is == ASK) {
		is = ask_proc(fd, &id) ? YES : NO;
		e->has_id = is == YES && id >= 0;
		e->id = id;
	}
	return is == YES ? 0 : -EINVAL;
}

int base_eventfd_get(struct base_eventfd *e, int fd)
{
	int own = dup_own(fd), r;

	e->fd = -1;
	if (own < 0)
		return own;
	r = base_eventfd_peek(e, own);
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

/* -- Which one -- */

void base_eventfd_learn(struct base_eventfd *e)
{
	if (!e->has_id)
		e->has_id = ask_proc(e->fd, &e->id) && e->id >= 0;
}

bool base_eventfd_same(const struct base_eventfd *a, const struct base_eventfd *b)
{
	struct base_eventfd x = *a, y = *b;
	long self, r;

	if (a->has_id && b->has_id)
		return a->id == b->id;
	self = sys_call(SYS_getpid);
	r = sys_call(SYS_kcmp, self, self, KCMP_FILE, a->fd, b->fd);
	if (r >= 0)
		return r == 0;
	base_eventfd_learn(&x); /* a kernel or a filter without kcmp */
	base_eventfd_learn(&y);
	return x.has_id && y.has_id && x.id == y.id;
}

/* -- Use -- */

/* True if the fd is ready for `events` now. */
static bool ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return sys_call(SYS_poll, &p, 1, 0) == 1 && (p.revents & events);
}

void base_eventfd_signal(const struct base_eventfd *e)
{
	const uint64_t one = 1;

	if (mutated(MUTATE_EVENTFD_WAITS) && !e->nonblock)
		lock_assert_may_fault("a full eventfd");
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
