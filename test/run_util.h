/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A vCPU on a thread of its own. EAGAIN repeats the run, and EINTR unless ru_stop asked for it; an exit goes
 * to `on_exit`, which says whether to go on (NULL: the first exit ends the thread). ABI only; see kvm_util.h.
 *
 *	struct ru r = {.cpu = &cpu};
 *	ru_start(&r);
 *	ru_join(&r);		-> 0: an exit, in cpu.run; otherwise KVM_RUN's errno
 */
#ifndef TEST_RUN_UTIL_H
#define TEST_RUN_UTIL_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "kvm_util.h"

struct ru {
	struct ku_vcpu *cpu;
	bool (*on_exit)(struct ru *r);
	void *arg;
	int error;
	_Atomic bool stop;
	_Atomic unsigned exits; /* on_exit was called so often */
	pthread_t thread;
};

static inline void ru_signal(int sig)
{
	(void)sig;
}

static inline void *ru_main(void *arg)
{
	struct ru *r = arg;

	for (;;) {
		r->error = ku_errno(r->cpu->fd, KVM_RUN, 0);
		if (r->error == EAGAIN || (r->error == EINTR && !atomic_load(&r->stop)))
			continue; /* EAGAIN: it was not started before */
		if (r->error || !r->on_exit)
			return NULL;
		atomic_fetch_add(&r->exits, 1);
		if (!r->on_exit(r))
			return NULL;
	}
}

/* Starts the thread; SIGUSR1 is what stops it. */
static inline void ru_start(struct ru *r)
{
	struct sigaction act = {.sa_handler = ru_signal};

	KU_CHECK(sigaction(SIGUSR1, &act, NULL) == 0);
	r->error = -1;
	atomic_store(&r->stop, false);
	r->cpu->run->immediate_exit = 0;
	KU_CHECK(pthread_create(&r->thread, NULL, ru_main, r) == 0);
}

static inline int ru_join(struct ru *r)
{
	KU_CHECK(pthread_join(r->thread, NULL) == 0);
	r->cpu->run->immediate_exit = 0;
	return r->error;
}

/* Interrupts the run and waits for the thread. */
static inline int ru_stop(struct ru *r)
{
	atomic_store(&r->stop, true);
	*(volatile uint8_t *)&r->cpu->run->immediate_exit = 1;
	KU_CHECK(pthread_kill(r->thread, SIGUSR1) == 0);
	return ru_join(r);
}

static inline uint64_t ru_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
static inline uint64_t ru_ms(void)
{
	return ru_ns() / 1000000;
}

/* Waits until the condition holds: 20 seconds at most, then the test program fails. */
#define RU_UNTIL(cond)                                            \
	do {                                                      \
		for (uint64_t end_ = ru_ms() + 20000; !(cond);) { \
			KU_CHECK(ru_ms() < end_ && #cond);        \
			usleep(100);                              \
		}                                                 \
	} while (0)

#endif
