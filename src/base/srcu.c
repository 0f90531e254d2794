/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sleepable RCU: see srcu.h.
 *
 * A reader adds 1 to lock[p] of its stripe on the way in and 1 to unlock[p] on the way out, p being the
 * phase it saw. The readers of phase p are gone when the sum of unlock[p], read first, equals the sum of
 * lock[p], read after: an unlock seen implies its lock seen. A grace period first waits for the phase that
 * is not current (stragglers that read the phase long ago and counted themselves in late), flips, and
 * waits for the other: every reader that began before is in one of the two.
 *
 * Barriers: A is the reader's locked add on the way in, which pairs with B, the fence between the updater's
 * publication and the first sum. Either the reader sees the publication, or B's sums see the reader. C is
 * the reader's locked add on the way out; it pairs with D, the fence after the last sum: what the reader
 * did is before what the updater does next. E: the reader adds to unlock, then reads `waiting`; the
 * updater sets `waiting`, then sums: one of them sees the other, so no wake-up is lost.
 */
#include "base/srcu.h"

#include "base/lock_raw.h"
#include "base/log.h"
#include "base/sys.h"

#define SPIN_ROUNDS 2000    /* about 10 us: most read sections are a bus look-up */
#define LATER_NS    2000000 /* deferred callbacks are run by the loop after this, batched */

#ifdef USERKVM_CHECKED
#define note_read(s)   lockdep_acquire((enum lock_role)(s)->role, s, LOCKDEP_SRCU)
#define note_unread(s) lockdep_release((enum lock_role)(s)->role, s)
#define note_wait(s)   lockdep_sync((enum lock_role)(s)->role, s)
#else
#define note_read(s)   ((void)0)
#define note_unread(s) ((void)0)
#define note_wait(s)   true
#endif

/* -- Readers -- */

/* This thread's stripe; threads are spread in order of their first use. */
static unsigned my_stripe(void)
{
	static _Atomic unsigned next;
	static __thread __attribute__((tls_model("initial-exec"))) unsigned mine;

	if (unlikely(!mine))
		mine = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % SRCU_STRIPES + 1;
	return mine - 1;
}

int srcu_read_lock(struct srcu *s)
{
	unsigned p = atomic_load_explicit(&s->phase, memory_order_relaxed) & 1;

	note_read(s);
	atomic_fetch_add(&s->stripes[my_stripe()].lock[p], 1); /* A */
	return (int)p;
}

void srcu_read_unlock(struct srcu *s, int idx)
{
	note_unread(s);
	atomic_fetch_add(&s->stripes[my_stripe()].unlock[idx & 1], 1); /* C, E */
	if (unlikely(atomic_load(&s->waiting)) && atomic_exchange(&s->waiting, 0))
		sys_futex_wake(&s->waiting, 1);
}

bool srcu_read_held(const struct srcu *s)
{
#ifdef USERKVM_CHECKED
	return lockdep_holds((enum lock_role)s->role, s);
#else
	return true;
#endif
}

/* -- Grace periods -- */

/* True if no reader of phase p is left. */
static bool phase_empty(const struct srcu *s, unsigned p)
{
	uint64_t in = 0, out = 0;

	for (unsigned i = 0; i < SRCU_STRIPES; i++)
		out += atomic_load(&s->stripes[i].unlock[p]);
	for (unsigned i = 0; i < SRCU_STRIPES; i++)
		in += atomic_load(&s->stripes[i].lock[p]);
	return in == out;
}

/* Waits until phase p is empty: spins a little, then sleeps until readers leave. Needs gp. */
static void wait_phase(struct srcu *s, unsigned p)
{
	for (int i = 0; i < SPIN_ROUNDS; i += SRCU_STRIPES) {
		if (phase_empty(s, p))
			return;
		__builtin_ia32_pause();
	}
	for (;;) {
		atomic_store(&s->waiting, 1); /* E */
		if (phase_empty(s, p))
			break;
		sys_futex_wait(&s->waiting, 1, 0);
	}
	atomic_store(&s->waiting, 0);
}

/* One grace period. Needs gp. */
static void grace_period(struct srcu *s)
{
	uint64_t n = atomic_load(&s->started) + 1;
	unsigned p = atomic_load(&s->phase) & 1;

	atomic_store(&s->started, n);
	base_fence(); /* B */
	wait_phase(s, p ^ 1);
	atomic_fetch_add(&s->phase, 1);
	wait_phase(s, p);
	base_fence(); /* D */
	atomic_store(&s->completed, n);
}

/* Returns when a grace period that began after the call has ended; several callers share one. */
static void wait_grace_period(struct srcu *s)
{
	uint64_t want;

	base_fence();
	want = atomic_load(&s->started) + 1;
	raw_lock(&s->gp);
	if (atomic_load(&s->completed) < want)
		grace_period(s);
	raw_unlock(&s->gp);
}

/* -- Deferred callbacks -- */

/* Takes the first callback off the list if its grace period has ended. */
static struct srcu_head *take_due(struct srcu *s)
{
	struct srcu_head *h;

	spin_lock(&s->cb_lock);
	h = s->cb_first;
	if (h && h->seq <= atomic_load(&s->completed)) {
		s->cb_first = h->next;
		if (!s->cb_first)
			s->cb_last = &s->cb_first;
		s->cb_count--;
	} else {
		h = NULL;
	}
	spin_unlock(&s->cb_lock);
	return h;
}

/* Runs what is due. Needs running. */
static void run_due_locked(struct srcu *s)
{
	struct srcu_head *h;

	while ((h = take_due(s)))
		h->func(h);
}

/* Runs what is due, unless somebody is at it (a callback of s included). */
static void run_due(struct srcu *s)
{
	if (!raw_trylock(&s->running))
		return;
	run_due_locked(s);
	raw_unlock(&s->running);
}

/* On the loop: ends the wait of callbacks that nobody else came to run. */
static void run_later(void *arg)
{
	struct srcu *s = arg;

	wait_grace_period(s);
	run_due(s);
}

void srcu_synchronize(struct srcu *s)
{
	if (!note_wait(s))
		return;
	wait_grace_period(s);
	run_due(s);
}

void srcu_call(struct srcu *s, struct srcu_head *head, void (*func)(struct srcu_head *head))
{
	bool full, first;

	(void)note_wait(s);
	atomic_thread_fence(
	    memory_order_seq_cst); /* the caller's unpublication is before `started` is read */
	*head = (struct srcu_head){.func = func, .seq = atomic_load(&s->started) + 1};
	spin_lock(&s->cb_lock);
	first = !s->cb_first;
	*s->cb_last = head;
	s->cb_last = &head->next;
	full = ++s->cb_count > SRCU_BACKLOG;
	spin_unlock(&s->cb_lock);
	if (full)
		srcu_synchronize(s);
	else if (first)
		loop_timer_set(&s->later, base_now_ns() + LATER_NS);
	else
		run_due(s);
}

void srcu_barrier(struct srcu *s)
{
	if (!note_wait(s))
		return;
	wait_grace_period(s);
	raw_lock(&s->running);
	run_due_locked(s);
	raw_unlock(&s->running);
}

/* -- Life -- */

int srcu_init(struct srcu *s, enum lock_role role)
{
	*s = (struct srcu){.role = role};
	s->stripes =
	    base_zalloc_aligned(sizeof(struct srcu_stripe), sizeof(struct srcu_stripe) * SRCU_STRIPES);
	if (!s->stripes)
		return -ENOMEM;
	s->cb_last = &s->cb_first;
	spin_init(&s->cb_lock, LOCK_SRCU_CB);
	loop_timer_init(&s->later, run_later, s);
	return 0;
}

void srcu_cleanup(struct srcu *s)
{
	loop_timer_cancel(&s->later);
	base_bug_on(s->cb_count);
	base_bug_on(!phase_empty(s, 0) || !phase_empty(s, 1));
	base_free(s->stripes);
	s->stripes = NULL;
}
