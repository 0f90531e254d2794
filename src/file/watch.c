/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Last closes, as inotify reports them: one descriptor for all files, read by whoever closes something and
 * by the event loop. An event says that *some* description of the inode was closed; whether it was the
 * VMM's is confirmed: no fd of ours shows the inode any more, and the lock that its description holds is
 * gone (asked through /proc/self/map_files where the host lets us).
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/inotify.h>

#include "base/loop.h"
#include "base/sys.h"
#include "file/internal.h"

#define DOUBT_MS 1 /* a description's lock goes a moment after its close event */
#define DOUBTS	 8

static struct {
	_Atomic int fd;
	_Atomic bool draining; /* an event may have been taken and not yet acted on */
	struct loop_fd loop;
	struct loop_timer again;
	bool no_probe; /* the host does not let us open map_files */
} watch = {.fd = -1};

/* An event, or time to look again. What a thread unmaps it releases itself, before its munmap returns. */
static void on_event(void *arg, uint32_t events)
{
	struct file_list dead = {NULL};

	files_lock();
	if (files_unmapping())
		loop_timer_set(&watch.again, base_now_ns() + DOUBT_MS * 1000000ULL);
	else
		watch_drain(&dead);
	files_unlock();
	files_release(&dead);
}

/* The description's reference goes; fd_lock. */
static void drop(struct file *f, struct file_list *dead)
{
	f->gone = true;
	table_forget(f);
	if (!ref_put(&f->refs))
		return;
	f->next = dead->first;
	dead->first = f;
}

enum probe { PROBE_ALIVE, PROBE_GONE, PROBE_UNKNOWN };

/* Asks the kernel whether the lock that install put on the VMM's description is still held. */
static enum probe probe_lock(struct file *f)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char path[80];
	long fd, r;

	if (watch.no_probe)
		return PROBE_UNKNOWN;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)f->map,
		 (unsigned long)(f->map + MAX(f->size, PAGE_SIZE)));
	fd = sys_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0) {
		watch.no_probe = fd == -EPERM || fd == -EACCES;
		return PROBE_UNKNOWN;
	}
	r = sys_call(SYS_fcntl, fd, F_OFD_GETLK, &lock);
	sys_call(SYS_close, fd);
	if (r < 0)
		return PROBE_UNKNOWN;
	return lock.l_type == F_UNLCK ? PROBE_GONE : PROBE_ALIVE;
}

/* A close of f's inode was reported; fd_lock. */
static void closed(struct file *f, struct file_list *dead)
{
	if (f->gone || table_scrub(f))
		return;
	if (probe_lock(f) != PROBE_ALIVE) {
		drop(f, dead);
		return;
	}
	/* Either a stranger's open of the same inode was closed, or its lock is about to go: ask again. */
	if (f->doubts < DOUBTS) {
		f->doubts++;
		loop_timer_set(&watch.again, base_now_ns() + (DOUBT_MS * 1000000ULL << f->doubts));
	}
}

static void recheck(struct file *f, void *arg)
{
	if (f->doubts && !f->gone)
		closed(f, arg);
}

/* After a lost event: only what can be asked is believed. */
static void recheck_lost(struct file *f, void *arg)
{
	if (!f->gone && !table_scrub(f) && probe_lock(f) == PROBE_GONE)
		drop(f, arg);
}

static void on_again(void *arg)
{
	struct file_list dead = {NULL};

	files_lock();
	file_for_each(recheck, &dead);
	files_unlock();
	files_release(&dead);
	on_event(NULL, 0);
}

bool watch_pending(void)
{
	struct pollfd p = {.fd = atomic_load(&watch.fd), .events = POLLIN};

	if (p.fd < 0)
		return false;
	/* In this order: an event that poll does not see was taken by a drain that still shows, or is over. */
	return sys_call(SYS_poll, &p, 1, 0) || atomic_load(&watch.draining);
}

static void take_events(struct file_list *dead)
{
	_Alignas(struct inotify_event) char buf[4096];
	long n;

	while ((n = sys_call(SYS_read, watch.fd, buf, sizeof(buf))) > 0) {
		const struct inotify_event *e;

		for (long pos = 0; pos < n; pos += (long)(sizeof(*e) + e->len)) {
			struct file *f;

			e = (const struct inotify_event *)(buf + pos);
			if (e->mask & IN_Q_OVERFLOW)
				file_for_each(recheck_lost, dead);
			f = e->mask & IN_CLOSE ? file_by_wd(e->wd) : NULL;
			if (!f)
				continue;
			f->doubts = 0;
			closed(f, dead);
		}
	}
}

void watch_drain(struct file_list *dead)
{
	if (watch.fd < 0)
		return;
	atomic_store(&watch.draining, true);
	take_events(dead);
	atomic_store(&watch.draining, false);
}

int watch_start(void)
{
	int r;

	if (watch.fd >= 0)
		return 0;
	r = (int)sys_call(SYS_inotify_init1, IN_CLOEXEC | IN_NONBLOCK);
	if (r < 0)
		return r;
	watch.fd = sys_fd_claim(r);
	loop_timer_init(&watch.again, on_again, NULL);
	watch.loop = (struct loop_fd){.fd = watch.fd, .events = EPOLLIN | EPOLLET, .fn = on_event};
	r = loop_fd_add(&watch.loop);
	if (r) {
		sys_fd_close(watch.fd);
		watch.fd = -1;
	}
	return r;
}

void watch_forked(void)
{
	/* The description is the parent's: reading it here would steal the parent's events. */
	sys_fd_close(watch.fd);
	watch.fd = -1;
	watch.draining = false; /* by a thread that the child has not */
	watch.no_probe = false;
}

int watch_add(const char *path, int access)
{
	uint32_t mask = (access & O_ACCMODE) == O_RDONLY ? IN_CLOSE_NOWRITE : IN_CLOSE_WRITE;
	long r = sys_call(SYS_inotify_add_watch, watch.fd, path, mask);

	return r == -ENOSPC ? -ENOMEM : (int)r;
}

void watch_del(int wd)
{
	sys_call(SYS_inotify_rm_watch, watch.fd, wd);
}
