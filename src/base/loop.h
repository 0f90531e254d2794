/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process's one event loop: a thread that waits in epoll for timers, eventfds and last closes. It is
 * started by loop_start and, in a forked child that makes a VM, started again. Its thread blocks every
 * signal. Callbacks run on it with no lock of the loop held and must not block for long.
 */
#ifndef USERKVM_BASE_LOOP_H
#define USERKVM_BASE_LOOP_H

#include "base/util.h"

struct loop_timer {
	void (*fn)(void *arg);
	void *arg;
	uint64_t deadline_ns;	 /* CLOCK_MONOTONIC; 0 = not armed */
	unsigned heap_index;	 /* 1-based; 0 = not queued */
	bool running;		 /* fn is being called on the loop */
};

struct loop_fd {
	int fd;
	uint32_t events;
	void (*fn)(void *arg, uint32_t events);
	void *arg;
	bool running;
	bool added;
};

/* Starts the loop if this process has none. -errno of epoll, timerfd or thread creation. Idempotent. */
int loop_start(void);
/* True on the loop's own thread. */
bool loop_is_self(void);

void loop_timer_init(struct loop_timer *t, void (*fn)(void *arg), void *arg);
/* (Re)arms t for an absolute CLOCK_MONOTONIC time; a time in the past fires at once. Any thread. */
void loop_timer_set(struct loop_timer *t, uint64_t deadline_ns);
/* Disarms t; on return fn is not running, unless called from fn itself. */
void loop_timer_cancel(struct loop_timer *t);

/* Watches f->fd (f is filled by the caller and stays until loop_fd_del). -errno of epoll_ctl. */
int loop_fd_add(struct loop_fd *f);
/* Stops watching; on return fn is not running and will not run, unless called from fn itself. */
void loop_fd_del(struct loop_fd *f);
/* Queues fn(arg) once on the loop, soon. -ENOMEM. */
int loop_call(void (*fn)(void *arg), void *arg);

#endif
