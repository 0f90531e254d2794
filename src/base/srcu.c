/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sleepable RCU: see srcu.h.
 *
 * A reader adds 1 to lock[p] of its stripe on the way in and 1 to unlock[p] on the way out, p being the
 * phase it saw. The readers of phase p are gone when the sum of unlock[p], read first, equals the sum of
 * lock[p], read after: an unlock seen implies its lock seen. A grace period first waits for the phase that
 * is not current (stragglers that read the phase long ago and counted themselves in late), flips, and
 * waits for the other: every reader that began before is in one of the two. srcu_call takes these steps as
 * far as it can without waiting; whoever comes next goes on from there.
 *
 * Barriers: A is the reader's locked add on the way in, which pairs with B, the fence between the updater's
 * publication and the first sum. Either the reader sees the publication, or B's sums see the reader. C is
 * the reader's locked add on the way out; it pairs with D, the fence after the last sum: what the reader
 * did is before what the updater does next. E: the reader adds to unlock, then reads `waiting`; the
 * updater sets `waiting`, then sums: one of them sees the other, so no wake-up is lost.
 */
#include "base/srcu.h"

#include <limits.h>

#include "base/lock_raw.h"
#include "base/log.h"
#include "base/sys.h"

#define SPIN_ROUNDS 2000    /* about 10 us: most read sections are a bus look-up */
#define LATER_NS    5000000 /* deferred callbacks are run by the loop after this, batched */

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

/* Waits for phase p, or looks once. True if it is empty. Needs gp. */
static bool leave_phase(struct srcu *s, unsigned p, bool wait)
{
	if (!wait)
		return phase_empty(s, p);
	wait_phase(s, p);
	return true;
}

/* Begins a grace period, or goes on with the one that somebody began and did not wait for. True if it has
 * ended. Needs gp. */
static bool grace_period(struct srcu *s, bool wait)
{
	unsigned p = atomic_load(&s->phase) & 1; /* changed under gp only */

	switch (s->step) {
	case SRCU_IDLE:
		atomic_fetch_add(&s->started, 1);
		base_fence(); /* B */
		s->step = SRCU_STRAGGLERS;
		/* fallthrough */
	case SRCU_STRAGGLERS:
		if (!leave_phase(s, p ^ 1, wait))
			return false;
		atomic_fetch_add(&s->phase, 1);
		s->step = SRCU_READERS;
		p ^= 1;
		/* fallthrough */
	case SRCU_READERS:
		if (!leave_phase(s, p ^ 1, wait))
			return false;
	}
	base_fence(); /* D */
	s->step = SRCU_IDLE;
	atomic_store(&s->completed, atomic_load(&s->started));
	return true;
}

/* Returns when a grace period that began after the call has ended; several callers share one. */
static void wait_grace_period(struct srcu *s)
{
	uint64_t want;

	base_fence();
	want = atomic_load(&s->started) + 1;
	raw_lock(&s->gp);
	while (atomic_load(&s->completed) < want)
		grace_period(s, true);
	raw_unlock(&s->gp);
}

/* As far towards the end of grace period `want` as is possible without waiting for anybody. */
static void try_grace_period(struct srcu *s, uint64_t want)
{
	if (!raw_trylock(&s->gp))
		return;
	while (atomic_load(&s->completed) < want && grace_period(s, false))
		;
	raw_unlock(&s->gp);
}

/* -- Deferred callbacks -- */

/* Takes the callbacks off the list whose grace period has ended; somebody is running them from now on. */
static struct srcu_head *take_due(struct srcu *s)
{
	struct srcu_head *first, **end;
	uint64_t done = atomic_load(&s->completed);

	spin_lock(&s->cb_lock);
	first = s->cb_first;
	for (end = &s->cb_first; *end && (*end)->seq <= done; end = &(*end)->next)
		s->cb_count--;
	if (end == &s->cb_first) {
		first = NULL;
	} else {
		s->cb_first = *end;
		if (!s->cb_first)
			s->cb_last = &s->cb_first;
		*end = NULL;
		atomic_fetch_add(&s->cb_running, 1);
	}
	spin_unlock(&s->cb_lock);
	return first;
}

/* Runs what is due; several threads may be at it, each with a part of its own. */
static void run_due(struct srcu *s)
{
	static __thread __attribute__((tls_model("initial-exec"))) bool running;
	struct srcu_head *h, *next;

	if (running) /* a callback called srcu_call: the loop below comes round to it */
		return;
	running = true;
	while ((h = take_due(s))) {
		for (; h; h = next) {
			next = h->next;
			h->func(h);
		}
		/* F: pairs with srcu_barrier's count, then look. */
		if (atomic_fetch_sub(&s->cb_running, 1) == 1 && atomic_load(&s->barriers))
			sys_futex_wake(&s->cb_running, INT_MAX);
	}
	running = false;
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
	if (!note_wait(s)) /* for itself: reported */
		return;
	wait_grace_period(s);
	run_due(s);
}

/* Appends and returns how many wait. */
static unsigned append(struct srcu *s, struct srcu_head *head)
{
	unsigned n;

	spin_lock(&s->cb_lock);
	*s->cb_last = head;
	s->cb_last = &head->next;
	n = ++s->cb_count;
	spin_unlock(&s->cb_lock);
	return n;
}

void srcu_call(struct srcu *s, struct srcu_head *head, void (*func)(struct srcu_head *head))
{
	uint64_t seq;
	bool left;

	(void)note_wait(s);
	base_fence(); /* the caller's unpublication is before `started` is read */
	seq = atomic_load(&s->started) + 1;
	*head = (struct srcu_head){.func = func, .seq = seq};
	if (append(s, head) > SRCU_BACKLOG)
		wait_grace_period(s);
	else
		try_grace_period(s, seq);
	run_due(s);
	spin_lock(&s->cb_lock);
	left = s->cb_first;
	spin_unlock(&s->cb_lock);
	/* Armed already: it fires after the append, and what it then waits for is `seq` or later. */
	if (left && !loop_timer_armed(&s->later))
		loop_timer_set(&s->later, base_now_ns() + LATER_NS);
}

void srcu_barrier(struct srcu *s)
{
	uint32_t n;

	if (!note_wait(s))
		return;
	wait_grace_period(s);
	run_due(s);
	atomic_fetch_add(&s->barriers, 1); /* F */
	while ((n = atomic_load(&s->cb_running)))
		sys_futex_wait(&s->cb_running, n, 0);
	atomic_fetch_sub(&s->barriers, 1);
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
