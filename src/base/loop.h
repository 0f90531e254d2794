/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process's one event loop: a thread that waits in epoll for timers, eventfds and last closes. It is
 * started by loop_start and, in a forked child that makes a VM, started again: the child's loop knows none
 * of its parent's timers and descriptors. Its thread blocks every signal that can be blocked without
 * killing a window (faults stay open). Callbacks run on it with no lock of the loop held, must not block for
 * long, and may free the object they were called for.
 */
#ifndef USERKVM_BASE_LOOP_H
#define USERKVM_BASE_LOOP_H

#include "base/util.h"

/* Filled by loop_timer_init; the fields are the loop's. Needs no allocation, so that arming cannot fail. */
struct loop_timer {
	void (*fn)(void *arg);
	void *arg;
	uint64_t deadline_ns;			/* CLOCK_MONOTONIC; 0 = not armed */
	struct loop_timer *child, *next, *prev; /* pairing heap */
	uint32_t life;				/* queued if this is the loop's current life (see loop.c) */
};

struct loop_fd {
	int fd;
	uint32_t events; /* EPOLL* */
	void (*fn)(void *arg, uint32_t events);
	void *arg;
	uint32_t life; /* the loop's; 0 = not watched */
};

/* Starts the loop if this process has none. -errno of epoll, timerfd or thread creation. Idempotent. */
int loop_start(void);
/* In a forked child that pthread_atfork does not know of (a raw clone), before it uses the loop: forgets the
 * parent's. Harmless beside pthread_atfork's. */
void loop_forked(void);
/* True on the loop's own thread. */
bool loop_is_self(void);

void loop_timer_init(struct loop_timer *t, void (*fn)(void *arg), void *arg);
/* True if t is armed and has not fired. */
bool loop_timer_armed(const struct loop_timer *t);
/* (Re)arms t for an absolute CLOCK_MONOTONIC time; a time in the past fires at once. Any thread. */
void loop_timer_set(struct loop_timer *t, uint64_t deadline_ns);
/* Disarms t; on return fn is not running, unless called from the loop's thread. */
void loop_timer_cancel(struct loop_timer *t);

/* Watches f->fd (fd, events, fn, arg filled by the caller; f stays until loop_fd_del). Starts the loop if
 * there is none. -errno of epoll_ctl or loop_start. */
int loop_fd_add(struct loop_fd *f);
/* Stops watching, before f->fd is closed; on return fn is not running and will not run, unless called from
 * the loop's thread. Does nothing to an f that is not watched. */
void loop_fd_del(struct loop_fd *f);
/* Queues fn(arg) once on the loop, soon; kept until there is a loop. -ENOMEM. */
int loop_call(void (*fn)(void *arg), void *arg);

#endif
