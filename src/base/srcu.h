/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sleepable RCU, one domain per VM and purpose, with no timer tick anywhere: readers pay one locked
 * add (a full fence) on a per-thread-hashed counter, grace periods poll the counters.
 *
 *              | read_lock | call | synchronize | barrier
 *   read_lock  |     X     |  X   |      X      |    X        X = may run concurrently
 *   call       |     X     |  X   |      X      |    X        - = needs the caller's exclusion
 *   synchronize|     X     |  X   |      X      |    X
 *   cleanup    |     -     |  -   |      -      |    -
 */
#ifndef USERKVM_BASE_SRCU_H
#define USERKVM_BASE_SRCU_H

#include "base/lock.h"
#include "base/loop.h"

#define SRCU_STRIPES 32
#define SRCU_BACKLOG 64 /* deferred callbacks of a domain at most, before srcu_call waits */

struct srcu_stripe {
	_Atomic uint64_t lock[2];   /* sections entered, per phase */
	_Atomic uint64_t unlock[2]; /* sections left, per phase */
	char pad[32];
};

struct srcu_head {
	struct srcu_head *next;
	void (*func)(struct srcu_head *head);
	uint64_t seq; /* the grace period after whose end func may run */
};

struct srcu {
	_Atomic uint32_t phase;	    /* bit 0: which counters new readers use */
	_Atomic uint32_t waiting;   /* a grace period sleeps until a reader leaves; futex */
	_Atomic uint64_t started;   /* grace periods begun; changed under gp */
	_Atomic uint64_t completed; /* grace periods ended; changed under gp */
	uint32_t role;
	_Atomic uint32_t gp; /* raw lock: one grace period at a time; the checker sees it as the domain */
	enum { SRCU_IDLE, SRCU_STRAGGLERS, SRCU_READERS } step; /* of the grace period `started`; under gp */
	_Atomic uint32_t cb_running;				/* threads that run callbacks now; futex */
	_Atomic uint32_t barriers;				/* threads that wait for cb_running == 0 */
	struct spinlock cb_lock;				/* guards the list below */
	struct srcu_head *cb_first, **cb_last;
	unsigned cb_count;
	struct loop_timer later; /* runs due callbacks if nobody else comes by */
	struct srcu_stripe *stripes;
};

/* -ENOMEM, or 0. */
int srcu_init(struct srcu *s, enum lock_role role);
/* No reader, no pending callback (srcu_barrier first); reports otherwise. */
void srcu_cleanup(struct srcu *s);

/* Enters a read section; recursive; returns the index for srcu_read_unlock. Includes a full fence after. */
int srcu_read_lock(struct srcu *s);
void srcu_read_unlock(struct srcu *s, int idx);
/* Returns when every read section that was open at the call has ended. Runs due callbacks. May sleep. */
void srcu_synchronize(struct srcu *s);
/* Calls func(head) after a grace period: from this call if no reader is left now, else from some later call,
 * synchronize or barrier, or from the event loop. Does not wait, unless SRCU_BACKLOG callbacks are pending
 * already: then it synchronises; so it may not be called inside a read section of s. func must not wait for
 * s, and runs under the locks of whoever came by. */
void srcu_call(struct srcu *s, struct srcu_head *head, void (*func)(struct srcu_head *head));
/* Returns when every callback queued before the call has run. Not from a callback. */
void srcu_barrier(struct srcu *s);
/* True if this thread is in a read section of s (checked builds; true otherwise). */
bool srcu_read_held(const struct srcu *s);

/* Loads a published pointer inside a read section. */
#define srcu_dereference(p) atomic_load_explicit(&(p), memory_order_acquire)
/* Publishes a pointer to readers; pairs with srcu_dereference. */
#define srcu_assign(p, v) atomic_store_explicit(&(p), (v), memory_order_release)

#endif
